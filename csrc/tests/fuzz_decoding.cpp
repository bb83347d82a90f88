// Compares arborescences with a search through all trees of few words. For longer sentences it checks that the answer
// is a tree with one root that no change of one arc improves. `make lint` runs it under the address and
// undefined-behaviour sanitizers. Prints the seed of a failing case and exits with status 1.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "../decoding.hpp"
#include "random_values.hpp"

namespace {

using fuzzing::Exact;
using fuzzing::Random;

constexpr std::size_t kSearched = 5;  // words up to which all trees are searched

// Whole numbers, so that sums are exact: few levels, few of them high, many arcs forbidden, or the root preferred.
template <class Value>
Value draw(Random& random, unsigned kind, std::size_t head) {
    const auto level = static_cast<Value>(random() % 8);
    switch (kind) {
        case 0:
            return level;
        case 1:
            return random() % 5 ? level : level + 100;
        case 2:
            return random() % 2 ? -std::numeric_limits<Value>::infinity() : level;
        default:
            return head == 0 ? level + 1000 : level - 4;
    }
}

bool is_tree(const std::vector<std::int32_t>& heads) {
    if (std::count(heads.begin(), heads.end(), 0) != (heads.empty() ? 0 : 1)) return false;
    for (std::size_t word = 1; word <= heads.size(); ++word) {
        std::size_t node = word, steps = 0;
        while (node != 0 && steps++ <= heads.size()) {
            const std::int32_t head = heads[node - 1];
            if (head < 0 || static_cast<std::size_t>(head) > heads.size()) return false;
            node = static_cast<std::size_t>(head);
        }
        if (node != 0) return false;
    }
    return true;
}

template <class Value>
double total(const Value* scores, std::size_t stride, const std::vector<std::int32_t>& heads) {
    double sum = 0;
    for (std::size_t word = 0; word < heads.size(); ++word) {
        sum += static_cast<double>(scores[word * stride + static_cast<std::size_t>(heads[word])]);
    }
    return sum;
}

constexpr double kNone = -std::numeric_limits<double>::infinity();

// The highest score of a tree: every choice of heads is tried.
template <class Value>
double highest(const Value* scores, std::size_t stride, std::size_t words) {
    double best = kNone;
    std::vector<std::int32_t> heads(words, 0);
    for (;;) {
        if (is_tree(heads)) best = std::max(best, total(scores, stride, heads));
        std::size_t word = 0;
        while (word < words && heads[word] == static_cast<std::int32_t>(words)) heads[word++] = 0;
        if (word == words) return best;
        ++heads[word];
    }
}

// The same or, where there are too many trees, the highest score among trees that differ by one arc.
template <class Value>
double to_beat(const Value* scores, std::size_t stride, std::vector<std::int32_t> heads) {
    if (heads.size() <= kSearched) return highest(scores, stride, heads.size());
    double best = kNone;
    for (auto& head : heads) {
        const std::int32_t found = head;
        for (head = 0; head <= static_cast<std::int32_t>(heads.size()); ++head) {
            if (is_tree(heads)) best = std::max(best, total(scores, stride, heads));
        }
        head = found;
    }
    return best;
}

template <class Value>
bool trees_are_best(std::uint64_t seed) {
    Random random(seed);
    const std::size_t batch = random() % 40, width = random() % (seed % 2 ? kSearched + 1 : 24);
    const std::size_t stride = width + 1;
    const auto kind = static_cast<unsigned>(random() % 4);
    Exact<Value> scores(batch * width * stride);
    Exact<std::int64_t> lengths(batch);
    Exact<std::int32_t> heads(batch * width);
    for (std::size_t b = 0; b < batch; ++b) {
        lengths[b] = static_cast<std::int64_t>(random() % (width + 1));
        const auto words = static_cast<std::size_t>(lengths[b]);
        for (std::size_t word = 1; word <= width; ++word) {
            for (std::size_t head = 0; head <= width; ++head) {
                const bool counts = word <= words && head <= words && word != head;
                // Cells that must not be read are NaN, which would be refused.
                scores[(b * width + word - 1) * stride + head] =
                    counts ? draw<Value>(random, kind, head) : std::numeric_limits<Value>::quiet_NaN();
            }
        }
    }
    // The first sentence without a tree is refused and named. Its words then get arcs, so that the check goes on.
    for (;;) {
        try {
            bertft::arborescences(scores.data.get(), batch, width, lengths.data.get(), heads.data.get(), random() % 4);
            break;
        } catch (const std::invalid_argument& refusal) {
            const std::string message = refusal.what(), start = "arborescences: sentence ";
            if (kind != 2 || message.find("no tree of one root") == std::string::npos) return false;
            const auto b = static_cast<std::size_t>(std::stoul(message.substr(start.size())));
            const auto words = static_cast<std::size_t>(lengths[b]);
            Value* first = &scores[b * width * stride];
            if (words <= kSearched && highest(first, stride, words) != kNone) return false;
            for (std::size_t word = 1; word <= words; ++word) first[(word - 1) * stride + word - 1] = 0;
        }
    }
    for (std::size_t b = 0; b < batch; ++b) {
        const std::int32_t* row = heads.data.get() + b * width;
        const auto words = static_cast<std::size_t>(lengths[b]);
        const std::vector<std::int32_t> found(row, row + words);
        if (std::any_of(row + words, row + width, [](std::int32_t head) { return head != -1; })) return false;
        if (!is_tree(found)) return false;
        const Value* first = scores.data.get() + b * width * stride;
        const double reached = total(first, stride, found);
        if (words != 0 && (reached == kNone || reached < to_beat(first, stride, found))) return false;
    }
    return true;
}

// A score that is not finite is refused wherever it counts, and the sentence, word and head are named.
template <class Value>
bool bad_scores_are_named(std::uint64_t seed) {
    using Limits = std::numeric_limits<Value>;
    Random random(seed);
    const std::size_t batch = 1 + random() % 40, width = 1 + random() % 9, stride = width + 1;
    Exact<Value> scores(batch * width * stride);
    Exact<std::int64_t> lengths(batch);
    Exact<std::int32_t> heads(batch * width);
    for (std::size_t i = 0; i < scores.size; ++i) scores[i] = static_cast<Value>(random() % 3);
    for (std::size_t b = 0; b < batch; ++b) lengths[b] = static_cast<std::int64_t>(width);
    const std::size_t sentence = random() % batch, word = 1 + random() % width;
    const std::size_t head = (word + 1 + random() % width) % stride;
    scores[(sentence * width + word - 1) * stride + head] = random() % 2 ? Limits::infinity() : -Limits::quiet_NaN();
    const std::string wanted = "sentence " + std::to_string(sentence) + " has a score, of word " +
                               std::to_string(word) + " under head " + std::to_string(head) + ",";
    try {
        bertft::arborescences(scores.data.get(), batch, width, lengths.data.get(), heads.data.get(), random() % 4);
    } catch (const std::invalid_argument& refusal) {
        return std::string(refusal.what()).find(wanted) != std::string::npos;
    }
    return false;
}

}  // namespace

int main() {
    constexpr std::uint64_t cases = 400;
    for (std::uint64_t seed = 0; seed < cases; ++seed) {
        const bool best = trees_are_best<float>(seed) && trees_are_best<double>(seed);
        if (!best || !bad_scores_are_named<float>(seed) || !bad_scores_are_named<double>(seed)) {
            std::fprintf(stderr, "arborescences: %s at seed %llu\n", best ? "a bad score passed" : "not the best tree",
                         static_cast<unsigned long long>(seed));
            return 1;
        }
    }
    std::printf("arborescences: %llu random cases are the best trees\n", static_cast<unsigned long long>(cases));
}
