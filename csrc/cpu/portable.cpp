#include "backends.h"
#include "lane_portable.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const Kernels portable_kernels = kernels<Portable>();

}  // namespace lrcore::cpu
