// What happens on a device before a guarded step: the gradients are measured, and the step is decided upon. The code
// runs on a GPU, or on the grid that `emulated` simulates on the host.
#pragma once

#include "../sums/clip.h"
#include "leaf.h"
#include "thread.h"

namespace lrcore::cuda {

/// Returns the partial sum that a thread has of a leaf. `load(address)` loads an element from global memory.
template <class Load>
constexpr double measured(const Measurement& launch, const Leaf& leaf, int thread, Load load) {
  const Job& job = launch.job;
  double sum = 0;
  for (int64_t k = leaf.segment; k < launch.segments; ++k) {
    const Extent& part = job.extents == nullptr ? job.whole : job.extents[k];
    if (part.begin >= leaf.end) break;
    const auto* grads = elements<const float>(job.gradients == nullptr ? job.step.g : job.gradients[k]) + leaf.begin;
    const auto squared = [&](int64_t i) {
      float g = load(grads + i);
      for (int64_t each = 1; each < job.added_count; ++each)
        g = g + load(elements<const float>(job.added[each]) + leaf.begin + i);
      return double{g} * double{g};
    };
    const int64_t begin = part.begin > leaf.begin ? part.begin : leaf.begin;
    const int64_t end = part.end < leaf.end ? part.end : leaf.end;
    sum = partial_sum(sum, squared, begin - leaf.begin, end - leaf.begin, thread);
  }
  return sum;
}

/// Returns the partial sum that a thread has of an addition.
constexpr double added(const Judgement& launch, const sums::Addition& addition, int thread) {
  const double* numbers = launch.numbers + addition.from;
  return partial_sum(0, [=](int64_t i) { return numbers[i]; }, 0, addition.count, thread);
}

/// Decides about the step. `sqrt` returns a correctly rounded root.
template <class Root>
constexpr void decide(const Judgement& launch, Root sqrt) {
  Decision decision = *launch.decision;
  double scale = launch.grad_scale;
  if (launch.loss_scale != nullptr) scale = scale / double{*launch.loss_scale};
  bool is_skipped = launch.found_inf != nullptr && *launch.found_inf != 0;
  if (launch.numbers != nullptr && !is_skipped) {
    const double norm = sqrt(launch.numbers[launch.total]);
    const bool is_finite = norm - norm == 0;
    is_skipped = launch.skips != 0 && !is_finite;
    decision.norm = norm * ((scale < 0 ? -scale : scale) + 0.0);  // of -0, too, the absolute value
    const Table& table = launch.table;
    scale = sums::clipped(scale, decision.norm,
                          table.max_norms == nullptr ? launch.max_norm : table.max_norms[table.entry()]);
  }
  decision.gscale = static_cast<float>(scale);
  decision.is_skipped = is_skipped ? 1 : 0;
  if (!is_skipped) {
    decision.in_a_row = 0;
  } else {
    decision.skipped += 1;
    if (decision.in_a_row == 0)
      decision.since = launch.table.step_count == nullptr ? launch.step_count : *launch.table.step_count;
    decision.in_a_row += 1;
  }
  *launch.decision = decision;
  if (launch.copy != nullptr) *launch.copy = decision;
}

}  // namespace lrcore::cuda
