// A rule with its numbers, from which the constants of each step are folded.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../constants.h"
#include "arguments.h"

namespace lrcore {

/// The numeric arguments: as the optimizer shows them, and as its rule takes them, in the order of its names.
struct Numbers {
  py::object shown;
  std::vector<double> hypers;
  double weight_decay;
};

/// A rule with its numbers.
struct Recipe {
  int rule;
  std::array<double, max_hypers> hypers;
  double weight_decay;
  bool decoupled;
  bool maximize;

  Recipe(const std::string& rule_name, bool decoupled, bool maximize);

  const RuleInfo& info() const { return rule_infos()[static_cast<size_t>(rule)]; }
  /// The same rule with other numbers.
  Recipe with(const Numbers& numbers) const;
  /// The step's constants, folded in the default floating-point mode.
  Constants fold(const Clock& now, Memo& memo, double grad_scale) const;
  /// Whether the gradient gets a share of the parameters.
  bool coupled() const { return weight_decay != 0 && !decoupled; }
};

/// The names with commas between them.
std::string joined(const Names& names);

}  // namespace lrcore
