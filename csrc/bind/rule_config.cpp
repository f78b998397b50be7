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

Decay find_decay(const std::string& name) {
  if (name == "l2") return Decay::l2;
  if (name == "decoupled") return Decay::decoupled;
  if (name == "independent") return Decay::independent;
  throw py::value_error(text("decay: expected one of l2, decoupled, independent, got '", name, "'"));
}

std::string joined(const Names& names) {
  std::string all;
  for (int i = 0; i < names.count; ++i) all += text(i ? ", " : "", names.text[i]);
  return all;
}

RuleConfig::RuleConfig(const std::string& rule_name, Decay form_of_decay)
    : rule(find_rule(rule_name)), hypers{}, weight_decay(0), decay(form_of_decay), maximize(false) {}

RuleConfig RuleConfig::with(const Numbers& numbers) const {
  if (static_cast<int>(numbers.values.size()) != info().hypers.count)
    throw py::type_error(text("hyper: rule ", info().name, " takes ", joined(info().hypers)));
  RuleConfig changed = *this;
  std::copy(numbers.values.begin(), numbers.values.end(), changed.hypers.begin());
  changed.weight_decay = numbers.weight_decay;
  changed.maximize = numbers.maximize;
  return changed;
}

void RuleConfig::write_constants(const Instant& now, Memo& memo, double grad_scale, Constants& constants) const {
  constants.stages =
      stage_constants(now.lr, weight_decay, decay, grad_scale, maximize, info().flush_mask(hypers.data()));
  info().constants_at(hypers.data(), now, memo, constants.rule);
}

}  // namespace lrcore
