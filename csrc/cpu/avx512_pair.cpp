#include "backends.h"
#include "lane_avx512_pair.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const SweepTable avx512_pair_sweeps = sweep_table<Avx512Pair, Avx512>({&avx512_sweeps, 128});

}  // namespace lrcore::cpu
