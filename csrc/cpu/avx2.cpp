#include "backends.h"
#include "lane_avx2.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const SweepTable avx2_sweeps = sweep_table<Avx2>();

}  // namespace lrcore::cpu
