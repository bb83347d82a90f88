// The lengths of the rows or sentences of a padded batch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace bertft {

// Throws std::invalid_argument for the first length outside 0, …, width; `item` names what a length belongs to.
inline void check_lengths(const char* function, const char* item, const std::int64_t* lengths, std::size_t n,
                          std::size_t width) {
    for (std::size_t i = 0; i < n; ++i) {
        if (lengths[i] < 0 || static_cast<std::uint64_t>(lengths[i]) > width) {
            throw std::invalid_argument(std::string(function) + ": " + item + " " + std::to_string(i) + " has length " +
                                        std::to_string(lengths[i]) + "; expected 0 to " + std::to_string(width) +
                                        ", the width of the arrays");
        }
    }
}

}  // namespace bertft
