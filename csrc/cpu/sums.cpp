#include "sums.h"

#include <algorithm>
#include <cmath>

#include "fp_mode.h"
#include "pool.h"

namespace lrcore::cpu {
namespace {

struct Work {
  const SweepTable& table;
  const sums::Units& units;
  std::span<const Terms> terms;
  double* leaf_sums;
};

/// Adds the terms of the elements [begin, end) of a leaf to its partial sums.
void add_terms(const SweepTable& table, const Terms& terms, const sums::Elements& leaf, int64_t begin, int64_t end,
               double* partial) {
  if (terms.arrays.empty())
    return table.add_products(terms.x + leaf.begin, terms.y + leaf.begin, begin - leaf.begin, end - leaf.begin,
                              partial);
  alignas(64) float sum[sum_block];
  for (int64_t next = 0; begin < end; begin = next) {
    // Blocks after the first one begin with the first partial sum.
    next = std::min(begin + sum_block - (begin - leaf.begin) % sums::partial_sums, end);
    table.add_arrays(terms.arrays.data(), std::ssize(terms.arrays), begin, next, sum);
    const Stream from_leaf = shifted({.data = sum, .format = Format::float32}, begin - leaf.begin);
    const auto* x = elements<const float>(from_leaf);
    table.add_products(x, x, begin - leaf.begin, next - leaf.begin, partial);
  }
}

/// Sums the leaves [begin, end).
void sum_slice(const void* context, int64_t begin, int64_t end) {
  const DefaultFpMode mode;
  const auto& [table, units, every, leaf_sums] = *static_cast<const Work*>(context);
  size_t unit = units.unit_of(begin);
  const auto end_of = [](const Terms& terms) { return terms.elements.end; };
  auto terms = std::ranges::upper_bound(every, units.leaf(begin, unit).begin, {}, end_of);
  for (int64_t k = begin; k < end; ++k) {
    const sums::Elements leaf = units.leaf(k, unit);
    double partial[sums::partial_sums] = {};
    while (terms != every.end() && terms->elements.end <= leaf.begin) ++terms;
    for (auto each = terms; each != every.end() && each->elements.begin < leaf.end; ++each)
      add_terms(table, *each, leaf, std::max(each->elements.begin, leaf.begin), std::min(each->elements.end, leaf.end),
                partial);
    leaf_sums[k] = sums::add_partials(partial);
  }
}

}  // namespace

void sum_leaves(const SweepTable& table, const sums::Units& units, std::span<const Terms> terms, double* leaf_sums) {
  if (units.leaves() == 0) return;
  const Work work{.table = table, .units = units, .terms = terms, .leaf_sums = leaf_sums};
  pool::parallel_for(units.leaves(), sum_slice, &work, sums::leaf_size);
}

void add_up(const sums::Units& units, double* leaf_sums, double* totals) {
  const DefaultFpMode mode;
  units.add_up(leaf_sums, totals);
}

double norm(std::span<double> totals) {
  const DefaultFpMode mode;
  return std::sqrt(sums::add_leaves(totals.data(), std::ssize(totals)));
}

}  // namespace lrcore::cpu
