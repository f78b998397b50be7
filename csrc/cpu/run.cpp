#include "run.h"

#include <algorithm>

#include "fp_mode.h"
#include "pool.h"

namespace lrcore::cpu {
namespace {

struct Work {
  const Sweep* sweeps;
  const Plan& plan;
};

/// Updates the elements [begin, end), counted over the segments alone.
void run_slice(const void* context, int64_t begin, int64_t end) {
  const DefaultFpMode mode;
  const auto& [sweeps, plan] = *static_cast<const Work*>(context);
  auto segment = plan.segments.begin();
  if (begin != 0) segment = std::ranges::upper_bound(plan.segments, begin, {}, &Segment::before) - 1;
  Step step = plan.step;
  for (; begin < end; ++segment) {
    const int64_t size = std::min(segment->before + segment->size(), end) - begin;
    const int64_t first = segment->begin + (begin - segment->before);
    const Constants& row = plan.rows[static_cast<size_t>(segment->row)];
    if (!plan.gradients.empty()) step.g = plan.gradients[static_cast<size_t>(segment - plan.segments.begin())];
    sweeps[is_coupled(row)](step, row, first, first + size);
    begin += size;
  }
}

}  // namespace

void run(const Sweep (&sweeps)[2], const Plan& plan) {
  if (plan.segments.empty()) return;
  const Work work{sweeps, plan};
  pool::parallel_for(plan.size(), run_slice, &work);
}

void run(Sweep sweep, const Step& step, int64_t n) {
  const Constants none{};
  const Segment whole{.begin = 0, .end = n, .before = 0, .row = 0};
  run({sweep, sweep}, {.step = step, .rows = {&none, 1}, .segments = {&whole, 1}});
}

}  // namespace lrcore::cpu
