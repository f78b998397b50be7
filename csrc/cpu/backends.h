// The tables that the per-instruction-set files emit, and that of the simulated grid.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

extern const Kernels portable_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels emulated_kernels;

}  // namespace lrcore::cpu
