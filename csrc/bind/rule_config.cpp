#include "rule_config.h"

#include <algorithm>

#include "../cpu/fp_mode.h"

namespace lrcore {
namespace {

int find_rule(const std::string& name) {
  const auto infos = rule_infos();
  for (size_t i = 0; i < infos.size(); ++i)
    if (name == infos[i].name) return static_cast<int>(i);
  throw py::value_error(text("rule: no rule is called '", name, "'; lrcore.rules() lists them"));
}

}  // namespace

std::string joined(const Names& names) {
  std::string all;
  for (int i = 0; i < names.count; ++i) all += text(i ? ", " : "", names.text[i]);
  return all;
}

RuleConfig::RuleConfig(const std::string& rule_name, bool is_decoupled, bool is_maximize)
    : rule(find_rule(rule_name)), hypers{}, weight_decay(0), decoupled(is_decoupled), maximize(is_maximize) {}

RuleConfig RuleConfig::with(const Hyperparameters& hyperparameters) const {
  if (static_cast<int>(hyperparameters.values.size()) != info().hypers.count)
    throw py::type_error(text("hyper: rule ", info().name, " takes ", joined(info().hypers)));
  RuleConfig changed = *this;
  std::copy(hyperparameters.values.begin(), hyperparameters.values.end(), changed.hypers.begin());
  changed.weight_decay = hyperparameters.weight_decay;
  return changed;
}

Constants RuleConfig::constants_at(const Instant& now, Memo& memo, double grad_scale) const {
  const cpu::DefaultFpMode mode;
  Constants constants{};
  constants.stages =
      stage_constants(now.lr, weight_decay, decoupled, grad_scale, maximize, info().flush_mask(hypers.data()));
  info().constants_at(hypers.data(), now, memo, constants.rule);
  return constants;
}

}  // namespace lrcore
