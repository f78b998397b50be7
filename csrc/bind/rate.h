// The numbers of one step: the learning rate, which is a number or what a schedule says, and the gradients' scale.
#pragma once

#include <optional>

#include "arguments.h"

namespace lrcore {

/// The learning rate: the schedule as the optimizer shows it, and what is asked for a step's rate, a float or a
/// callable that takes the number of steps taken before.
struct Rate {
  py::object schedule;
  py::object asked;
};

/// The rate `value`, which a schedule returned when it was asked at `asked_at`, if there was one. TypeError or
/// ValueError for what is not a rate.
double checked_rate(py::handle value, std::optional<int64_t> asked_at = std::nullopt);

/// Asks for the rate of the step after `count` steps, in the default floating-point mode.
double rate_at(py::handle asked, int64_t count);

/// The number that gradients are multiplied by, 1 if there is no `object`. TypeError or ValueError for what is not a
/// number that float32 holds.
double checked_grad_scale(py::handle object);

}  // namespace lrcore
