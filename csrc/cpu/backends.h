// The tables that the per-instruction-set files emit.
#pragma once

#include "../rules/registry.h"

namespace lrcore::cpu {

extern const Kernels portable_kernels;
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;

}  // namespace lrcore::cpu
