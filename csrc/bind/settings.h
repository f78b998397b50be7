// The settings of an optimizer: the object that Python shows, and the numbers and sources that steps use.
#pragma once

#include <vector>

#include "rule_config.h"
#include "step_numbers.h"

namespace lrcore {

/// The settings of all groups, as a step uses them.
struct GroupSettings {
  std::vector<Numbers> numbers;
  std::vector<bool> frozen;
  std::vector<NumberSources::OfGroup> rates;                  // empty if all groups take the optimizer's rate
  std::shared_ptr<const std::vector<NumberSource>> changing;  // null if no number changes from step to step
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
