// Every rule's name, states, hyperparameters and step constants, and the step constants of the stages.
#pragma once

#include <span>

#include "cost.h"

namespace lrcore {

struct RuleInfo {
  const char* name;
  Names states;
  Names hypers;
  rules::Cost cost;
  /// Writes the rule's step constants. `hypers` holds doubles in the order of the names.
  void (*constants_at)(const double* hypers, const Instant& now, Memo& memo, float* constants);
  /// A state with none of these bits is stored as 0.
  uint32_t (*flush_mask)(const double* hypers);
};

/// In the order of the registry.
std::span<const RuleInfo> rule_infos();

/// `weight_decay` is decoupled from the gradient or coupled to it; `maximize` turns the gradient round; `flush_mask` is
/// the rule's.
Stages stage_constants(double lr, double weight_decay, bool decoupled, double grad_scale, bool maximize,
                       uint32_t flush_mask);

/// Returns the product of NAdam's momenta of the steps 1 to t, from which its step constants are computed.
double nadam_momentum_product(double t, double beta1, double momentum_decay);

}  // namespace lrcore
