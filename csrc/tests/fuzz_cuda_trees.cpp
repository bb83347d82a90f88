// Compares the emulated CUDA kernels with the C++ core, number for number, on random input. `make lint` runs it under
// the address and undefined-behaviour sanitizers. Exits with status 1 at the first difference.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <vector>

#include "../spearman.hpp"
#include "../trees.hpp"
#include "emulated_trees.hpp"
#include "random_values.hpp"

namespace {

using namespace fuzzing;

void run_kernel(const float* d, const long long* n, const unsigned char* k, int* p, unsigned char* nan, long long w) {
    spanning_trees_float32(d, n, k, p, nan, w);
}
void run_kernel(const double* d, const long long* n, const unsigned char* k, int* p, unsigned char* nan, long long w) {
    spanning_trees_float64(d, n, k, p, nan, w);
}
void run_kernel(const float* x, const float* y, const long long* n, double* c, long long rows, long long w) {
    row_spearman_float32_float32(x, y, n, c, rows, w);
}
void run_kernel(const float* x, const double* y, const long long* n, double* c, long long rows, long long w) {
    row_spearman_float32_float64(x, y, n, c, rows, w);
}
void run_kernel(const double* x, const float* y, const long long* n, double* c, long long rows, long long w) {
    row_spearman_float64_float32(x, y, n, c, rows, w);
}
void run_kernel(const double* x, const double* y, const long long* n, double* c, long long rows, long long w) {
    row_spearman_float64_float64(x, y, n, c, rows, w);
}

// The first lengths[i] numbers of each row count. Numbers beyond are NaN, and an answer that reads them shows it.
template <class Value>
std::vector<Value> draw_rows(Random& random, const std::vector<std::int64_t>& lengths, std::size_t width) {
    std::vector<Value> rows(lengths.size() * width, std::numeric_limits<Value>::quiet_NaN());
    const auto kind = static_cast<unsigned>(random() % kKinds);
    for (std::size_t row = 0; row < lengths.size(); ++row) {
        for (std::int64_t i = 0; i < lengths[row]; ++i) {
            rows[row * width + static_cast<std::size_t>(i)] = draw<Value>(random, kind);
        }
        if (random() % 8 == 0 && lengths[row] > 0) rows[row * width] = std::numeric_limits<Value>::quiet_NaN();
    }
    return rows;
}

std::vector<std::int64_t> draw_lengths(Random& random, std::size_t count, std::size_t width) {
    std::vector<std::int64_t> lengths(count);
    for (auto& length : lengths) length = static_cast<std::int64_t>(random() % (width + 1));
    return lengths;
}

template <class Value>
bool trees_agree(std::uint64_t seed) {
    Random random(seed);
    const std::size_t batch = 1 + random() % 4, width = 1 + random() % 80;
    const auto kind = static_cast<unsigned>(random() % kKinds);
    const auto lengths = draw_lengths(random, batch, width);
    const std::vector<long long> same_lengths(lengths.begin(), lengths.end());
    std::vector<unsigned char> keep(batch * width);
    for (auto& kept : keep) kept = random() % 4 != 0;
    std::vector<Value> distances(batch * width * width, std::numeric_limits<Value>::quiet_NaN());
    std::vector<std::size_t> cells;
    const bool symmetric = random() % 2;
    for (std::size_t b = 0; b < batch; ++b) {
        const auto length = static_cast<std::size_t>(lengths[b]);
        for (std::size_t i = 0; i < length; ++i) {
            for (std::size_t j = 0; j < length; ++j) {
                // Cells that must not be read are NaN, which would be noticed.
                if (i == j || !keep[b * width + i] || !keep[b * width + j]) continue;
                const std::size_t cell = (b * width + i) * width + j;
                cells.push_back(cell);
                distances[cell] =
                    symmetric && j < i ? distances[(b * width + j) * width + i] : draw<Value>(random, kind);
            }
        }
    }
    std::vector<std::int32_t> expected(batch * width, 7), found(batch * width, 9);
    std::vector<unsigned char> has_nan(batch, 0);
    const auto run = [&] {
        emulation::launch(static_cast<unsigned>(batch), 1, [&] {
            run_kernel(distances.data(), same_lengths.data(), keep.data(), found.data(), has_nan.data(),
                       static_cast<long long>(width));
        });
    };
    bertft::spanning_trees(distances.data(), batch, width, lengths.data(), keep.data(), expected.data(), 1);
    run();
    if (found != expected || has_nan != std::vector<unsigned char>(batch, 0)) return false;

    // A NaN of either sign between kept words is noticed, and in its own sentence only.
    if (cells.empty()) return true;
    const std::size_t cell = cells[random() % cells.size()];
    distances[cell] = std::numeric_limits<Value>::quiet_NaN() * static_cast<Value>(random() % 2 ? 1 : -1);
    run();
    std::vector<unsigned char> wanted(batch, 0);
    wanted[cell / (width * width)] = 1;
    return has_nan == wanted;
}

template <class X, class Y>
bool correlations_agree(std::uint64_t seed) {
    Random random(seed);
    const std::size_t rows = 1 + random() % 7, warps = 1 + random() % 4;
    const std::size_t width = 1 + random() % (seed % 8 == 0 ? 400 : 80);
    const auto lengths = draw_lengths(random, rows, width);
    const std::vector<long long> same_lengths(lengths.begin(), lengths.end());
    const auto x = draw_rows<X>(random, lengths, width);
    const auto y = draw_rows<Y>(random, lengths, width);
    std::vector<double> expected(rows), found(rows, 9.0);
    bertft::row_spearman(x.data(), y.data(), rows, width, lengths.data(), expected.data(), 1);
    emulation::launch(static_cast<unsigned>((rows + warps - 1) / warps), static_cast<unsigned>(warps), [&] {
        run_kernel(x.data(), y.data(), same_lengths.data(), found.data(), static_cast<long long>(rows),
                   static_cast<long long>(width));
    });
    for (std::size_t row = 0; row < rows; ++row) {
        if (std::isnan(expected[row]) ? !std::isnan(found[row]) : expected[row] != found[row]) return false;
    }
    return true;
}

}  // namespace

int main() {
    constexpr std::uint64_t cases = 100;
    for (std::uint64_t seed = 0; seed < cases; ++seed) {
        const bool trees = trees_agree<float>(seed) && trees_agree<double>(seed);
        const bool correlations = correlations_agree<float, float>(seed) && correlations_agree<float, double>(seed) &&
                                  correlations_agree<double, float>(seed) && correlations_agree<double, double>(seed);
        if (!trees || !correlations) {
            std::fprintf(stderr, "%s: differs from the core at seed %llu\n", trees ? "row_spearman" : "spanning_trees",
                         static_cast<unsigned long long>(seed));
            return 1;
        }
    }
    std::printf("CUDA trees and rank correlations, emulated: %llu random cases equal the core's\n",
                static_cast<unsigned long long>(cases));
}
