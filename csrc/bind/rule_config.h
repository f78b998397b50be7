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

/// The numbers of a rule: the values of its hyperparameters in order, and those of the stages.
struct Numbers {
  std::vector<double> values;
  double weight_decay;
  bool maximize;
};

/// A rule with its hyperparameters.
struct RuleConfig {
  int rule;
  std::array<double, max_hypers> hypers;
  double weight_decay;
  Decay decay;
  bool maximize;

  RuleConfig(const std::string& rule_name, Decay decay);

  const RuleInfo& info() const { return rule_infos()[static_cast<size_t>(rule)]; }
  /// Returns the same rule with other numbers.
  RuleConfig with(const Numbers& numbers) const;
  /// Returns the hyperparameter at an index among the values of the rule, or the weight decay if it is negative.
  double& number(int index) { return index < 0 ? weight_decay : hypers[static_cast<size_t>(index)]; }
  /// Writes the constants of the step `now`. Requires the default floating-point mode. Writes in place,
  /// because the wide loads of a copy would have to wait for the narrow stores before them.
  void write_constants(const Instant& now, Memo& memo, double grad_scale, Constants& constants) const;
};

/// Returns the form of weight decay of that name.
Decay find_decay(const std::string& name);

/// Returns the names, separated by commas.
std::string joined(const Names& names);

}  // namespace lrcore
