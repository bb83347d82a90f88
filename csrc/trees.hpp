// Minimum spanning trees of many small dense graphs: the tree of a sentence from a structural probe's distances.
//
// Prim's algorithm on a padded batch of distance matrices, O(n²) for a sentence. The tree is that of Kruskal's
// algorithm over all cells sorted by (distance, row, column). With an edge ordered by the lower of its two cells, this
// is a strict total order of the edges, under which there is exactly one minimum spanning tree. So ties are broken the
// same way by both algorithms, and matrices that are not quite symmetric after rounding are not a special case.
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

constexpr std::size_t kBlockSentences = 32;  // about 20 µs of work, as long as a thread takes to start

__extension__ typedef unsigned __int128 Bits128;

inline std::uint32_t order_key(float value) {
    value += 0.0F;  // turns -0.0 into 0.0, so that the two tie
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    constexpr std::uint32_t sign = std::uint32_t{1} << 31;
    return bits & sign ? ~bits : bits | sign;
}
using bertft::order_key;

// Finds the trees of one thread's sentences; its memory is kept between sentences.
template <class Value>
class Prim {
  public:
    explicit Prim(std::size_t width) : width_(width), outside_(width), best_(width) {}

    // Writes a parent for each of the `width` words, and returns whether there was a NaN.
    bool tree(const Value* distances, std::size_t length, const unsigned char* keep, std::int32_t* parents) {
        std::size_t left = 0;
        for (std::size_t word = 0; word < width_; ++word) {
            parents[word] = -1;
            if (word < length && keep[word]) outside_[left++] = static_cast<std::uint32_t>(word);
        }
        if (left == 0) return false;

        std::size_t joined = outside_[0];  // the first word is the root of the tree
        // A word is removed by moving the last one to its index. The order does not matter: only edges are compared.
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
    // The bits of a distance above the number of its cell: one integer with the order of (distance, row, column).
    using Key = std::conditional_t<sizeof(Value) == 4, std::uint64_t, Bits128>;

    static Key key(Value distance, std::size_t cell) {
        return Key{order_key(distance)} << 32 | static_cast<std::uint32_t>(cell);
    }

    std::size_t width_;
    std::vector<std::uint32_t> outside_;  // the words that are not in the tree yet
    std::vector<Key> best_;               // the lowest edge that joins each of them to it
};

}  // namespace trees_detail

// Writes to `parents` (batch, width) the parent of each kept word in the spanning tree of the kept words of its
// sentence, rooted in the first of them; -1 for the root and elsewhere. `distances` is (batch, width, width), `keep`
// (batch, width). The first lengths[sentence] words of a sentence count, and nothing beyond them is read. Infinities
// are distances like any other. Throws std::invalid_argument for a length above the width, and for a NaN between kept
// words, naming the sentence.
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
