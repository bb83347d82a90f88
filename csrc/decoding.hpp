// Maximum spanning arborescences of many small dense graphs: the best tree of a sentence from a parser's arc scores.
//
// The algorithm of Chu, Liu and Edmonds, O(n²) for a sentence. From each word a path is grown along best incoming arcs
// until it meets the root or a settled word. Where it meets itself, the cycle becomes one node. Exactly one word
// depends on the root. To get this, the weight of an arc is a pair, (-1, score) for an arc from the root and (0, score)
// for any other, and pairs are compared and subtracted component by component. Such pairs are an ordered group, which
// is all that the algorithm needs. So the tree has the fewest arcs from the root, and among those trees the highest
// score. To subtract a large number from the root's scores (Stanojević and Cohen 2021) has the same aim but loses
// digits. To try each root in turn takes n times as long.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "lengths.hpp"
#include "parallel.hpp"

namespace bertft {

namespace decoding_detail {

constexpr std::size_t kBlockSentences = 16;
constexpr double kLargest = 0x1p1000;  // so that sums of scores are finite
constexpr std::int32_t kForbidden = std::int32_t{1} << 30;
constexpr std::size_t kMostWords = std::size_t{1} << 16;

enum class Problem : unsigned char { none, bad_score, no_tree };

// What is wrong with a sentence; for a bad score also the word and the head.
struct Finding {
    Problem problem = Problem::none;
    std::size_t word = 0, head = 0;
};

// Finds the trees of one thread's sentences; its memory is kept between sentences.
//
// Nodes are 0, the root, and 1, …, n, the words, as in CoNLL-U; further nodes are cycles. A node that is not in a cycle
// yet owns a slot: the row of the weights of its incoming arcs, one for each node 0, …, n that an arc may leave.
class Edmonds {
  public:
    // `scores` is (words, stride): a row for each dependent, a column for each head.
    template <class Value>
    Finding tree(const Value* scores, std::size_t words, std::size_t stride, std::int32_t* heads) {
        words_ = words;
        const Finding finding = choose_best_heads(scores, stride, heads);
        if (finding.problem != Problem::none || is_tree(heads)) return finding;
        set_weights(scores, stride);
        for (std::size_t word = 1; word <= words; ++word) {
            if (state_[slot_of_[word]] == State::fresh && !grow_path(slot_of_[word])) return {Problem::no_tree};
        }
        expand(heads);
        std::size_t roots = 0;
        for (std::size_t word = 0; word < words; ++word) roots += heads[word] == 0;
        return {roots == 1 ? Problem::none : Problem::no_tree};
    }

  private:
    struct Weight {
        double score;
        std::int32_t level;  // minus one for an arc from the root, minus kForbidden for a forbidden arc

        bool operator>(const Weight& other) const {
            return level != other.level ? level > other.level : score > other.score;
        }
        Weight operator-(const Weight& other) const { return {score - other.score, level - other.level}; }
    };
    struct Arc {
        Weight weight;
        std::uint32_t dependent;  // the word of the node that it enters
    };
    struct Choice {
        std::uint32_t head, dependent;
    };
    enum class State : unsigned char { fresh, on_path, settled };

    // The best head of each word alone. If these make a tree, it is the best one.
    template <class Value>
    Finding choose_best_heads(const Value* scores, std::size_t stride, std::int32_t* heads) const {
        for (std::size_t word = 1; word <= words_; ++word) {
            const Value* row = scores + (word - 1) * stride;
            Value best = -std::numeric_limits<Value>::infinity();
            std::int32_t chosen = -1;
            for (std::size_t head = 0; head <= words_; ++head) {
                if (head == word) continue;
                const Value score = row[head];
                if (score > best) {
                    best = score;
                    chosen = static_cast<std::int32_t>(head);
                }
                if (std::isnan(score) || static_cast<double>(score) > kLargest ||
                    (static_cast<double>(score) < -kLargest && !std::isinf(score))) {
                    return {Problem::bad_score, word, head};
                }
            }
            heads[word - 1] = chosen;
        }
        for (std::size_t word = 0; word < words_; ++word) {
            if (heads[word] < 0) return {Problem::no_tree};
        }
        return {};
    }

    // Whether one word depends on the root, and all others on that word, directly or not.
    bool is_tree(const std::int32_t* heads) {
        std::size_t roots = 0;
        for (std::size_t word = 0; word < words_; ++word) roots += heads[word] == 0;
        if (roots != 1) return words_ == 0;
        seen_from_.assign(words_ + 1, 0);
        for (std::size_t start = 1; start <= words_; ++start) {
            std::size_t node = start;
            while (node != 0 && seen_from_[node] == 0) {
                seen_from_[node] = start;
                node = static_cast<std::size_t>(heads[node - 1]);
            }
            if (node != 0 && seen_from_[node] == start) return false;
        }
        return true;
    }

    template <class Value>
    void set_weights(const Value* scores, std::size_t stride) {
        const std::size_t nodes = words_ + 1;
        arcs_.resize(nodes * nodes);
        slot_of_.resize(nodes);
        node_.resize(nodes);
        parent_.assign(nodes, 0);
        choice_.assign(nodes, {});
        state_.assign(nodes, State::fresh);
        state_[0] = State::settled;
        for (std::size_t word = 0; word <= words_; ++word) {
            slot_of_[word] = node_[word] = word;
            if (word == 0) continue;  // no arc enters the root
            const Value* row = scores + (word - 1) * stride;
            Arc* arcs = &arcs_[word * nodes];
            for (std::size_t head = 0; head <= words_; ++head) {
                // The cell of a word with itself is never read.
                const double score = head == word ? 0 : static_cast<double>(row[head]);
                const std::int32_t level = std::isinf(score) ? -kForbidden : head == 0 ? -1 : 0;
                arcs[head] = {{score, level}, static_cast<std::uint32_t>(word)};
            }
        }
    }

    Arc* arcs_into(std::size_t slot) { return &arcs_[slot * (words_ + 1)]; }

    // Settles the node of a slot and all nodes on the path from it. Returns false if a node has no incoming arc.
    bool grow_path(std::size_t slot) {
        path_.clear();
        while (state_[slot] != State::settled) {
            if (state_[slot] == State::on_path) contract(slot);
            state_[slot] = State::on_path;
            path_.push_back(slot);
            const Arc* arcs = arcs_into(slot);
            const Arc* best = nullptr;
            for (std::size_t head = 0; head <= words_; ++head) {
                if (slot_of_[head] == slot) continue;
                if (best == nullptr || arcs[head].weight > best->weight) best = &arcs[head];
            }
            if (best == nullptr || std::isinf(best->weight.score)) return false;
            const auto head = static_cast<std::uint32_t>(best - arcs);
            choice_[node_[slot]] = {head, best->dependent};
            slot = slot_of_[head];
        }
        for (const std::size_t passed : path_) state_[passed] = State::settled;
        return true;
    }

    // Contracts the cycle that the path ends in, from `first` on, to one node in the slot `first`, and removes it from
    // the path. An arc into the cycle loses the weight of the chosen arc that it would replace.
    void contract(std::size_t first) {
        const std::size_t cycle = parent_.size();
        parent_.push_back(0);
        choice_.push_back({});
        Arc* joined = arcs_into(first);
        const Weight first_worth = joined[choice_[node_[first]].head].weight;
        for (std::size_t head = 0; head <= words_; ++head) joined[head].weight = joined[head].weight - first_worth;
        for (std::size_t slot = path_.back(); slot != first; slot = path_.back()) {
            const Arc* arcs = arcs_into(slot);
            const Weight worth = arcs[choice_[node_[slot]].head].weight;
            for (std::size_t head = 0; head <= words_; ++head) {
                const Weight weight = arcs[head].weight - worth;
                if (weight > joined[head].weight) joined[head] = {weight, arcs[head].dependent};
                if (slot_of_[head] == slot) slot_of_[head] = first;
            }
            parent_[node_[slot]] = cycle;
            path_.pop_back();
        }
        path_.pop_back();
        parent_[node_[first]] = cycle;
        node_[first] = cycle;
    }

    // The arc chosen for a cycle replaces that of the part it enters, from the last cycle down to the words.
    void expand(std::int32_t* heads) {
        for (std::size_t cycle = parent_.size() - 1; cycle > words_; --cycle) {
            std::size_t part = choice_[cycle].dependent;
            while (parent_[part] != cycle) part = parent_[part];
            choice_[part] = choice_[cycle];
        }
        for (std::size_t word = 1; word <= words_; ++word) {
            heads[word - 1] = static_cast<std::int32_t>(choice_[word].head);
        }
    }

    std::size_t words_ = 0;
    std::vector<Arc> arcs_;
    std::vector<std::size_t> slot_of_;  // of each node 0, …, n
    std::vector<State> state_;          // of each slot
    std::vector<std::size_t> node_;     // the node of a slot: a word or a cycle
    std::vector<std::size_t> parent_;   // of each word and cycle: the cycle that contains it, 0 for none
    std::vector<Choice> choice_;        // of each word and cycle: the best arc into it
    std::vector<std::size_t> path_;     // slots
    std::vector<std::size_t> seen_from_;
};

inline std::invalid_argument refusal(std::size_t sentence, const Finding& finding) {
    const std::string place = "arborescences: sentence " + std::to_string(sentence) + " has ";
    if (finding.problem == Problem::no_tree) {
        return std::invalid_argument(place +
                                     "no tree of one root: every one takes an arc of score -inf, which is forbidden; "
                                     "allow more arcs");
    }
    return std::invalid_argument(place + "a score, of word " + std::to_string(finding.word) + " under head " +
                                 std::to_string(finding.head) +
                                 ", that is nan, inf or beyond 2^1000; expected finite scores, or -inf for an arc that "
                                 "is forbidden");
}

}  // namespace decoding_detail

// Writes to `heads` (batch, width) the heads of each sentence's highest-scoring tree in which one word has head 0, the
// root; -1 beyond a sentence's end. `scores` is (batch, width, width + 1) and holds the score of word i under head h at
// [i - 1, h], with words counted from 1; -inf forbids an arc. The first lengths[sentence] words of a sentence count.
// Cells beyond them, and those of a word with itself, are not read. Among trees of equal score the choice is always the
// same. Throws std::invalid_argument for a length above the width, and, naming the first such sentence, where a score
// is NaN, inf or beyond 2^1000, or where every tree with one root uses a forbidden arc.
template <class Value>
void arborescences(const Value* scores, std::size_t batch, std::size_t width, const std::int64_t* lengths,
                   std::int32_t* heads, std::size_t threads = 0) {
    using namespace decoding_detail;
    if (width > kMostWords) {
        throw std::invalid_argument("arborescences: " + std::to_string(width) + " words a sentence; at most " +
                                    std::to_string(kMostWords) + " can be numbered");
    }
    check_lengths("arborescences", "sentence", lengths, batch, width);
    std::vector<Finding> findings(batch);
    parallel_blocks(batch, kBlockSentences, threads, [&](std::size_t low, std::size_t high) {
        Edmonds edmonds;
        for (std::size_t i = low; i < high; ++i) {
            const auto words = static_cast<std::size_t>(lengths[i]);
            std::int32_t* row = heads + i * width;
            findings[i] = edmonds.tree(scores + i * width * (width + 1), words, width + 1, row);
            std::fill(row + words, row + width, -1);
        }
    });
    for (std::size_t i = 0; i < batch; ++i) {
        if (findings[i].problem != Problem::none) throw refusal(i, findings[i]);
    }
}

}  // namespace bertft
