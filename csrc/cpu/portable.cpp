#include "backends.h"
#include "lane_portable.h"
#include "sweep.h"

namespace lrcore::cpu {

constinit const SweepTable portable_sweeps = sweep_table<Portable>();

}  // namespace lrcore::cpu
