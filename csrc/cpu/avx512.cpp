#include "backends.h"
#include "lane_avx512.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const Kernels avx512_kernels = kernels<Avx512>();

}  // namespace lrcore::cpu
