#include "units.h"

#include <algorithm>
#include <utility>

namespace lrcore::sums {

Units::Units(std::vector<Elements> units) : units_(std::move(units)), first_leaf_{0} {
  for (const Elements& unit : units_) first_leaf_.push_back(first_leaf_.back() + leaves_of(unit.size()));
}

size_t Units::unit_of(int64_t leaf) const {
  return static_cast<size_t>(std::ranges::upper_bound(first_leaf_, leaf) - first_leaf_.begin()) - 1;
}

Elements Units::leaf(int64_t leaf, size_t& unit) const {
  while (leaf >= first_leaf_[unit + 1]) ++unit;
  const int64_t begin = units_[unit].begin + (leaf - first_leaf_[unit]) * leaf_size;
  return {.begin = begin, .end = std::min(begin + leaf_size, units_[unit].end)};
}

void Units::add_up(double* leaf_sums, double* totals) const {
  for (size_t k = 0; k < units_.size(); ++k)
    totals[k] = add_leaves(leaf_sums + first_leaf_[k], first_leaf_[k + 1] - first_leaf_[k]);
}

Additions Units::additions() const {
  struct Numbers {
    int64_t from, count, to;  // added up to number `to`
  };
  Additions plan{.leaves = {}, .additions = {}, .phases = {}, .numbers = count(), .total = 0};
  const auto add_up = [&](std::vector<Numbers> every) {
    while (!every.empty()) {
      std::vector<Numbers> sums;
      for (const auto& [from, count, to] : every) {
        const int64_t leaves = leaves_of(count);
        const int64_t first = leaves == 1 ? to : std::exchange(plan.numbers, plan.numbers + leaves);
        for (int64_t k = 0; k < leaves; ++k)
          plan.additions.push_back(
              {.from = from + k * leaf_size, .count = std::min(leaf_size, count - k * leaf_size), .to = first + k});
        if (leaves > 1) sums.push_back({first, leaves, to});
      }
      plan.phases.push_back(std::ssize(plan.additions));
      every = std::move(sums);
    }
  };

  std::vector<Numbers> of_leaves;
  for (int64_t k = 0; k < count(); ++k) {
    const int64_t leaves = first_leaf_[static_cast<size_t>(k) + 1] - first_leaf_[static_cast<size_t>(k)];
    const int64_t first = leaves == 1 ? k : std::exchange(plan.numbers, plan.numbers + leaves);
    for (int64_t leaf = 0; leaf < leaves; ++leaf) plan.leaves.push_back(first + leaf);
    if (leaves > 1) of_leaves.push_back({first, leaves, k});
  }
  add_up(std::move(of_leaves));
  if (count() != 1) plan.total = plan.numbers++;
  if (count() > 1) add_up({{0, count(), plan.total}});
  return plan;
}

}  // namespace lrcore::sums
