// The k nearest neighbours of rows by cosine: exact, although the products of all pairs are float32.
//
// BLAS makes tiles of products u_i.u_j of shifted unit rows. With offset_j they are the cosines of row i up to what row
// i adds to all of them, and their error has a bound. So a tile is only a filter. A pair that may be nearer than the
// k-th neighbour found so far is computed again from the rows themselves, in float64 and in one order of additions.
// The answer depends on neither the BLAS, nor the tiles, nor their order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace bertft {

namespace neighbours_detail {

constexpr std::size_t kLanes = 8;     // sums of a dot product that are added at the same time
constexpr std::size_t kColumns = 16;  // columns of a tile that are tested together

}  // namespace neighbours_detail

// The dot product of two rows in float64. Equal rows have equal products with a third one, to the last bit.
template <class Value>
double dot_of_rows(const Value* left, const Value* right, std::size_t width) {
    constexpr std::size_t lanes = neighbours_detail::kLanes;
    double sums[lanes] = {};
    std::size_t c = 0;
    for (; c + lanes <= width; c += lanes) {
        for (std::size_t lane = 0; lane < lanes; ++lane) {
            sums[lane] += static_cast<double>(left[c + lane]) * static_cast<double>(right[c + lane]);
        }
    }
    double total = 0.0;
    for (; c < width; ++c) total += static_cast<double>(left[c]) * static_cast<double>(right[c]);
    for (const double sum : sums) total += sum;
    return total;
}

template <class Value>
void inverse_lengths(const Value* rows, std::size_t n, std::size_t width, double* inverses) {
    for (std::size_t i = 0; i < n; ++i) {
        const Value* row = rows + i * width;
        inverses[i] = 1.0 / std::sqrt(dot_of_rows(row, row, width));
    }
}

// What is read of the rows. `slack` is what the k-th cosine must be lowered by to become a bound for a tile's values:
// what row i adds to its cosines, and the largest error of a value.
template <class Value>
struct Space {
    const Value* rows;  // (n, width)
    std::size_t width;
    const double* inverses;  // (n,) 1 / |row|
    const float* offsets;    // (n,)
    const double* slack;     // (n,)
};

// The nearest rows of each row found so far, the nearest first; among equal cosines the row of the lower number.
struct Nearest {
    std::size_t k;
    double* values;         // (n, k), -inf where there is none yet
    std::int64_t* numbers;  // (n, k)
    float* thresholds;      // (n,): a tile's value below it is no neighbour; -inf until there are k

    void offer(std::size_t i, std::size_t j, double value, double inverse, double slack) {
        double* of_row = values + i * k;
        std::int64_t* number = numbers + i * k;
        const auto added = static_cast<std::int64_t>(j);
        const auto nearer = [&](std::size_t place) {
            return value > of_row[place] || (value == of_row[place] && added < number[place]);
        };
        if (!nearer(k - 1)) return;
        std::size_t place = k - 1;
        for (; place > 0 && nearer(place - 1); --place) {
            of_row[place] = of_row[place - 1];
            number[place] = number[place - 1];
        }
        of_row[place] = value;
        number[place] = added;
        const auto bound = static_cast<float>(of_row[k - 1] * inverse - slack);
        thresholds[i] = std::nextafter(bound, -std::numeric_limits<float>::infinity());
    }
};

// Offers the pairs i < j of one tile to both of their rows. The tile holds rows first_i, … against rows first_j, …
template <class Value>
void nearer_in_tile(const float* tile, std::size_t height, std::size_t breadth, std::size_t first_i,
                    std::size_t first_j, const Space<Value>& space, Nearest& nearest) {
    const float* offsets = space.offsets + first_j;
    const float* thresholds = nearest.thresholds + first_j;
    for (std::size_t r = 0; r < height; ++r) {
        const std::size_t i = first_i + r;
        const float* products = tile + r * breadth;
        const float offset = space.offsets[i];
        const auto test = [&](std::size_t c, float threshold) {
            return static_cast<int>(products[c] + offsets[c] >= threshold) |
                   static_cast<int>(products[c] + offset >= thresholds[c]);
        };
        for (std::size_t low = i + 1 > first_j ? i + 1 - first_j : 0; low < breadth;) {
            const std::size_t high = std::min(breadth, low + neighbours_detail::kColumns);
            int any = 0;
            if (high - low == neighbours_detail::kColumns) {
                const float threshold = nearest.thresholds[i];
                for (std::size_t c = 0; c < neighbours_detail::kColumns; ++c) any |= test(low + c, threshold);
            } else {
                any = 1;
            }
            for (std::size_t c = any ? low : high; c < high; ++c) {
                if (!test(c, nearest.thresholds[i])) continue;
                const std::size_t j = first_j + c;
                const double dot = dot_of_rows(space.rows + i * space.width, space.rows + j * space.width, space.width);
                nearest.offer(i, j, dot * space.inverses[j], space.inverses[i], space.slack[i]);
                nearest.offer(j, i, dot * space.inverses[i], space.inverses[j], space.slack[j]);
            }
            low = high;
        }
    }
}

}  // namespace bertft
