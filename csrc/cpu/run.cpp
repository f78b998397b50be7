#include "run.h"

#include <algorithm>
#include <cstring>

#include "fp_mode.h"
#include "pool.h"

namespace lrcore::cpu {
namespace {

/// The sweeps of a rule, without and with coupled decay.
using Sweeps = const Sweep (*)[2];

struct Work {
  Sweeps sweeps;
  Sweeps short_sweeps;  // of ranges of fewer than `shortest` elements
  int64_t shortest;
  const Plan& plan;
  AddArrays add_arrays;
};

void zero(const Stream& array, int64_t begin, int64_t end) {
  std::memset(elements<float>(array) + begin, 0, static_cast<size_t>(end - begin) * sizeof(float));
}

/// A sweep that only zeroes the gradients.
void zero_sweep(const Step& step, const Constants&, int64_t begin, int64_t end) { zero(step.g, begin, end); }

/// Runs a sweep over the elements [begin, end) with the sum of several gradients.
void run_blocks(Sweep sweep, Step step, const Constants& row, int64_t begin, int64_t end,
                std::span<const Stream> gradients, AddArrays add_arrays) {
  alignas(64) float sum[sum_block];
  const bool zeroes_grads = step.zeroes_grads;
  step.zeroes_grads = false;
  for (int64_t next = 0; begin < end; begin = next) {
    next = std::min(begin + sum_block, end);
    add_arrays(gradients.data(), std::ssize(gradients), begin, next, sum);
    step.g = shifted({.data = sum, .format = Format::float32}, begin);
    sweep(step, row, begin, next);
    if (zeroes_grads)
      for (const Stream& each : gradients) zero(each, begin, next);
  }
}

/// Updates the elements [begin, end), counted over the segments alone.
void run_slice(const void* context, int64_t begin, int64_t end) {
  const DefaultFpMode mode;
  const auto& [sweeps, short_sweeps, shortest, plan, add_arrays] = *static_cast<const Work*>(context);
  auto segment = plan.segments.begin();
  if (begin != 0) segment = std::ranges::upper_bound(plan.segments, begin, {}, &Segment::before) - 1;
  Step step = plan.step;
  for (; begin < end; ++segment) {
    const int64_t size = std::min(segment->before + segment->size(), end) - begin;
    const int64_t first = segment->begin + (begin - segment->before);
    const Constants& row = plan.rows[static_cast<size_t>(segment->row)];
    if (!plan.gradients.empty()) step.g = plan.gradients[static_cast<size_t>(segment - plan.segments.begin())];
    const Sweep sweep = (size < shortest ? short_sweeps : sweeps)[is_coupled(row)][step.has_extras()];
    if (plan.added.empty()) [[likely]]
      sweep(step, row, first, first + size);
    else
      run_blocks(sweep, step, row, first, first + size, plan.added, add_arrays);
    begin += size;
  }
}

/// Runs one sweep over all segments.
void run_all(Sweep sweep, const Plan& plan) {
  const Sweep sweeps[][2] = {{sweep, sweep}, {sweep, sweep}};
  const Work work{sweeps, sweeps, 0, plan, nullptr};
  pool::parallel_for(plan.size(), run_slice, &work);
}

}  // namespace

void run(const SweepTable& table, int rule, const Plan& plan) {
  if (plan.segments.empty()) return;
  const auto& [shorter, shortest] = table.shorter;
  const Sweeps short_sweeps = shorter != nullptr ? shorter->sweeps[rule] : nullptr;
  const Work work{table.sweeps[rule], short_sweeps, shortest, plan, table.add_arrays};
  pool::parallel_for(plan.size(), run_slice, &work);
}

void run(Sweep sweep, const Step& step, int64_t n) {
  const Constants none{};
  const Segment whole{.begin = 0, .end = n, .before = 0, .row = 0};
  const Plan plan{.step = step, .rows = {&none, 1}, .segments = {&whole, 1}};
  run_all(sweep, plan);
}

void zero_gradients(const Plan& plan) {
  if (plan.segments.empty()) return;
  Plan part = plan;
  part.added = {};
  if (plan.added.empty()) return run_all(zero_sweep, part);
  Step step = plan.step;
  for (const Stream& each : plan.added) {
    step.g = each;
    run_all(zero_sweep, {.step = step, .rows = plan.rows, .segments = plan.segments});
  }
}

}  // namespace lrcore::cpu
