#include "backends.h"
#include "lane_avx2.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const Kernels avx2_kernels = kernels<Avx2>();

}  // namespace lrcore::cpu
