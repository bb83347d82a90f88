// Spanning trees and rank correlations of many short rows on a GPU: the same algorithms as csrc/trees.hpp and
// csrc/spearman.hpp.
//
// A warp owns a sentence or a row, and its 32 lanes share the words. They synchronise only in warp shuffles, never in a
// barrier of the block, so a block may have any number of warps. All ranks and sums are integers and edges have a
// strict order, so the answers are those of the CPU for any order of the lanes.
//
// This file includes nothing, since NVRTC has no headers. csrc/tests/cuda_emulation.hpp compiles it as C++ for the
// tests.

typedef unsigned int Word;
typedef unsigned long long Bits;

#define ALL_LANES 0xffffffffu
#define LANES 32

// ---------------------------------------------------------------------------------------------------- spanning trees

// An edge as (bits with the order of its distance, number of its cell): a strict total order.
struct Edge {
    Bits distance;
    Word cell;
};

// Numbers that are not cells: for a word that needs no edge (in the tree or left out), and for one without an edge yet.
#define NO_CELL 0xffffffffu
#define ANY_CELL 0xfffffffeu

__device__ inline bool below(Edge a, Edge b) {
    return a.distance < b.distance || (a.distance == b.distance && a.cell < b.cell);
}

// Bits with the order of their values, -0.0 as 0.0. Floats are not added or compared: CuPy compiles with -ftz=true,
// under which both treat subnormal floats as zeros.
__device__ inline Word order_key(float value) {
    const Word bits = __float_as_uint(value), sign = 1u << 31;
    return bits == sign ? sign : bits & sign ? ~bits : bits | sign;
}

__device__ inline Bits order_key(double value) {
    const Bits bits = __double_as_longlong(value), sign = 1ull << 63;
    return bits == sign ? sign : bits & sign ? ~bits : bits | sign;
}

// Prim's algorithm. Each lane keeps the lowest edge that joins each of its words, lane, lane + 32, …, to the tree.
// `space` is shared memory for `width` edges, 12 bytes each, which no other warp touches.
template <class Value>
__device__ void spanning_tree(const Value* distances, Word width, Word length, const unsigned char* keep, int* parents,
                              unsigned char* has_nan, Bits* space) {
    const Word lane = threadIdx.x;
    Bits* best_distance = space;
    Word* best_cell = reinterpret_cast<Word*>(space + width);

    // The first kept word is the root.
    Word joined = width;
    for (Word word = lane; word < width; word += LANES) {
        const bool kept = word < length && keep[word];
        parents[word] = -1;
        best_distance[word] = ~0ull;
        best_cell[word] = kept ? ANY_CELL : NO_CELL;
        if (kept && word < joined) joined = word;
    }
    for (Word apart = LANES / 2; apart != 0; apart /= 2) {
        const Word other = __shfl_xor_sync(ALL_LANES, joined, apart);
        if (other < joined) joined = other;
    }

    bool nan = false;
    while (joined < width) {
        if (joined % LANES == lane) best_cell[joined] = NO_CELL;
        const Value* row = distances + Bits{joined} * width;
        const Value* column = distances + joined;
        Edge lowest = {~0ull, NO_CELL};
        for (Word word = lane; word < length; word += LANES) {
            Edge best = {best_distance[word], best_cell[word]};
            if (best.cell == NO_CELL) continue;
            const Value there = row[word], back = column[Bits{word} * width];
            nan |= there != there || back != back;
            const Edge forth = {order_key(there), joined * width + word};
            const Edge reverse = {order_key(back), word * width + joined};
            const Edge edge = below(forth, reverse) ? forth : reverse;
            if (below(edge, best)) {
                best = edge;
                best_distance[word] = best.distance;
                best_cell[word] = best.cell;
            }
            if (below(best, lowest)) lowest = best;
        }
        for (Word apart = LANES / 2; apart != 0; apart /= 2) {
            const Edge other = {__shfl_xor_sync(ALL_LANES, lowest.distance, apart),
                                __shfl_xor_sync(ALL_LANES, lowest.cell, apart)};
            if (below(other, lowest)) lowest = other;
        }
        if (lowest.cell == NO_CELL) break;
        // One end is in the tree; the lane that keeps the other end knows which.
        const Word from = lowest.cell / width, to = lowest.cell % width;
        const Word owner = __ballot_sync(ALL_LANES, to % LANES == lane && best_cell[to] == lowest.cell);
        joined = owner ? to : from;
        if (joined % LANES == lane) parents[joined] = static_cast<int>(owner ? from : to);
    }
    if (__any_sync(ALL_LANES, nan) && lane == 0) *has_nan = 1;
}

// ------------------------------------------------------------------------------------------------- rank correlations

__device__ inline long long sum_of_lanes(long long mine) {
    for (Word apart = LANES / 2; apart != 0; apart /= 2) mine += __shfl_xor_sync(ALL_LANES, mine, apart);
    return mine;
}

// A rank, doubled and centred, is the number of values below minus the number above, counted over all pairs.
// Sums of their products are exact up to two million values.
template <class X, class Y>
__device__ void correlation(const X* x, const Y* y, Word n, double* answer) {
    long long xx = 0, xy = 0, yy = 0;
    bool nan = false;
    for (Word i = threadIdx.x; i < n; i += LANES) {
        nan |= x[i] != x[i] || y[i] != y[i];
        const auto x_mine = order_key(x[i]);
        const auto y_mine = order_key(y[i]);
        int x_count = 0, y_count = 0;
        for (Word j = 0; j < n; ++j) {
            const auto x_other = order_key(x[j]);
            const auto y_other = order_key(y[j]);
            x_count += (x_other < x_mine) - (x_other > x_mine);
            y_count += (y_other < y_mine) - (y_other > y_mine);
        }
        const long long x_rank = x_count, y_rank = y_count;
        xx += x_rank * x_rank;
        xy += x_rank * y_rank;
        yy += y_rank * y_rank;
    }
    xx = sum_of_lanes(xx);
    xy = sum_of_lanes(xy);
    yy = sum_of_lanes(yy);
    nan = __any_sync(ALL_LANES, nan);
    if (threadIdx.x != 0) return;
    const bool none = nan || xx == 0 || yy == 0;
    *answer = none ? __longlong_as_double(0x7ff8000000000000ll)
                   : static_cast<double>(xy) / sqrt(static_cast<double>(xx) * static_cast<double>(yy));
}

// ----------------------------------------------------------------------------------------------------------- kernels

// One sentence in a block of one warp. `has_nan` must be zeros.
#define SPANNING_TREES(name, Value)                                                                              \
    extern "C" __global__ void name(const Value* distances, const long long* lengths, const unsigned char* keep, \
                                    int* parents, unsigned char* has_nan, long long width) {                     \
        extern __shared__ Bits space[];                                                                          \
        const long long sentence = blockIdx.x;                                                                   \
        spanning_tree(distances + sentence * width * width, static_cast<Word>(width),                            \
                      static_cast<Word>(lengths[sentence]), keep + sentence * width, parents + sentence * width, \
                      has_nan + sentence, space);                                                                \
    }

SPANNING_TREES(spanning_trees_float32, float)
SPANNING_TREES(spanning_trees_float64, double)

// One row in a warp, blockDim.y rows in a block.
#define ROW_SPEARMAN(name, X, Y)                                                                            \
    extern "C" __global__ void name(const X* x, const Y* y, const long long* lengths, double* correlations, \
                                    long long rows, long long width) {                                      \
        const long long row = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y;                \
        if (row < rows) {                                                                                   \
            const Word length = static_cast<Word>(lengths[row]);                                            \
            correlation(x + row * width, y + row * width, length, correlations + row);                      \
        }                                                                                                   \
    }

ROW_SPEARMAN(row_spearman_float32_float32, float, float)
ROW_SPEARMAN(row_spearman_float32_float64, float, double)
ROW_SPEARMAN(row_spearman_float64_float32, double, float)
ROW_SPEARMAN(row_spearman_float64_float64, double, double)
