// Compiles a CUDA kernel of independent warps as C++. The 32 lanes are fibers of one thread, which run from one
// synchronisation of the warp to the next in random order, so that an answer that depends on the order varies.
//
// A lane that ends while another waits, or that waits in another kind of synchronisation, stops the program: on a GPU
// this would hang or be undefined. There are no barriers of a block.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>

#define __device__
#define __global__
#define __shared__

struct Position {
    unsigned x = 0, y = 0;
};
inline Position threadIdx, blockIdx, blockDim;

using std::sqrt;

namespace emulation {

constexpr unsigned kLanes = 32;
constexpr std::size_t kStack = 1 << 16;

struct Lane {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    bool done = false;
    const char* meeting = nullptr;
    unsigned long long shown = 0;
};

inline std::array<Lane, kLanes> lanes;
inline ucontext_t scheduler;
inline std::function<void()> work;
inline std::mt19937 order;

[[noreturn]] inline void stop(const char* why) {
    std::fprintf(stderr, "emulated warp: %s\n", why);
    std::abort();
}

inline void lane_main() {
    work();
    lanes[threadIdx.x].done = true;
    swapcontext(&lanes[threadIdx.x].context, &scheduler);
}

// Waits until all lanes are here.
inline void meet(const char* meeting) {
    Lane& mine = lanes[threadIdx.x];
    mine.meeting = meeting;
    swapcontext(&mine.context, &scheduler);
}

inline void run_warp() {
    for (Lane& lane : lanes) {
        lane.done = false;
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.get();
        lane.context.uc_stack.ss_size = kStack;
        lane.context.uc_link = nullptr;
        makecontext(&lane.context, lane_main, 0);
    }
    std::array<unsigned, kLanes> turns;
    for (unsigned i = 0; i < kLanes; ++i) turns[i] = i;
    while (!lanes[0].done) {
        std::shuffle(turns.begin(), turns.end(), order);
        for (const unsigned lane : turns) {
            threadIdx.x = lane;
            swapcontext(&scheduler, &lanes[lane].context);
        }
        for (const Lane& lane : lanes) {
            if (lane.done != lanes[0].done) stop("a lane ended where others wait for it");
            if (!lane.done && std::strcmp(lane.meeting, lanes[0].meeting) != 0) stop("lanes wait for different things");
        }
    }
}

// Runs kernel() for every warp of a grid of `blocks` blocks of 32 x warps threads.
template <class Kernel>
void launch(unsigned blocks, unsigned warps, const Kernel& kernel) {
    blockDim = {kLanes, warps};
    work = kernel;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        for (unsigned warp = 0; warp < warps; ++warp) {
            threadIdx.y = warp;
            run_warp();
        }
    }
}

// Calls pick(shown) with the values that the lanes show.
template <class Value, class Pick>
auto exchange(const char* meeting, Value mine, const Pick& pick) {
    static_assert(sizeof(Value) <= sizeof(unsigned long long));
    std::memcpy(&lanes[threadIdx.x].shown, &mine, sizeof mine);
    meet(meeting);
    const auto found = pick([](unsigned lane) {
        Value shown;
        std::memcpy(&shown, &lanes[lane].shown, sizeof shown);
        return shown;
    });
    meet(meeting);  // no lane may show its next value before all have read this one
    return found;
}

}  // namespace emulation

template <class Value>
Value __shfl_xor_sync(unsigned, Value value, unsigned mask) {
    return emulation::exchange("shuffle", value, [&](const auto& shown) { return shown(threadIdx.x ^ mask); });
}

inline unsigned __ballot_sync(unsigned, bool holds) {
    return emulation::exchange("ballot", holds, [](const auto& shown) {
        unsigned bits = 0;
        for (unsigned lane = 0; lane < emulation::kLanes; ++lane) bits |= unsigned{shown(lane)} << lane;
        return bits;
    });
}

inline bool __any_sync(unsigned mask, bool holds) { return __ballot_sync(mask, holds) != 0; }

template <class To, class From>
To same_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
inline long long __double_as_longlong(double value) { return same_bits<long long>(value); }
inline double __longlong_as_double(long long bits) { return same_bits<double>(bits); }
