// Compares the sums of row_moments and shift_rows with the textbook's, in long double, on random rows. `make lint` runs
// it under the address and undefined-behaviour sanitizers. Prints the seed of a failing case and exits with status 1.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <type_traits>
#include <vector>

#include "../moments.hpp"

namespace {

using Random = std::mt19937_64;
using Exact = long double;

constexpr bertft::Limits LIMITS{1e-240, 1e240, 1e-13};

// A row of u in long double, or an empty one if the row has no value.
template <class Value>
std::vector<Exact> textbook_row(const Value* x, std::size_t d, bertft::RowMap map, const double* center) {
    for (std::size_t j = 0; j < d; ++j) {
        if (!(std::abs(x[j]) < (map == bertft::RowMap::raw ? 1e100 : INFINITY))) return {};  // or its square overflows
    }
    if (map == bertft::RowMap::centred_unit && std::all_of(x, x + d, [&](Value value) { return value == x[0]; }))
        return {};
    Exact mean = 0, square = 0;
    for (std::size_t j = 0; j < d; ++j) mean += map == bertft::RowMap::centred_unit ? Exact{x[j]} / d : 0;
    for (std::size_t j = 0; j < d; ++j) square += (x[j] - mean) * (x[j] - mean);
    const bool mapped = map != bertft::RowMap::raw;
    if (mapped && !(square > 1e-240L && square < 1e240L)) return {};
    std::vector<Exact> row(d);
    for (std::size_t j = 0; j < d; ++j) row[j] = (x[j] - mean) / (mapped ? std::sqrt(square) : 1) - center[j];
    return row;
}

Exact dot(const std::vector<Exact>& left, const std::vector<Exact>& right) {
    Exact sum = 0;
    for (std::size_t j = 0; j < left.size(); ++j) sum += left[j] * right[j];
    return sum;
}

bool close(Exact found, Exact wanted, Exact size) { return std::abs(found - wanted) <= 1e-12L * size; }

template <class X, class Y>
bool right(std::uint64_t seed) {
    Random random(seed);
    const std::size_t n = random() % 11, d1 = 1 + random() % 70, d2 = 1 + random() % 70;
    const auto map = static_cast<bertft::RowMap>(random() % 3);
    std::normal_distribution<double> normal;
    const double offset = random() % 3 ? 0 : 5;
    const auto drawn = [&](auto& values) {
        for (auto& value : values)
            value = static_cast<std::remove_reference_t<decltype(value)>>(normal(random) + offset);
    };
    std::vector<X> x(n * d1), u(n * d1);
    std::vector<Y> y(n * d2), other(n * d2), v(n * d2);
    std::vector<double> x_center(d1), y_center(d2), kept(n * bertft::KEPT);
    drawn(x), drawn(y), drawn(other), drawn(x_center), drawn(y_center);
    // Some rows have no value under some map: not finite, too long or too short to be squared, zero, or constant.
    const auto spoil = [&](auto& values, std::size_t width) {
        using Value = std::remove_reference_t<decltype(values[0])>;
        constexpr double spoilt[] = {NAN, INFINITY, -INFINITY, 0.0, 3.1, 1e-200, 1e200};
        const std::size_t row = random() % n, kind = random() % 7, first = kind < 3 ? random() % width : 0;
        for (std::size_t j = first; j < (kind < 3 ? first + 1 : width); ++j) {
            values[row * width + j] = static_cast<Value>(spoilt[kind]);
        }
    };
    if (n > 0 && random() % 3 == 0) spoil(x, d1);
    if (n > 0 && random() % 3 == 0) spoil(other, d2);
    for (const bool again : {false, true}) {
        const std::vector<Y>& rows = again ? other : y;
        std::vector<double> ww(25), wu(5 * d1), wv(5 * d2);
        bertft::row_moments(bertft::Side<X>{x.data(), d1, x_center.data(), u.data()},
                            bertft::Side<Y>{rows.data(), d2, y_center.data(), v.data()}, n, map, LIMITS, kept.data(),
                            again, ww.data(), wu.data(), wv.data());
        std::vector<Exact> sums(25), of_u(5 * d1), of_v(5 * d2);
        Exact size = 1;
        bool whole = true;
        for (std::size_t i = 0; i < n && whole; ++i) {
            const auto ui = textbook_row(&x[i * d1], d1, map, x_center.data());
            const auto vi = textbook_row(&rows[i * d2], d2, map, y_center.data());
            whole = !ui.empty() && !vi.empty();
            if (!whole) break;
            const std::vector<Exact> cx(x_center.begin(), x_center.end()), cy(y_center.begin(), y_center.end());
            const Exact w[] = {1, dot(cx, ui), dot(cy, vi), dot(ui, ui), dot(vi, vi)};
            for (std::size_t k = 0; k < 5; ++k) {
                size = std::max(size, w[k] * w[k] * n);
                for (std::size_t m = 0; m < 5; ++m) sums[k * 5 + m] += w[k] * w[m];
                for (std::size_t j = 0; j < d1; ++j) of_u[k * d1 + j] += w[k] * ui[j];
                for (std::size_t j = 0; j < d2; ++j) of_v[k * d2 + j] += w[k] * vi[j];
            }
        }
        if (!whole) {  // the sums tell
            if (std::isfinite(ww[3 * 5 + 3]) && std::isfinite(ww[4 * 5 + 4])) return false;
            continue;
        }
        for (std::size_t k = 0; k < 25; ++k) {
            if (!close(ww[k], sums[k], 10 * size)) return false;
        }
        for (std::size_t k = 0; k < 5; ++k) {
            for (std::size_t j = 0; j < d1; ++j) {
                const bool old = again && k != 2 && k != 4;
                if (!close(wu[k * d1 + j], old ? 0 : of_u[k * d1 + j], 10 * size)) return false;
            }
            for (std::size_t j = 0; j < d2; ++j) {
                if (!close(wv[k * d2 + j], of_v[k * d2 + j], 10 * size)) return false;
            }
        }
    }
    std::vector<X> stored(n * d1);
    std::vector<double> offsets(n);
    for (const bool distance : {false, true}) {
        bertft::shift_rows(x.data(), n, d1, x_center.data(), map, distance, LIMITS, stored.data(), offsets.data());
        for (std::size_t i = 0; i < n; ++i) {
            const double wanted = distance ? -0.5 * kept[i * 4 + 3] : kept[i * 4 + 2];
            if (!(offsets[i] == wanted || (std::isnan(offsets[i]) && !std::isfinite(kept[i * 4 + 3])))) return false;
        }
        for (std::size_t j = 0; j < n * d1; ++j) {
            if (!(stored[j] == u[j] || (std::isnan(stored[j]) && std::isnan(u[j])))) return false;
        }
    }
    return true;
}

}  // namespace

int main() {
    for (std::uint64_t seed = 0; seed < 4000; ++seed) {
        const bool good = seed % 4 == 0   ? right<float, float>(seed)
                          : seed % 4 == 1 ? right<double, double>(seed)
                          : seed % 4 == 2 ? right<float, double>(seed)
                                          : right<double, float>(seed);
        if (!good) {
            std::printf("row_moments is wrong for seed %llu\n", static_cast<unsigned long long>(seed));
            return 1;
        }
    }
    std::printf("row_moments and shift_rows: 4000 random cases agree with the textbook\n");
}
