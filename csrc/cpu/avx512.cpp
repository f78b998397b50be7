#include "backends.h"
#include "lane_avx512.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const SweepTable avx512_sweeps = sweep_table<Avx512>();

}  // namespace lrcore::cpu
