// Random input for the fuzzers: numbers that are hard to order, in arrays of exactly their size.
#pragma once

#include <array>
#include <cstddef>
#include <limits>
#include <memory>
#include <random>

namespace fuzzing {

using Random = std::mt19937_64;

// An array of exactly its size on the heap, so that the sanitizer sees the first byte beyond.
template <class Value>
struct Exact {
    explicit Exact(std::size_t n) : size(n), data(new Value[n]) {}
    Value& operator[](std::size_t i) { return data[i]; }
    std::size_t size;
    std::unique_ptr<Value[]> data;
};

// Smooth values, few levels, some infinities, neighbours that tie in float32 only, or the ends of the number line.
constexpr unsigned kKinds = 5;

template <class Value>
Value draw(Random& random, unsigned kind) {
    using Limits = std::numeric_limits<Value>;
    constexpr std::array<Value, 9> edges = {0,
                                            -Value{0},
                                            Limits::infinity(),
                                            -Limits::infinity(),
                                            Limits::denorm_min(),
                                            Limits::min(),
                                            Limits::max(),
                                            Limits::lowest(),
                                            1};
    const auto unit = static_cast<Value>(std::uniform_real_distribution<double>()(random));
    const auto level = static_cast<Value>(random() % 6);
    switch (kind) {
        case 0:
            return unit;
        case 1:
            return level;
        case 2:
            return random() % 3 ? Limits::infinity() : unit;
        case 3:
            return level + static_cast<Value>(random() % 4) * static_cast<Value>(1e-12);
        default:
            return edges[random() % edges.size()];
    }
}

}  // namespace fuzzing
