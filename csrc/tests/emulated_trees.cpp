// A library for the Python tests: the kernels of bertft/kernels/trees.cu by name, with arguments as 64-bit words.
#include "emulated_trees.hpp"

#include <cstdint>
#include <cstring>

namespace {

// A pointer or an integer, as the kernel needs.
struct Argument {
    std::uint64_t word;
    template <class Value>
    operator Value*() const {
        return reinterpret_cast<Value*>(word);
    }
    operator long long() const { return static_cast<long long>(word); }
};

}  // namespace

// Returns 0, or 1 for an unknown name.
extern "C" int emulated_launch(const char* kernel, unsigned blocks, unsigned warps, const Argument* a) {
#define KERNEL(name, ...)                                             \
    if (std::strcmp(kernel, #name) == 0) {                            \
        emulation::launch(blocks, warps, [a] { name(__VA_ARGS__); }); \
        return 0;                                                     \
    }
    KERNEL(spanning_trees_float32, a[0], a[1], a[2], a[3], a[4], a[5])
    KERNEL(spanning_trees_float64, a[0], a[1], a[2], a[3], a[4], a[5])
    KERNEL(row_spearman_float32_float32, a[0], a[1], a[2], a[3], a[4], a[5])
    KERNEL(row_spearman_float32_float64, a[0], a[1], a[2], a[3], a[4], a[5])
    KERNEL(row_spearman_float64_float32, a[0], a[1], a[2], a[3], a[4], a[5])
    KERNEL(row_spearman_float64_float64, a[0], a[1], a[2], a[3], a[4], a[5])
    return 1;
}
