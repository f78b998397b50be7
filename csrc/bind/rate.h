// The numbers of one step: the learning rates, which are constant or come from schedules, and the scale of the
// gradients.
#pragma once

#include <optional>
#include <vector>

#include "arguments.h"

namespace lrcore {

/// Whether two sources of a rate, which may be null, are the same object, number, or method of the same object. Runs no
/// Python code.
bool is_same(py::handle source, py::handle other);

/// The sources of the learning rates of a step. A source is a float or a callable of the number of steps taken so far.
struct RateSources {
  /// A group's own source, or null if the group takes the optimizer's rate multiplied by `scale`. A frozen group needs
  /// no rate.
  struct OfGroup {
    py::object source;
    double scale;
    bool is_frozen;

    friend bool operator==(const OfGroup& a, const OfGroup& b) {
      return is_same(a.source, b.source) && a.scale == b.scale && a.is_frozen == b.is_frozen;
    }
  };
  py::object of_optimizer;
  std::vector<OfGroup> of_groups;  // empty if all groups take the optimizer's rate
};

/// The learning rates of one step.
struct Rates {
  double of_optimizer = 0;
  std::vector<double> of_groups;  // NaN for frozen groups; empty if all groups take the optimizer's rate

  double of_group(size_t group) const { return of_groups.empty() ? of_optimizer : of_groups[group]; }
};

/// Returns `value` as a rate. Throws TypeError or ValueError if it is not a rate.
double checked_rate(py::handle value);

/// Returns the rates of the step that follows `count` steps. Calls the sources in the default floating-point mode.
/// Throws TypeError or ValueError if one of the results is not a rate.
Rates rates_at(const RateSources& sources, int64_t count);

/// Whether the rates are computed by Python code.
bool calls_python(const RateSources& sources);

/// Returns the factor for the gradients, or 1 if `object` is null. Throws TypeError or ValueError if it is not a number
/// that fits in float32.
double checked_grad_scale(py::handle object);

}  // namespace lrcore
