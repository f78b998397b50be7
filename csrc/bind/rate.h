// The numbers of one step: the learning rate, which is a number or what a schedule returns, and the gradients' scale.
#pragma once

#include <optional>

#include "arguments.h"

namespace lrcore {

/// The learning rate: the schedule as the optimizer shows it, and the source of a step's rate, which is a float or a
/// callable of the number of steps taken before.
struct Rate {
  py::object schedule;
  py::object source;
};

/// Returns `value` as a rate; a schedule returned it at step count `t`, if there is one. Throws TypeError or ValueError
/// if it is not a rate.
double checked_rate(py::handle value, std::optional<int64_t> t = std::nullopt);

/// Returns the rate of the step after `count` steps. Calls `source` in the default floating-point mode.
double rate_at(py::handle source, int64_t count);

/// Returns the number that gradients are multiplied by, 1 if there is no `object`. Throws TypeError or ValueError if it
/// is not a number that float32 holds.
double checked_grad_scale(py::handle object);

}  // namespace lrcore
