// Rows mapped and shifted, and the sums over rows from which every bilinear measure follows, products of rows apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

// A function marked so is compiled for several processors, and one is chosen when the library is loaded. All give the
// same bits: numbers are added in the order written here, and no multiplication is fused with an addition.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define BERTFT_EVERY_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default"), flatten))
#else
#define BERTFT_EVERY_PROCESSOR
#endif

namespace bertft {

// raw: x. unit: x / |x|. centred_unit: (x - mean(x)) / |x - mean(x)|.
enum class RowMap { raw, unit, centred_unit };

// A row has a value under the unit maps if its squared length is between `least` and `most`, and if it differs from its
// mean by more than `constant` of it.
struct Limits {
    double least, most, constant;
};

// Sums run in this many parts, which are added at the end, so that a processor can add several numbers at once.
constexpr std::size_t LANES = 16;

inline double total(const double (&lanes)[LANES]) {
    double sums[LANES];
    std::copy(lanes, lanes + LANES, sums);
    for (std::size_t half = LANES / 2; half > 0; half /= 2) {
        for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
    }
    return sums[0];
}

// Calls term(j) for j = 0, …, d - 1 and returns the sum of the results.
template <class Term>
inline double sum_of(std::size_t d, const Term& term) {
    double lanes[LANES] = {};
    std::size_t j = 0;
    for (; j + LANES <= d; j += LANES) {
        for (std::size_t lane = 0; lane < LANES; ++lane) lanes[lane] += term(j + lane);
    }
    for (std::size_t lane = 0; j < d; ++j, ++lane) lanes[lane] += term(j);
    return total(lanes);
}

// map(x) = (x - mean) * scale; the scale of a row without a value is nan.
struct Placement {
    double mean, scale;
};

template <class Value>
inline Placement placement_of(const Value* x, std::size_t d, RowMap map, const Limits& limits) {
    const auto n = static_cast<double>(d);
    const auto number = [&](std::size_t j) { return static_cast<double>(x[j]); };
    const double mean = map == RowMap::centred_unit ? sum_of(d, number) / n : 0.0;
    if (map == RowMap::raw) return {mean, 1.0};
    const double square = sum_of(d, [&](std::size_t j) { return (number(j) - mean) * (number(j) - mean); });
    const double constant = limits.constant * std::abs(mean);
    const bool has_value = square > std::max(constant * constant * n, limits.least) && square < limits.most;
    return {mean, has_value ? 1.0 / std::sqrt(square) : std::numeric_limits<double>::quiet_NaN()};
}

// The scalar products of a shifted row u: center . u and |u|^2.
struct RowProducts {
    double with_center, with_itself;
};

// Writes u = map(x) - center to `shifted`.
template <class Value>
inline void shift(const Value* x, std::size_t d, const Placement& placement, const double* center, double* shifted) {
    for (std::size_t j = 0; j < d; ++j) {
        shifted[j] = (static_cast<double>(x[j]) - placement.mean) * placement.scale - center[j];
    }
}

inline RowProducts products_of(const double* shifted, std::size_t d, const double* center) {
    return {sum_of(d, [&](std::size_t j) { return center[j] * shifted[j]; }),
            sum_of(d, [&](std::size_t j) { return shifted[j] * shifted[j]; })};
}

template <class Value>
inline void store(const double* shifted, std::size_t d, Value* stored) {
    for (std::size_t j = 0; j < d; ++j) stored[j] = static_cast<Value>(shifted[j]);
}

// Writes the shifted rows of x, (n, d), to `stored`, and the offset of each: center . u, or -|u|^2 / 2 of a distance.
// The offset of a row without a value is nan.
template <class Value>
BERTFT_EVERY_PROCESSOR void shift_rows(const Value* x, std::size_t n, std::size_t d, const double* center, RowMap map,
                                       bool distance, const Limits& limits, Value* stored, double* offsets) {
    std::vector<double> shifted(d);
    for (std::size_t i = 0; i < n; ++i) {
        shift(x + i * d, d, placement_of(x + i * d, d, map, limits), center, shifted.data());
        store(shifted.data(), d, stored + i * d);
        const RowProducts products = products_of(shifted.data(), d, center);
        const double offset = distance ? -0.5 * products.with_itself : products.with_center;
        offsets[i] = std::isfinite(products.with_itself) ? offset : std::numeric_limits<double>::quiet_NaN();
    }
}

// What is kept of a row of x for the next y: its mean and scale, and its products with the center and with itself.
constexpr std::size_t KEPT = 4;

// The rows of one space: values, center, and where the shifted rows are written.
template <class Value>
struct Side {
    const Value* rows;
    std::size_t width;
    const double* center;
    Value* shifted;
};

constexpr std::size_t SCALARS = 5;
constexpr std::size_t ROWS_AT_ONCE = 4;

// Adds the rows times one of their scalars to a sum, which is read and written once for all of them.
inline void add_weighted(const double (&weights)[ROWS_AT_ONCE][SCALARS], std::size_t scalar, const double* rows,
                         std::size_t d, double* sum) {
    const double w0 = weights[0][scalar], w1 = weights[1][scalar], w2 = weights[2][scalar], w3 = weights[3][scalar];
    const double *r0 = rows, *r1 = rows + d, *r2 = rows + 2 * d, *r3 = rows + 3 * d;
    for (std::size_t j = 0; j < d; ++j) sum[j] += (w0 * r0[j] + w1 * r1[j]) + (w2 * r2[j] + w3 * r3[j]);
}

// Writes the shifted rows u of x and v of y, and adds to the sums over rows of w w^T, w u^T and w v^T, where w = (1, a,
// b, e, f) with a = x_center . u, b = y_center . v, e = |u|^2, f = |v|^2. If the rows of x come `again`, with another
// y, what was `kept` of them is read instead of written, u is not written, and of w u^T only the rows of b and f, which
// are new, are added.
template <class X, class Y>
BERTFT_EVERY_PROCESSOR void row_moments(const Side<X>& x, const Side<Y>& y, std::size_t n, RowMap map,
                                        const Limits& limits, double* kept, bool again, double* ww, double* wu,
                                        double* wv) {
    const std::size_t d1 = x.width, d2 = y.width;
    std::vector<double> u(ROWS_AT_ONCE * d1), v(ROWS_AT_ONCE * d2);
    for (std::size_t low = 0; low < n; low += ROWS_AT_ONCE) {
        const std::size_t count = std::min(ROWS_AT_ONCE, n - low);
        double weights[ROWS_AT_ONCE][SCALARS] = {};
        for (std::size_t r = 0; r < count; ++r) {
            const std::size_t i = low + r;
            double *known = kept + i * KEPT, *u_row = &u[r * d1], *v_row = &v[r * d2];
            if (again) {
                shift(x.rows + i * d1, d1, {known[0], known[1]}, x.center, u_row);
            } else {
                const Placement placement = placement_of(x.rows + i * d1, d1, map, limits);
                shift(x.rows + i * d1, d1, placement, x.center, u_row);
                store(u_row, d1, x.shifted + i * d1);
                const RowProducts of_x = products_of(u_row, d1, x.center);
                known[0] = placement.mean, known[1] = placement.scale;
                known[2] = of_x.with_center, known[3] = of_x.with_itself;
            }
            shift(y.rows + i * d2, d2, placement_of(y.rows + i * d2, d2, map, limits), y.center, v_row);
            store(v_row, d2, y.shifted + i * d2);
            const RowProducts of_y = products_of(v_row, d2, y.center);
            const double scalars[] = {1.0, known[2], of_y.with_center, known[3], of_y.with_itself};
            std::copy(scalars, scalars + SCALARS, weights[r]);
        }
        for (std::size_t k = 0; k < SCALARS; ++k) {
            for (std::size_t m = 0; m < SCALARS; ++m) {
                for (std::size_t r = 0; r < count; ++r) ww[k * SCALARS + m] += weights[r][k] * weights[r][m];
            }
            if (!again || k == 2 || k == 4) add_weighted(weights, k, u.data(), d1, wu + k * d1);
            add_weighted(weights, k, v.data(), d2, wv + k * d2);
        }
    }
}

}  // namespace bertft
