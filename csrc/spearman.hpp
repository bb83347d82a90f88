// Spearman's rank correlation of many short rows; ties share the mean of their ranks.
//
// A value's rank, doubled and centred, is the number of values below it minus the number above it: an integer, and zero
// on average. In short rows these are counted by comparing every pair, four or more values in one instruction and
// without branches, which is several times faster than sorting forty numbers. Long rows are sorted. Doubles are
// compared as floats, twice as many in one instruction, where a check shows that this changes no order. All sums are
// sums of integers, so they are exact, and the answer does not depend on the instructions or the order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "lengths.hpp"
#include "parallel.hpp"
#include "ranks.hpp"

namespace bertft {

namespace spearman_detail {

constexpr std::size_t kMostCounted = 256;  // longer rows are sorted
constexpr std::size_t kBlockValues = 1 << 14;

template <class Value>
bool any_nan(const Value* values, std::size_t n) {
    int nan = 0;
    for (std::size_t i = 0; i < n; ++i) nan |= values[i] != values[i];
    return nan;
}

// Vectors of 16 bytes, which every 64-bit processor has: by themselves, compilers vectorise the wrong loop of the
// counting.
template <class Value>
struct Vector {
    using Count = std::conditional_t<sizeof(Value) == 4, std::int32_t, std::int64_t>;
    typedef Value Values __attribute__((vector_size(16)));
    typedef Count Counts __attribute__((vector_size(16)));
    static constexpr std::size_t lanes = 16 / sizeof(Value);
};

// Ranks the rows of one side on one thread; its memory is kept between rows.
template <class Value>
class Ranker {
  public:
    // Returns the ranks, doubled and centred, of n <= kMostCounted values; null if one is NaN.
    const std::int16_t* count(const Value* values, std::size_t n) {
        if (!round(values, n)) return nullptr;
        if (n <= kMostCoded && encode(n) && exact(values, n)) {
            count_codes(n);
            return counts_;
        }
        // Rounding never swaps two values, so it changes no rank unless it makes ties.
        count_if<false>(floats_, n);
        if (!untied(n)) {
            if (exact(values, n)) {
                count_if<true>(floats_, n);
            } else {
                std::copy(values, values + n, doubles_);
                count_if<false>(doubles_, n);
                count_if<true>(doubles_, n);
            }
        }
        return counts_;
    }

    // Returns the same for any number of values.
    const double* sort(const Value* values, std::size_t n) {
        sorted_.resize(n);
        tied_ranks(values, n, sorted_.data(), 1);
        for (double& rank : sorted_) rank = 2.0 * rank - static_cast<double>(n + 1);
        return sorted_.data();
    }

  private:
    static constexpr std::size_t kBytes = 16;
    static constexpr std::size_t kMostCoded = 127;  // so that a count fits in a byte too

    // Rounds the values to floats_; returns false if one is NaN.
    bool round(const Value* values, std::size_t n) {
        int nan = 0;
        for (std::size_t i = 0; i < n; ++i) {
            floats_[i] = static_cast<float>(values[i]);
            nan |= floats_[i] != floats_[i];
        }
        return nan == 0;
    }

    // Whether floats_ equal the values exactly.
    bool exact(const Value* values, std::size_t n) const {
        std::uint64_t changed = 0;
        for (std::size_t i = 0; i < n; ++i) {
            changed |= bits_of(static_cast<double>(floats_[i])) ^ bits_of(static_cast<double>(values[i]));
        }
        return changed == 0;
    }

    // Whole numbers from 0 to 127, such as distances and depths in trees, fit in a byte, sixteen in a vector. Writes
    // them to codes_, or returns false if floats_ has other numbers.
    bool encode(std::size_t n) {
        typedef typename Vector<float>::Values Floats;
        typedef typename Vector<float>::Counts Whole;
        std::fill(floats_ + n, floats_ + (n + kBytes - 1) / kBytes * kBytes, 0.0F);
        for (std::size_t first = 0; first < n; first += kBytes) {
            Whole codes[4], others = {};
            for (std::size_t k = 0; k < 4; ++k) {
                Floats values;
                std::memcpy(&values, floats_ + first + k * 4, sizeof values);
                const Whole inside = (values >= 0) & (values <= 127);
                Whole bits;
                std::memcpy(&bits, &values, sizeof bits);
                bits &= inside;  // 0 where the conversion would be undefined
                Floats kept;
                std::memcpy(&kept, &bits, sizeof kept);
                codes[k] = __builtin_convertvector(kept, Whole);
                others |= ~inside | (__builtin_convertvector(codes[k], Floats) != values);
            }
            if ((others[0] | others[1] | others[2] | others[3]) != 0) return false;
            std::int32_t wide[kBytes];
            std::memcpy(wide, codes, sizeof wide);
            for (std::size_t k = 0; k < kBytes; ++k) codes_[first + k] = static_cast<std::int8_t>(wide[k]);
        }
        return true;
    }

    // Sets the ranks from the codes. codes_ holds them twice in a row, so that the values s positions after those of a
    // vector, with wrap-around, are a vector too.
    void count_codes(std::size_t n) {
        std::memcpy(codes_ + n, codes_, n);
        std::size_t first = 0;
        for (; n - first > 3 * kBytes; first += 3 * kBytes) count_code_vectors<3>(n, first);
        if (n - first > 2 * kBytes) {
            count_code_vectors<3>(n, first);
        } else if (n - first > kBytes) {
            count_code_vectors<2>(n, first);
        } else {
            count_code_vectors<1>(n, first);
        }
    }

    template <std::size_t vectors>
    void count_code_vectors(std::size_t n, std::size_t first) {
        typedef std::int8_t Codes __attribute__((vector_size(16)));
        Codes mine[vectors], others[vectors], counts[vectors] = {};
        std::memcpy(mine, codes_ + first, sizeof mine);
        for (std::size_t step = 1; step < n; ++step) {
            std::memcpy(others, codes_ + first + step, sizeof others);
            for (std::size_t k = 0; k < vectors; ++k) counts[k] += (others[k] > mine[k]) - (others[k] < mine[k]);
        }
        std::int8_t found[sizeof counts];
        std::memcpy(found, counts, sizeof counts);
        for (std::size_t i = 0; i < sizeof counts; ++i) counts_[first + i] = found[i];
    }

    // For each value, sets its count to the number of values below, or subtracts the number of values above.
    template <bool above, class Number>
    void count_if(const Number* values, std::size_t n) {
        constexpr std::size_t step = 4 * Vector<Number>::lanes;  // values and counts of a step fit in sixteen registers
        std::size_t first = 0;
        for (; n - first > step; first += step) count_vectors<above, 4>(values, n, first);
        switch ((n - first - 1) / Vector<Number>::lanes) {
            case 3:
                return count_vectors<above, 4>(values, n, first);
            case 2:
                return count_vectors<above, 3>(values, n, first);
            case 1:
                return count_vectors<above, 2>(values, n, first);
            default:
                return count_vectors<above, 1>(values, n, first);
        }
    }

    template <bool above, std::size_t vectors, class Number>
    void count_vectors(const Number* values, std::size_t n, std::size_t first) {
        typename Vector<Number>::Values mine[vectors];
        typename Vector<Number>::Counts counts[vectors] = {};
        std::memcpy(mine, values + first, sizeof mine);
        for (std::size_t j = 0; j < n; ++j) {
            const typename Vector<Number>::Values other = values[j] - typename Vector<Number>::Values{};
            for (std::size_t k = 0; k < vectors; ++k) {
                counts[k] -= above ? other > mine[k] : other < mine[k];  // a mask is -1 where it holds
            }
        }
        typename Vector<Number>::Count found[vectors * Vector<Number>::lanes];
        std::memcpy(found, counts, sizeof found);
        for (std::size_t i = 0; i < vectors * Vector<Number>::lanes; ++i) {
            std::int16_t& count = counts_[first + i];
            count = static_cast<std::int16_t>(above ? count - found[i] : found[i]);
        }
    }

    // Makes ranks of the counts of values below. Without ties, every other value that is not below is above.
    bool untied(std::size_t n) {
        int below = 0;
        for (std::size_t i = 0; i < n; ++i) below += counts_[i];
        if (2 * static_cast<std::size_t>(below) != n * (n - 1)) return false;
        for (std::size_t i = 0; i < n; ++i) {
            counts_[i] = static_cast<std::int16_t>(2 * counts_[i] - static_cast<int>(n - 1));
        }
        return true;
    }

    float floats_[kMostCounted] = {};
    double doubles_[kMostCounted] = {};
    std::int8_t codes_[2 * kMostCounted] = {};
    std::int16_t counts_[kMostCounted] = {};
    std::vector<double> sorted_;
};

// The correlation of centred ranks; NaN if a side is constant.
template <class Sum, class Rank>
double correlation(const Rank* x, const Rank* y, std::size_t n) {
    Sum xx = 0, xy = 0, yy = 0;
    for (std::size_t i = 0; i < n; ++i) {
        xx += Sum{x[i]} * Sum{x[i]};
        xy += Sum{x[i]} * Sum{y[i]};
        yy += Sum{y[i]} * Sum{y[i]};
    }
    if (xx == 0 || yy == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(xy) / std::sqrt(static_cast<double>(xx) * static_cast<double>(yy));
}

}  // namespace spearman_detail

// Writes to `correlations` (rows), for each row, Spearman's correlation of the first lengths[row] values of `x` and `y`
// (rows, width); values beyond are not read. As in SciPy the answer is NaN if a side has a NaN or is constant, as an
// empty row and a single value are. Throws std::invalid_argument for a length above the width.
template <class X, class Y>
void row_spearman(const X* x, const Y* y, std::size_t rows, std::size_t width, const std::int64_t* lengths,
                  double* correlations, std::size_t threads = 0) {
    using namespace spearman_detail;
    check_lengths("row_spearman", "row", lengths, rows, width);
    const std::size_t block = kBlockValues / (width + 1) + 1;
    parallel_blocks(rows, block, threads, [&](std::size_t low, std::size_t high) {
        Ranker<X> rank_x;
        Ranker<Y> rank_y;
        for (std::size_t row = low; row < high; ++row) {
            const X* x_row = x + row * width;
            const Y* y_row = y + row * width;
            const auto n = static_cast<std::size_t>(lengths[row]);
            correlations[row] = std::numeric_limits<double>::quiet_NaN();
            if (n <= kMostCounted) {
                const std::int16_t* x_ranks = rank_x.count(x_row, n);
                const std::int16_t* y_ranks = rank_y.count(y_row, n);
                if (x_ranks && y_ranks) correlations[row] = correlation<std::int32_t>(x_ranks, y_ranks, n);
            } else if (!any_nan(x_row, n) && !any_nan(y_row, n)) {
                correlations[row] = correlation<double>(rank_x.sort(x_row, n), rank_y.sort(y_row, n), n);
            }
        }
    });
}

}  // namespace bertft
