// The leaves of several sums, one after the other.
#pragma once

#include <span>
#include <vector>

#include "tree.h"

namespace lrcore::sums {

/// The elements [begin, end) of an array. Those of a unit are added up for themselves.
struct Elements {
  int64_t begin, end;

  int64_t size() const { return end - begin; }
};

/// How a device adds up the sums of leaves, in one array of numbers that are 0 at first.
struct Additions {
  std::vector<int64_t> leaves;  // where the sum of each leaf is written
  std::vector<Addition> additions;
  std::vector<int64_t> phases;  // where each phase ends: its additions need the results of earlier phases alone
  int64_t numbers;              // in the array
  int64_t total;                // the number that is the sum of all units
};

class Units {
 public:
  explicit Units(std::vector<Elements> units);

  int64_t count() const { return static_cast<int64_t>(units_.size()); }
  /// Returns the number of the leaves of all units.
  int64_t leaves() const { return first_leaf_.back(); }
  /// Returns the index of the unit that has a leaf.
  size_t unit_of(int64_t leaf) const;
  /// Returns the elements of a leaf, which is in the unit at index `unit` or a later one. Moves the index to it.
  Elements leaf(int64_t leaf, size_t& unit) const;

  /// Adds the sums of the leaves, which it overwrites, and writes the sum of each unit.
  void add_up(double* leaf_sums, double* totals) const;
  /// Returns the same additions as a list, followed by those of the units' sums.
  Additions additions() const;

 private:
  std::vector<Elements> units_;
  std::vector<int64_t> first_leaf_;  // of each unit, and the number of all leaves
};

}  // namespace lrcore::sums
