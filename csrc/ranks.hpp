// Average ranks of many floating-point values, for Spearman's correlation: ties share the mean of their ranks.
//
// A sample sort that never moves an index. Every value becomes an integer key of the same order (order_key). Then
// 1. random samples give splitters that cut the keys into buckets of about kBucketValues, for any distribution;
// 2. each thread counts, then copies, the keys of its own part of the input into the buckets, in input order;
// 3. each bucket, small enough for the cache, is sorted, and its keys are overwritten in place by their ranks;
// 4. each thread reads its part of the input again: the next rank in a value's bucket is the rank of that value.
// Step 4 needs the input order of step 2. All large arrays are then read and written as streams, and the only extra
// memory is the key (8 bytes) and the bucket number (2 bytes) of each value. A value so frequent that it is drawn twice
// as a splitter gets a bucket to itself, so ties cost nothing. The answer does not depend on the threads or the sample.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"

namespace bertft {

inline std::uint64_t bits_of(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline double double_of(std::uint64_t bits) {
    double value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// An integer that orders as the value does. Adding zero turns -0.0 into 0.0, so that the two tie.
inline std::uint64_t order_key(double value) {
    const std::uint64_t bits = bits_of(value + 0.0);
    constexpr std::uint64_t sign = std::uint64_t{1} << 63;
    return bits & sign ? ~bits : bits | sign;
}

namespace ranks_detail {

constexpr std::size_t kBucketValues = 1 << 14;   // keys and sorting space of one bucket stay within a 1 MiB cache
constexpr std::size_t kMostSplitters = 1 << 11;  // with more streams than this the copies miss the TLB
constexpr std::size_t kSamplesPerBucket = 32;    // buckets are then rarely twice their share

// Sorted first keys of all buckets but the first: a key belongs to bucket number (splitters at or below it).
class Splitters {
  public:
    template <class Value>
    Splitters(const Value* values, std::size_t n) {
        const std::size_t wanted = std::min(n / kBucketValues + 1, kMostSplitters);
        if (wanted > 1) {
            std::mt19937_64 random;
            std::vector<std::uint64_t> sample(wanted * kSamplesPerBucket);
            // A NaN is found and refused later. Limited to infinity, it leaves room for the key after it.
            const std::uint64_t infinity = order_key(std::numeric_limits<double>::infinity());
            for (auto& key : sample) key = std::min(order_key(values[random() % n]), infinity);
            std::sort(sample.begin(), sample.end());
            for (std::size_t i = kSamplesPerBucket; i < sample.size(); i += kSamplesPerBucket) {
                const std::uint64_t key = sample[i];
                if (keys_.empty() || keys_.back() < key) {
                    keys_.push_back(key);
                } else if (keys_.back() == key) {
                    keys_.push_back(key + 1);
                }
            }
        }
        buckets_ = keys_.size() + 1;
        std::size_t size = 1;
        while (size < buckets_) size *= 2;
        half_ = size / 2;
        // Filled up to a power of two with a key above all others; NaN is refused before it is looked up.
        keys_.resize(size, std::numeric_limits<std::uint64_t>::max());
    }

    std::size_t buckets() const { return buckets_; }

    // Binary search without branches, so that the processor overlaps the searches of successive keys.
    std::size_t bucket_of(std::uint64_t key) const {
        std::size_t below = 0;
        for (std::size_t step = half_; step != 0; step /= 2) below += keys_[below + step - 1] <= key ? step : 0;
        return below;
    }

  private:
    std::vector<std::uint64_t> keys_;
    std::size_t buckets_;
    std::size_t half_;
};

struct Entry {
    std::uint64_t key;
    std::uint32_t place;
};

// Sorts one bucket at a time and writes ranks over its keys; its memory is kept between buckets.
class BucketRanker {
  public:
    // Overwrites each of the m keys with the bits of its rank, counted from `before` values that are smaller.
    void rank(std::uint64_t* keys, std::size_t m, std::size_t before) {
        if (m == 0) return;
        const auto [low, high] = std::minmax_element(keys, keys + m);
        const std::uint64_t lowest = *low, range = *high - *low;
        if (range == 0) {
            std::fill(keys, keys + m, rank_bits(before, m));
            return;
        }
        // About one value in a bin where values are spread evenly; otherwise sorting the bins takes longer.
        std::size_t bins = 2;
        while (bins < m) bins *= 2;
        int shift = 0;
        while ((range >> shift) >= bins) ++shift;

        ends_.assign(bins, 0);
        entries_.resize(std::max(entries_.size(), m));
        for (std::size_t i = 0; i < m; ++i) ++ends_[(keys[i] - lowest) >> shift];
        std::uint32_t total = 0;
        for (auto& end : ends_) {
            const std::uint32_t count = end;
            end = total;
            total += count;
        }
        for (std::size_t i = 0; i < m; ++i) {
            entries_[ends_[(keys[i] - lowest) >> shift]++] = {keys[i], static_cast<std::uint32_t>(i)};
        }
        std::size_t first = 0;
        for (const std::uint32_t end : ends_) {
            sort_and_rank(keys, first, end, before);
            first = end;
        }
    }

  private:
    static std::uint64_t rank_bits(std::size_t before, std::size_t count) {
        return bits_of(static_cast<double>(before) + 0.5 * static_cast<double>(count + 1));
    }

    void sort_and_rank(std::uint64_t* keys, std::size_t first, std::size_t end, std::size_t before) {
        if (end - first > 1) {
            std::sort(entries_.begin() + static_cast<std::ptrdiff_t>(first),
                      entries_.begin() + static_cast<std::ptrdiff_t>(end),
                      [](const Entry& a, const Entry& b) { return a.key < b.key; });
        }
        while (first < end) {
            std::size_t after = first + 1;
            while (after < end && entries_[after].key == entries_[first].key) ++after;
            const std::uint64_t bits = rank_bits(before + first, after - first);
            for (; first < after; ++first) keys[entries_[first].place] = bits;
        }
    }

    std::vector<std::uint32_t> ends_;
    std::vector<Entry> entries_;
};

}  // namespace ranks_detail

// Writes the average ranks, counted from 1, of n float or double values. O(n log n) at worst, O(n) where values are
// spread smoothly; 10 bytes for each value beside input and output. Throws std::invalid_argument naming the first NaN.
template <class Value>
void tied_ranks(const Value* values, std::size_t n, double* ranks, std::size_t threads = 0) {
    using namespace ranks_detail;
    if (n > std::size_t{1} << 31) {
        throw std::invalid_argument("tied_ranks: " + std::to_string(n) +
                                    " values; at most 2**31 can be ranked at once");
    }
    const Splitters splitters(values, n);
    const std::size_t buckets = splitters.buckets();
    threads = std::min(thread_count(threads), n / kBucketValues + 1);

    const std::unique_ptr<std::uint64_t[]> keys(new std::uint64_t[n]);
    const std::unique_ptr<std::uint16_t[]> bucket_of(new std::uint16_t[n]);
    const auto stretch = [&](std::size_t thread) { return n / threads * thread + std::min(thread, n % threads); };

    std::vector<std::vector<std::size_t>> counts(threads);
    std::vector<std::size_t> first_nan(threads, n);
    run_parallel(threads, [&](std::size_t thread) {
        std::vector<std::size_t> mine(buckets, 0);
        for (std::size_t i = stretch(thread), end = stretch(thread + 1); i < end; ++i) {
            if (std::isnan(values[i])) {
                first_nan[thread] = i;
                break;
            }
            const std::size_t bucket = splitters.bucket_of(order_key(values[i]));
            bucket_of[i] = static_cast<std::uint16_t>(bucket);
            ++mine[bucket];
        }
        counts[thread] = std::move(mine);
    });
    const std::size_t nan = *std::min_element(first_nan.begin(), first_nan.end());
    if (nan != n) {
        throw std::invalid_argument("tied_ranks: value " + std::to_string(nan) +
                                    " is nan, which has no rank; drop or replace it first");
    }

    // Where each thread's keys of each bucket begin: bucket by bucket, and within a bucket thread by thread.
    std::vector<std::size_t> starts(buckets + 1, 0);
    auto offsets = std::move(counts);
    std::size_t total = 0;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
        starts[bucket] = total;
        for (auto& of_thread : offsets) {
            const std::size_t count = of_thread[bucket];
            of_thread[bucket] = total;
            total += count;
        }
    }
    starts[buckets] = total;

    run_parallel(threads, [&](std::size_t thread) {
        std::vector<std::size_t> next = offsets[thread];
        for (std::size_t i = stretch(thread), end = stretch(thread + 1); i < end; ++i) {
            keys[next[bucket_of[i]]++] = order_key(values[i]);
        }
    });

    std::atomic<std::size_t> next_bucket{0};
    run_parallel(threads, [&](std::size_t) {
        BucketRanker ranker;
        for (std::size_t bucket; (bucket = next_bucket++) < buckets;) {
            ranker.rank(keys.get() + starts[bucket], starts[bucket + 1] - starts[bucket], starts[bucket]);
        }
    });

    run_parallel(threads, [&](std::size_t thread) {
        std::vector<std::size_t> next = offsets[thread];
        for (std::size_t i = stretch(thread), end = stretch(thread + 1); i < end; ++i) {
            ranks[i] = double_of(keys[next[bucket_of[i]]++]);
        }
    });
}

}  // namespace bertft
