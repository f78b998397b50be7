// The numbers of one step: the learning rates and hyperparameters, which are constant or come from schedules, and the
// scale of the gradients.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "arguments.h"

namespace lrcore {

/// Whether two sources of a rate, which may be null, are the same object, number, or method of the same object. Runs no
/// Python code.
bool is_same(py::handle source, py::handle other);

/// A hyperparameter of a group, by its index among the values of the rule; the weight decay; or one that belongs to no
/// group: the largest norm of the gradients, or the decay of the average of the parameters.
struct NumberPlace {
  static constexpr int weight_decay = -1;
  static constexpr int max_norm = -2;
  static constexpr int ema = -3;

  /// Whether an index is that of a number that belongs to no group.
  static constexpr bool is_of_all(int index) { return index < weight_decay; }

  size_t group;
  int index;

  friend bool operator==(const NumberPlace&, const NumberPlace&) = default;
};

/// The source of a hyperparameter that changes from step to step: a callable of the number of steps taken so far. If
/// the result is not a float from 0 to below `limit`, `check` is called with the result and the number of steps; it
/// returns a float, or raises the error.
struct NumberSource {
  py::object source;
  py::object check;
  double limit;
  std::vector<NumberPlace> places;
  bool is_used;  // by a group that is not frozen, or by no group

  friend bool operator==(const NumberSource& a, const NumberSource& b) {
    return is_same(a.source, b.source) && a.limit == b.limit && a.places == b.places && a.is_used == b.is_used;
  }
};

/// The sources of the numbers of a step. The source of a learning rate is a float or a callable of the number of steps
/// taken so far.
struct NumberSources {
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
  std::vector<OfGroup> of_groups;                            // empty if all groups take the optimizer's rate
  std::shared_ptr<const std::vector<NumberSource>> numbers;  // null if no hyperparameter changes
};

/// The hyperparameters of one step that change from step to step.
struct ChangingNumbers {
  std::shared_ptr<const std::vector<NumberSource>> sources;
  std::vector<double> values;  // NaN for those that are not used
};

/// The learning rates and the changing hyperparameters of one step.
struct StepNumbers {
  double of_optimizer = 0;
  std::vector<double> of_groups;  // NaN for frozen groups; empty if all groups take the optimizer's rate
  // Null if there are none. They are not a member, because that would make small steps slower.
  std::unique_ptr<const ChangingNumbers> changing;

  double of_group(size_t group) const { return of_groups.empty() ? of_optimizer : of_groups[group]; }
};

/// Returns `value` as a rate. Throws TypeError or ValueError if it is not a rate.
double checked_rate(py::handle value);

/// Returns the numbers of the step that follows `count` steps. Calls the sources in the default floating-point mode.
/// Throws TypeError or ValueError if one of the results is out of range.
StepNumbers numbers_at(const NumberSources& sources, int64_t count);

/// Whether two lists of sources, which may be null, are the same.
bool are_same(const std::shared_ptr<const std::vector<NumberSource>>& sources,
              const std::shared_ptr<const std::vector<NumberSource>>& others);

/// Whether the numbers are computed by Python code.
bool calls_python(const NumberSources& sources);

/// Returns the factor for the gradients, or 1 if `object` is null. Throws TypeError or ValueError if it is not a number
/// that fits in float32.
double checked_grad_scale(py::handle object);

}  // namespace lrcore
