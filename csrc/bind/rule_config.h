// A rule with its hyperparameters, from which the constants of each step are computed.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../constants.h"
#include "arguments.h"

namespace lrcore {

/// The largest step number. All step numbers are exact as doubles.
inline constexpr int64_t max_step = (int64_t{1} << 53) - 1;

/// The numeric arguments, both as the dictionary for the optimizer's `hyper` and as the values for its rule, in the
/// order of the rule's hyperparameters.
struct Hyperparameters {
  py::object dict;
  std::vector<double> values;
  double weight_decay;
};

/// A rule with its hyperparameters.
struct RuleConfig {
  int rule;
  std::array<double, max_hypers> hypers;
  double weight_decay;
  bool decoupled;
  bool maximize;

  RuleConfig(const std::string& rule_name, bool decoupled, bool maximize);

  const RuleInfo& info() const { return rule_infos()[static_cast<size_t>(rule)]; }
  /// Returns the same rule with other hyperparameters.
  RuleConfig with(const Hyperparameters& hyperparameters) const;
  /// Returns the constants of the step `now`, computed in the default floating-point mode.
  Constants constants_at(const Instant& now, Memo& memo, double grad_scale) const;
  /// Whether weight decay is added to the gradient.
  bool coupled() const { return weight_decay != 0 && !decoupled; }
};

/// Returns the names, separated by commas.
std::string joined(const Names& names);

}  // namespace lrcore
