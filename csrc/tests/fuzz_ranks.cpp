// Compares tied_ranks with the textbook definition on random input. `make lint` runs it under the address and
// undefined-behaviour sanitizers. Prints the seed of a failing case and exits with status 1.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "../ranks.hpp"

namespace {

using Random = std::mt19937_64;

// The mean of the ranks that a value could have in sorted order.
template <class Value>
std::vector<double> textbook_ranks(const std::vector<Value>& values) {
    std::vector<Value> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    std::vector<double> ranks;
    for (const Value value : values) {
        const auto [first, last] = std::equal_range(sorted.begin(), sorted.end(), value);
        ranks.push_back(0.5 * static_cast<double>((first - sorted.begin()) + 1 + (last - sorted.begin())));
    }
    return ranks;
}

// Values that are hard for a sort by bits: any bits at all, few levels, one dominant value, the ends of the number
// line, or values close together just below 1, like cosines.
template <class Value>
Value draw(Random& random, unsigned kind) {
    using Limits = std::numeric_limits<Value>;
    constexpr Value edges[] = {0,
                               -Value{0},
                               Limits::infinity(),
                               -Limits::infinity(),
                               Limits::denorm_min(),
                               -Limits::denorm_min(),
                               Limits::min(),
                               Limits::max(),
                               Limits::lowest(),
                               1};
    const auto unit = static_cast<Value>(std::uniform_real_distribution<double>()(random));
    switch (kind) {
        case 0: {
            // NaNs of all payloads occur here. They are replaced, because tied_ranks refuses them.
            const std::uint64_t bits = random();
            Value value;
            std::memcpy(&value, &bits, sizeof value);
            return std::isnan(value) ? Value{0} : value;
        }
        case 1:
            return static_cast<Value>(random() % 7) - 3;
        case 2:
            return random() % 10 ? Value{0.5} : unit;
        case 3:
            return edges[random() % std::size(edges)];
        default:
            return 1 - unit * Value{1e-4};
    }
}

template <class Value>
bool agrees(std::uint64_t seed) {
    Random random(seed);
    // Mostly short; every eighth is long enough for several buckets and threads.
    const std::size_t n = random() % (seed % 8 == 0 ? 80'000 : 300);
    const auto kind = static_cast<unsigned>(random() % 5);
    std::vector<Value> values(n);
    for (auto& value : values) value = draw<Value>(random, kind);

    // Exactly as large as needed, so that the sanitizer sees the first byte beyond.
    const std::unique_ptr<double[]> ranks(new double[n]);
    bertft::tied_ranks(values.data(), n, ranks.get(), random() % 5);
    if (!std::equal(ranks.get(), ranks.get() + n, textbook_ranks(values).begin())) return false;

    if (n == 0) return true;
    std::uint64_t all_bits = ~std::uint64_t{0} >> 1;
    Value nan;
    std::memcpy(&nan, &all_bits, sizeof nan);
    for (std::size_t i = random() % n; i < n; i += 1 + random() % n) values[i] = nan;
    try {
        bertft::tied_ranks(values.data(), n, ranks.get(), random() % 5);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

int main() {
    constexpr std::uint64_t cases = 600;
    for (std::uint64_t seed = 0; seed < cases; ++seed) {
        if (!agrees<double>(seed) || !agrees<float>(seed)) {
            std::fprintf(stderr, "tied_ranks: wrong at seed %llu\n", static_cast<unsigned long long>(seed));
            return 1;
        }
    }
    std::printf("tied_ranks: %llu random cases agree with the textbook\n", static_cast<unsigned long long>(cases));
}
