#include "constants.h"

#include <cstring>
#include <type_traits>

#include "rules/registry.h"

namespace lrcore {
namespace {

template <class R>
void fold(const double* hypers, const Clock& now, Memo& memo, float* constants) {
  typename R::Hyper hyper{};
  static_assert(std::is_empty_v<typename R::Hyper> || sizeof hyper == R::hypers.count * sizeof(double));
  static_assert(R::hypers.count <= max_hypers && R::states.count <= max_states);
  std::memcpy(static_cast<void*>(&hyper), hypers, R::hypers.count * sizeof(double));

  const auto rule = R::fold(hyper, now, memo);
  static_assert(sizeof rule == sizeof(R) && sizeof(R) <= max_constants * sizeof(float));
  static_assert(std::is_trivially_copyable_v<R>);
  std::memcpy(constants, &rule, sizeof rule);
}

}  // namespace

std::span<const RuleInfo> rule_infos() {
  return rules::with_all([](auto... entry) -> std::span<const RuleInfo> {
    static const RuleInfo table[] = {{entry.name, decltype(entry)::Rule::states, decltype(entry)::Rule::hypers,
                                      rules::cost<typename decltype(entry)::Rule>(),
                                      fold<typename decltype(entry)::Rule>}...};
    return table;
  });
}

Stages fold_stages(double lr, double weight_decay, bool decoupled, double grad_scale, bool maximize) {
  return {.gscale = rules::f32(maximize ? -grad_scale : grad_scale),
          .wd = rules::f32(weight_decay),
          .keep = rules::f32(decoupled ? 1 - lr * weight_decay : 1)};
}

}  // namespace lrcore
