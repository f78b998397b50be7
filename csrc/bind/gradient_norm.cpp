#include "gradient_norm.h"

#include <utility>

#include "../cpu/sums.h"
#include "../dispatch.h"

namespace lrcore {

GradientSums::GradientSums(std::vector<sums::Elements> units)
    : units_(std::move(units)),
      leaf_sums_(static_cast<size_t>(units_.leaves())),
      totals_(static_cast<size_t>(units_.count())) {}

const std::vector<double>& GradientSums::of_units(const Plan& plan) {
  std::vector<cpu::Terms> terms;
  terms.reserve(plan.segments.size());
  for (size_t k = 0; k < plan.segments.size(); ++k) {
    const auto* g = elements<const float>(plan.gradients.empty() ? plan.step.g : plan.gradients[k]);
    const Segment& segment = plan.segments[k];
    terms.push_back({.x = g, .y = g, .elements = {.begin = segment.begin, .end = segment.end}, .arrays = plan.added});
  }
  cpu::sum_leaves(*active_backend().table, units_, terms, leaf_sums_.data());
  return added_up();
}

const DeviceSums& GradientSums::on_device(const cuda::Api& api, Device device, std::span<const Segment> segments) {
  if (!on_device_) on_device_.emplace(api, device, units_, segments);
  return *on_device_;
}

const std::vector<double>& GradientSums::of_units_on_device() {
  on_device_->read(leaf_sums_);
  return added_up();
}

const std::vector<double>& GradientSums::added_up() {
  cpu::add_up(units_, leaf_sums_.data(), totals_.data());
  return totals_;
}

double norm_of(const std::vector<const std::vector<double>*>& sums) {
  std::vector<double> all;
  for (const std::vector<double>* each : sums) all.insert(all.end(), each->begin(), each->end());
  return cpu::norm(all);
}

std::optional<double> SkipRecord::norm() const {
  if (!has_norm_.load(std::memory_order_acquire)) return std::nullopt;
  return norm_.load(std::memory_order_relaxed);
}

void SkipRecord::set_norm(double norm) {
  norm_.store(norm, std::memory_order_relaxed);
  has_norm_.store(true, std::memory_order_release);
}

void SkipRecord::skip(int64_t step_count) {
  skipped_.store(skipped_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  if (in_a_row_++ == 0) since_ = step_count;
}

void SkipRecord::take_norm(const cuda::Decision& decision) {
  if (!(decision.norm < 0)) set_norm(decision.norm);  // NaN is a norm, too
}

void SkipRecord::assign(const cuda::Decision& decision) {
  take_norm(decision);
  skipped_.store(decision.skipped, std::memory_order_relaxed);
  in_a_row_ = decision.in_a_row;
  since_ = decision.since;
}

cuda::Decision SkipRecord::as_decision() const {
  return {.norm = norm().value_or(-1),
          .gscale = 1,
          .is_skipped = 0,
          .skipped = skipped(),
          .in_a_row = in_a_row_,
          .since = since_};
}

void SkipRecord::set_skipped(int64_t skipped) {
  skipped_.store(skipped, std::memory_order_relaxed);
  in_a_row_ = 0;
}

}  // namespace lrcore
