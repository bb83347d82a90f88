// Fork and join over std::thread, with which the C++ core uses several processors.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace bertft {

// The number of threads to use: `wanted`, or if that is 0 one for each processor that this process may run on.
inline std::size_t thread_count(std::size_t wanted) {
    if (wanted != 0) return wanted;
#ifdef __linux__
    // A process limited to few processors, by taskset or a container, would wait for its own threads otherwise.
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return static_cast<std::size_t>(CPU_COUNT(&allowed));
#endif
    return std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

// Calls work(0), …, work(threads - 1) at the same time and returns when all are done. The first exception is rethrown.
template <class Work>
void run_parallel(std::size_t threads, const Work& work) {
    std::vector<std::exception_ptr> failures(threads);
    const auto guarded = [&](std::size_t thread) {
        try {
            work(thread);
        } catch (...) {
            failures[thread] = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    for (std::size_t thread = 1; thread < threads; ++thread) {
        // If the system refuses another thread, its work is done here afterwards: only time is lost.
        try {
            others.emplace_back(guarded, thread);
        } catch (const std::system_error&) {
            guarded(thread);
        }
    }
    guarded(0);
    for (auto& other : others) other.join();
    for (const auto& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

// Calls work(low, high) on blocks that cover 0, …, n - 1, each once. A free thread takes the next block.
template <class Work>
void parallel_blocks(std::size_t n, std::size_t block, std::size_t threads, const Work& work) {
    const std::size_t blocks = (n + block - 1) / block;
    std::atomic<std::size_t> next{0};
    run_parallel(std::max<std::size_t>(1, std::min(thread_count(threads), blocks)), [&](std::size_t) {
        for (std::size_t i; (i = next++) < blocks;) work(i * block, std::min(n, (i + 1) * block));
    });
}

}  // namespace bertft
