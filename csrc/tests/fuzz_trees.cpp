// Compares spanning_trees with Kruskal's algorithm and row_spearman with ranks by sorting, on random input. `make lint`
// runs it under the address and undefined-behaviour sanitizers. Prints the seed of a failing case and exits with 1.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../spearman.hpp"
#include "../trees.hpp"
#include "random_values.hpp"

namespace {

using namespace fuzzing;
using Edges = std::set<std::pair<std::size_t, std::size_t>>;

template <class Value>
Edges kruskal(const Value* distances, std::size_t width, std::size_t length, const unsigned char* keep) {
    std::vector<std::tuple<Value, std::size_t, std::size_t>> cells;
    for (std::size_t i = 0; i < length; ++i) {
        for (std::size_t j = 0; j < length; ++j) {
            if (i != j && keep[i] && keep[j]) cells.emplace_back(distances[i * width + j], i, j);
        }
    }
    std::sort(cells.begin(), cells.end());
    std::vector<std::size_t> component(length);
    std::iota(component.begin(), component.end(), std::size_t{0});
    Edges edges;
    for (const auto& [distance, i, j] : cells) {
        const std::size_t from = component[i], to = component[j];
        if (from == to) continue;
        edges.emplace(std::min(i, j), std::max(i, j));
        std::replace(component.begin(), component.end(), from, to);
    }
    return edges;
}

template <class Value>
bool trees_agree(std::uint64_t seed) {
    Random random(seed);
    const std::size_t batch = random() % 70, width = random() % 24;
    const auto kind = static_cast<unsigned>(random() % kKinds);
    const bool symmetric = random() % 2;
    Exact<Value> distances(batch * width * width);
    Exact<std::int64_t> lengths(batch);
    Exact<unsigned char> keep(batch * width);
    Exact<std::int32_t> parents(batch * width);
    for (std::size_t i = 0; i < keep.size; ++i) keep[i] = random() % 4 != 0;
    for (std::size_t b = 0; b < batch; ++b) {
        lengths[b] = static_cast<std::int64_t>(random() % (width + 1));
        const auto length = static_cast<std::size_t>(lengths[b]);
        for (std::size_t i = 0; i < width; ++i) {
            for (std::size_t j = 0; j < width; ++j) {
                Value& cell = distances[(b * width + i) * width + j];
                const bool counts = i < length && j < length && i != j && keep[b * width + i] && keep[b * width + j];
                // Cells that must not be read are NaN, which would be refused.
                cell = counts ? draw<Value>(random, kind) : std::numeric_limits<Value>::quiet_NaN();
                if (counts && symmetric && j < i) cell = distances[(b * width + j) * width + i];
            }
        }
    }
    bertft::spanning_trees(distances.data.get(), batch, width, lengths.data.get(), keep.data.get(), parents.data.get(),
                           random() % 4);
    for (std::size_t b = 0; b < batch; ++b) {
        Edges edges;
        std::size_t roots = 0, kept = 0;
        for (std::size_t i = 0; i < width; ++i) {
            const std::int32_t parent = parents[b * width + i];
            const bool counts = i < static_cast<std::size_t>(lengths[b]) && keep[b * width + i];
            kept += counts;
            if (parent < 0) {
                roots += counts;
                if (counts && roots == 1 && kept != 1) return false;  // the first kept word is the root
                continue;
            }
            const auto other = static_cast<std::size_t>(parent);
            if (!counts || other >= width) return false;
            edges.emplace(std::min(i, other), std::max(i, other));
        }
        if (roots != std::min<std::size_t>(kept, 1)) return false;
        if (edges != kruskal(&distances.data[b * width * width], width, static_cast<std::size_t>(lengths[b]),
                             &keep.data[b * width])) {
            return false;
        }
    }

    // A NaN anywhere between kept words is refused, and the sentence named.
    std::vector<std::size_t> cells;
    for (std::size_t i = 0; i < distances.size; ++i) {
        if (!std::isnan(distances[i])) cells.push_back(i);
    }
    if (cells.empty()) return true;
    const std::size_t cell = cells[random() % cells.size()];
    distances[cell] = -std::numeric_limits<Value>::quiet_NaN();
    try {
        bertft::spanning_trees(distances.data.get(), batch, width, lengths.data.get(), keep.data.get(),
                               parents.data.get(), random() % 4);
    } catch (const std::invalid_argument& refusal) {
        const std::string named = "sentence " + std::to_string(cell / (width * width)) + " ";
        return std::string(refusal.what()).find(named) != std::string::npos;
    }
    return false;
}

template <class Value>
std::vector<double> textbook_ranks(const Value* values, std::size_t n) {
    std::vector<Value> sorted(values, values + n);
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> ranks;
    for (std::size_t i = 0; i < n; ++i) {
        const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), values[i]);
        ranks.push_back(0.5 * static_cast<double>((first - sorted.begin()) + (last - sorted.begin())));
    }
    return ranks;
}

double pearson(const std::vector<double>& x, const std::vector<double>& y) {
    const auto n = static_cast<double>(x.size());
    const double x_mean = std::accumulate(x.begin(), x.end(), 0.0) / n,
                 y_mean = std::accumulate(y.begin(), y.end(), 0.0) / n;
    double xx = 0, xy = 0, yy = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
        xx += (x[i] - x_mean) * (x[i] - x_mean);
        xy += (x[i] - x_mean) * (y[i] - y_mean);
        yy += (y[i] - y_mean) * (y[i] - y_mean);
    }
    return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : std::numeric_limits<double>::quiet_NaN();
}

template <class X, class Y>
bool correlations_agree(std::uint64_t seed) {
    Random random(seed);
    // Every eighth is long enough to be sorted.
    const std::size_t rows = random() % 40, width = random() % (seed % 8 == 0 ? 600 : 60);
    const auto kind = static_cast<unsigned>(random() % kKinds);
    Exact<X> x(rows * width);
    Exact<Y> y(rows * width);
    Exact<std::int64_t> lengths(rows);
    Exact<double> correlations(rows);
    for (std::size_t i = 0; i < x.size; ++i) {
        x[i] = draw<X>(random, kind);
        y[i] = draw<Y>(random, static_cast<unsigned>(random() % 2));
    }
    for (std::size_t row = 0; row < rows; ++row) {
        lengths[row] = static_cast<std::int64_t>(random() % (width + 1));
        // Beyond the length NaNs do not count; within, they make the row's correlation NaN.
        for (std::size_t i = static_cast<std::size_t>(lengths[row]); i < width; ++i) {
            x[row * width + i] = std::numeric_limits<X>::quiet_NaN();
        }
        if (random() % 8 == 0 && lengths[row] > 0) y[row * width] = std::numeric_limits<Y>::quiet_NaN();
    }
    bertft::row_spearman(x.data.get(), y.data.get(), rows, width, lengths.data.get(), correlations.data.get(),
                         random() % 4);
    for (std::size_t row = 0; row < rows; ++row) {
        const auto n = static_cast<std::size_t>(lengths[row]);
        const X* x_row = x.data.get() + row * width;
        const Y* y_row = y.data.get() + row * width;
        const bool nan = n < 2 || std::isnan(y_row[0]);
        const double wanted = nan ? std::numeric_limits<double>::quiet_NaN()
                                  : pearson(textbook_ranks(x_row, n), textbook_ranks(y_row, n));
        const double found = correlations[row];
        if (std::isnan(wanted) ? !std::isnan(found) : !(std::abs(found - wanted) < 1e-12)) return false;
    }
    return true;
}

bool lengths_are_checked() {
    const std::vector<float> cells(8, 0.0F);
    const std::vector<unsigned char> keep(4, 1);
    std::vector<std::int32_t> parents(4);
    std::vector<double> correlations(2);
    for (const std::int64_t wrong : {std::int64_t{3}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max()}) {
        const std::vector<std::int64_t> lengths = {1, wrong};
        int refused = 0;
        try {
            bertft::spanning_trees(cells.data(), 2, 2, lengths.data(), keep.data(), parents.data());
        } catch (const std::invalid_argument&) {
            ++refused;
        }
        try {
            bertft::row_spearman(cells.data(), cells.data(), 2, 2, lengths.data(), correlations.data());
        } catch (const std::invalid_argument&) {
            ++refused;
        }
        if (refused != 2) return false;
    }
    return true;
}

}  // namespace

int main() {
    constexpr std::uint64_t cases = 400;
    for (std::uint64_t seed = 0; seed < cases; ++seed) {
        const bool trees = trees_agree<float>(seed) && trees_agree<double>(seed);
        const bool correlations = correlations_agree<float, float>(seed) && correlations_agree<double, float>(seed) &&
                                  correlations_agree<double, double>(seed);
        if (!trees || !correlations) {
            std::fprintf(stderr, "%s: wrong at seed %llu\n", trees ? "row_spearman" : "spanning_trees",
                         static_cast<unsigned long long>(seed));
            return 1;
        }
    }
    if (!lengths_are_checked()) {
        std::fprintf(stderr, "a length beyond the width was not refused\n");
        return 1;
    }
    std::printf("trees and rank correlations: %llu random cases agree with the textbook\n",
                static_cast<unsigned long long>(cases));
}
