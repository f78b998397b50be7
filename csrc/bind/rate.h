// The numbers of one step: the learning rate, which is constant or comes from a schedule, and the scale of the
// gradients.
#pragma once

#include <optional>

#include "arguments.h"

namespace lrcore {

/// The learning rate: the schedule that the optimizer exposes, and the source of a step's rate. The source is a float
/// or a callable of the number of steps taken so far.
struct Rate {
  py::object schedule;
  py::object source;
};

/// Returns `value` as a rate. If a schedule returned it, `t` is the step count. Throws TypeError or ValueError if it is
/// not a rate.
double checked_rate(py::handle value, std::optional<int64_t> t = std::nullopt);

/// Returns the rate of the step that follows `count` steps. Calls `source` in the default floating-point mode.
double rate_at(py::handle source, int64_t count);

/// Returns the factor for the gradients, or 1 if `object` is null. Throws TypeError or ValueError if it is not a number
/// that fits in float32.
double checked_grad_scale(py::handle object);

}  // namespace lrcore
