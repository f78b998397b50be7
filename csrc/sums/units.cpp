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

}  // namespace lrcore::sums
