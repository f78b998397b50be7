// The settings of an optimizer: the object that Python shows, and the numbers and sources that steps use.
#pragma once

#include <optional>
#include <vector>

#include "rule_config.h"
#include "step_numbers.h"

namespace lrcore {

/// What a step does with the norm of its gradients.
struct Guard {
  /// The gradients are scaled so that their norm is at most this one; no value if they are not. It is NaN until the
  /// first step if it changes from step to step.
  std::optional<double> max_norm;
  /// The number of steps in a row that may be skipped, because gradients are not finite, before it is an error; 0 if no
  /// step is skipped.
  int64_t patience = 0;

  bool is_on() const { return max_norm || patience > 0; }
};

/// The settings of all groups and of the whole optimizer, as a step uses them.
struct GroupSettings {
  std::vector<Numbers> numbers;
  std::vector<bool> frozen;
  std::vector<NumberSources::OfGroup> rates;                  // empty if all groups take the optimizer's rate
  std::shared_ptr<const std::vector<NumberSource>> changing;  // null if no number changes from step to step
  Guard guard;
  /// The decay of the average of the parameters; no value if there is no average. It is NaN until the first step if it
  /// changes from step to step.
  std::optional<double> ema;
};

/// New settings of all groups.
struct NewSettings {
  py::object expected;  // the settings that they replace, or None for any
  py::object shown;     // for Python
  GroupSettings groups;
};

/// A new rate of the optimizer: the schedule, for Python, and the source of the rates.
struct NewRate {
  py::object schedule;
  py::object source;
};

}  // namespace lrcore
