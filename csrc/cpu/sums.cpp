#include "sums.h"

#include <algorithm>
#include <vector>

#include "../sums/tree.h"
#include "fp_mode.h"
#include "pool.h"

namespace lrcore::cpu {
namespace {

struct Work {
  std::span<const Unit> units;
  std::vector<int64_t> first_leaf;  // of each unit, and their number
  std::vector<double> sums;
  LeafSums leaf_sums;
};

/// Sums the leaves [begin, end), counted over all units.
void sum_slice(const void* context, int64_t begin, int64_t end) {
  const DefaultFpMode mode;
  auto& [units, first_leaf, sums, leaf_sums] = *static_cast<Work*>(const_cast<void*>(context));
  auto k = static_cast<size_t>(std::ranges::upper_bound(first_leaf, begin) - first_leaf.begin()) - 1;
  for (; begin < end; ++k) {
    const Unit& unit = units[k];
    const int64_t last = std::min(first_leaf[k + 1], end);
    leaf_sums(unit.x, unit.y, unit.n, begin - first_leaf[k], last - first_leaf[k], sums.data() + begin);
    begin = last;
  }
}

}  // namespace

void sum_units(LeafSums leaf_sums, std::span<const Unit> units, double* totals) {
  Work work{.units = units, .first_leaf = {0}, .sums = {}, .leaf_sums = leaf_sums};
  for (const Unit& unit : units) work.first_leaf.push_back(work.first_leaf.back() + sums::leaves_of(unit.n));
  work.sums.resize(static_cast<size_t>(work.first_leaf.back()));
  pool::parallel_for(work.first_leaf.back(), sum_slice, &work, sums::leaf_size);
  const DefaultFpMode mode;
  for (size_t k = 0; k < units.size(); ++k)
    totals[k] = sums::add_leaves(work.sums.data() + work.first_leaf[k], sums::leaves_of(units[k].n));
}

}  // namespace lrcore::cpu
