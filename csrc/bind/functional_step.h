// A functional step applies a rule with its hyperparameters to arrays. The caller keeps the arrays and the step number.
#pragma once

#include "operands.h"
#include "pending_reads.h"
#include "step_lock.h"

namespace lrcore {

class FunctionalStep {
 public:
  explicit FunctionalStep(const RuleConfig& config) : config_(config) {}

  /// Takes step number `t`. Several threads may call this function at the same time.
  void apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
             py::handle grad_scale, py::handle stream);

 private:
  const RuleConfig config_;
  /// Guards the members below. Held only briefly, and only by a thread that also holds the GIL, so it is free in a
  /// forked child.
  StepMutex mutex_;
  Memo memo_;
  PendingReads pending_reads_;
};

}  // namespace lrcore
