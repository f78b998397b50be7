// The step of a function: a rule with its hyperparameters, on arrays and with a step number that the caller keeps.
#pragma once

#include "operands.h"
#include "pending_reads.h"
#include "step_lock.h"

namespace lrcore {

class FunctionalStep {
 public:
  explicit FunctionalStep(const RuleConfig& config) : config_(config) {}

  /// Takes step number `t`. Several threads may take steps at the same time.
  void apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
             py::handle grad_scale, py::handle stream);

 private:
  const RuleConfig config_;
  /// Guards what is below. Held briefly and never without the GIL, so that a forked child finds it free.
  StepMutex mutex_;
  Memo memo_;
  PendingReads pending_reads_;
};

}  // namespace lrcore
