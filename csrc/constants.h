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
  /// Returns a mask. States that have none of the mask's bits set are stored as 0.
  uint32_t (*flush_mask)(const double* hypers);
};

/// Returns the rules in the order of the registry.
std::span<const RuleInfo> rule_infos();

/// How weight decay is applied: added to the gradient, or as a factor of the parameters that depends on the rate
/// (decoupled) or does not (independent).
enum class Decay : uint8_t { l2, decoupled, independent };

/// Returns the constants of the stages. `maximize` negates the gradient, and `flush_mask` is the rule's mask.
Stages stage_constants(double lr, double weight_decay, Decay decay, double grad_scale, bool maximize,
                       uint32_t flush_mask);

/// Returns the product of NAdam's momenta for steps 1 to t, on which its step constants depend.
double nadam_momentum_product(double t, double beta1, double momentum_decay);

}  // namespace lrcore
