// The kernels of bertft/kernels/trees.cu as C++, for the fuzzer beside this file and for the Python tests.
#pragma once

#include "cuda_emulation.hpp"

// The dynamic shared memory of a block, as large as a GPU gives by default.
inline unsigned long long space[(48 << 10) / 8];

#include "../../bertft/kernels/trees.cu"
