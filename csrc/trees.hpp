// Minimum spanning trees of many small dense graphs: what the syntax distances of a structural probe say of a sentence.
//
// Prim's algorithm on a padded batch of distance matrices, O(n²) a sentence. The tree is the one that Kruskal finds
// when he sorts all cells by (distance, row, column): this is a strict total order of the edges, an edge being ordered
// by the lower of its two cells, and under a strict order there is one minimum spanning tree, whoever looks for it. So
// ties fall the same way, and matrices that rounding left not quite symmetric are no special case.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "lengths.hpp"
#include "parallel.hpp"
#include "ranks.hpp"

namespace bertft {

namespace trees_detail {

constexpr std::size_t kBlockSentences = 32;  // about 20 µs of work: a thread costs as much to start

__extension__ typedef unsigned __int128 Bits128;

inline std::uint32_t order_key(float value) {
    value += 0.0F;  // turns -0.0 into 0.0, so that the two tie
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    constexpr std::uint32_t sign = std::uint32_t{1} << 31;
    return bits & sign ? ~bits : bits | sign;
}
using bertft::order_key;

// Finds the trees of one thread's sentences; keeps its space from sentence to sentence.
template <class Value>
class Prim {
  public:
    explicit Prim(std::size_t width) : width_(width), outside_(width), best_(width) {}

    // Writes a parent for each of the `width` words, and returns whether a NaN was met.
    bool tree(const Value* distances, std::size_t length, const unsigned char* keep, std::int32_t* parents) {
        std::size_t left = 0;
        for (std::size_t word = 0; word < width_; ++word) {
            parents[word] = -1;
            if (word < length && keep[word]) outside_[left++] = static_cast<std::uint32_t>(word);
        }
        if (left == 0) return false;

        std::size_t joined = outside_[0];  // the first word is the root of the tree
        // Words leave by being overwritten by the last; which is where does not matter, edges alone are compared.
        outside_[0] = outside_[--left];
        for (std::size_t i = 0; i < left; ++i) best_[i] = ~Key{0};
        bool nan = false;
        while (left != 0) {
            const Value* row = distances + joined * width_;
            const Value* column = distances + joined;
            Key lowest = ~Key{0};
            std::size_t nearest = 0;
            for (std::size_t i = 0; i < left; ++i) {
                const std::size_t word = outside_[i];
                const Value there = row[word], back = column[word * width_];
                nan |= std::isunordered(there, back);
                const Key forth = key(there, joined * width_ + word), reverse = key(back, word * width_ + joined);
                const Key edge = forth < reverse ? forth : reverse;
                const Key best = best_[i] < edge ? best_[i] : edge;
                best_[i] = best;
                nearest = best < lowest ? i : nearest;
                lowest = best < lowest ? best : lowest;
            }
            joined = outside_[nearest];
            const std::size_t cell = static_cast<std::uint32_t>(lowest);
            const std::size_t from = cell / width_, to = cell % width_;
            parents[joined] = static_cast<std::int32_t>(from == joined ? to : from);
            outside_[nearest] = outside_[--left];
            best_[nearest] = best_[left];
        }
        return nan;
    }

  private:
    // The bits of a distance above the number of its cell: one integer that orders as (distance, row, column) does.
    using Key = std::conditional_t<sizeof(Value) == 4, std::uint64_t, Bits128>;

    static Key key(Value distance, std::size_t cell) {
        return Key{order_key(distance)} << 32 | static_cast<std::uint32_t>(cell);
    }

    std::size_t width_;
    std::vector<std::uint32_t> outside_;  // the words that are not yet in the tree
    std::vector<Key> best_;               // and the lowest edge that joins each to it
};

}  // namespace trees_detail

// Writes to `parents` (batch, width), for each kept word but the first, the word before it on the way from the first
// kept word in the spanning tree of the kept words; -1 everywhere else. `distances` is (batch, width, width), `keep`
// (batch, width); of each sentence the first lengths[sentence] words count, and nothing beyond them is read.
// Infinities are distances like any other. Throws std::invalid_argument at a NaN between kept words, naming the
// sentence, and at a length above the width.
template <class Value>
void spanning_trees(const Value* distances, std::size_t batch, std::size_t width, const std::int64_t* lengths,
                    const unsigned char* keep, std::int32_t* parents, std::size_t threads = 0) {
    using namespace trees_detail;
    if (width > std::size_t{1} << 16) {
        throw std::invalid_argument("spanning_trees: " + std::to_string(width) +
                                    " words a sentence; at most 65536 can be numbered");
    }
    check_lengths("spanning_trees", "sentence", lengths, batch, width);
    std::vector<unsigned char> has_nan(batch, 0);
    parallel_blocks(batch, kBlockSentences, threads, [&](std::size_t low, std::size_t high) {
        Prim<Value> prim(width);
        for (std::size_t i = low; i < high; ++i) {
            has_nan[i] = prim.tree(distances + i * width * width, static_cast<std::size_t>(lengths[i]),
                                   keep + i * width, parents + i * width);
        }
    });
    for (std::size_t i = 0; i < batch; ++i) {
        if (has_nan[i]) {
            throw std::invalid_argument("spanning_trees: sentence " + std::to_string(i) +
                                        " has a distance that is nan, which has no order; mend it, or leave its "
                                        "words out");
        }
    }
}

}  // namespace bertft
