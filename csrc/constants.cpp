#include "constants.h"

#include <cstring>
#include <type_traits>

#include "rules/registry.h"

namespace lrcore {
namespace {

template <class R>
typename R::Hyper hyper_of(const double* hypers) {
  typename R::Hyper hyper{};
  static_assert(std::is_empty_v<typename R::Hyper> || sizeof hyper == R::hypers.count * sizeof(double));
  static_assert(R::hypers.count <= max_hypers && R::states.count <= max_states);
  std::memcpy(static_cast<void*>(&hyper), hypers, R::hypers.count * sizeof(double));
  return hyper;
}

template <class R>
void constants_at(const double* hypers, const Instant& now, Memo& memo, float* constants) {
  const auto rule = R::constants_at(hyper_of<R>(hypers), now, memo);
  static_assert(sizeof rule == sizeof(R) && sizeof(R) <= max_constants * sizeof(float));
  static_assert(std::is_trivially_copyable_v<R>);
  std::memcpy(constants, &rule, sizeof rule);
}

/// Returns the bits of the exponent, so that a state below 2^-126 is stored as 0: a decaying average would otherwise
/// become subnormal and stay so, and subnormal arithmetic is slow. The root of a flushed value is at most 2^-63, which
/// is negligible if eps is at least 1e-10. For a smaller eps, returns all bits, so that nothing is flushed.
template <class R>
uint32_t flush_mask(const double* hypers) {
  if constexpr (requires(typename R::Hyper hyper) { hyper.eps; })
    if (hyper_of<R>(hypers).eps < 1e-10) return ~uint32_t{0};
  return 0x7f800000;
}

}  // namespace

std::span<const RuleInfo> rule_infos() {
  return rules::with_all([](auto... entry) -> std::span<const RuleInfo> {
    static const RuleInfo table[] = {{entry.name, decltype(entry)::Rule::states, decltype(entry)::Rule::hypers,
                                      rules::cost<typename decltype(entry)::Rule>(),
                                      constants_at<typename decltype(entry)::Rule>,
                                      flush_mask<typename decltype(entry)::Rule>}...};
    return table;
  });
}

Stages stage_constants(double lr, double weight_decay, Decay decay, double grad_scale, bool maximize,
                       uint32_t flush_mask) {
  const bool coupled = decay == Decay::l2;
  const double rate = decay == Decay::decoupled ? lr : 1;
  return {.gscale = rules::f32(maximize ? -grad_scale : grad_scale),
          .wd = rules::f32(coupled ? weight_decay : 0),
          .decay_factor = rules::f32(coupled ? 1 : 1 - rate * weight_decay),
          .flush_mask = flush_mask};
}

double nadam_momentum_product(double t, double beta1, double momentum_decay) {
  Memo memo;
  return rules::NAdam::product({.beta1 = beta1, .beta2 = 0, .eps = 0, .momentum_decay = momentum_decay}, t, memo);
}

}  // namespace lrcore
