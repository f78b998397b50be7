// Runs a step on the CPU.
#pragma once

#include "../plan.h"
#include "backends.h"

namespace lrcore::cpu {

/// Runs a step of a rule on the thread pool, with each thread in the default floating-point mode. Each segment is
/// updated by one of the rule's two sweeps: without or with coupled decay, as its row says.
void run(const SweepTable& table, int rule, const Plan& plan);

/// Runs a sweep that needs no constants over the elements [0, n) in the same way.
void run(Sweep sweep, const Step& step, int64_t n);

/// Zeroes the gradients of a step in the same way, without taking the step.
void zero_gradients(const Plan& plan);

}  // namespace lrcore::cpu
