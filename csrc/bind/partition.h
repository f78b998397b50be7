// The division of an optimizer's elements into groups, and the number of steps that each element has taken.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../plan.h"

namespace lrcore {

/// The elements [begin, end).
struct Range {
  int64_t begin, end;
};

/// Elements that have taken `count` steps.
struct CountedRange : Range {
  int64_t count;
};

/// The elements of a group that have taken the same number of steps. They share the constants of a step.
///
/// While the elements are frozen, `steps` is that number. Otherwise, it is the difference from the optimizer's step
/// count, so that a step changes no row.
struct Row {
  int32_t group;
  bool is_frozen;
  int64_t steps;

  friend bool operator==(const Row&, const Row&) = default;
  int64_t count(int64_t step_count) const { return is_frozen ? steps : step_count - steps; }
};

class Partition {
 public:
  /// Each group after the first has the elements of its ranges, and the first one has the rest. Throws ValueError if
  /// ranges overlap or are outside [0, size).
  Partition(int64_t size, const std::vector<std::vector<Range>>& groups);

  size_t groups() const { return static_cast<size_t>(groups_); }
  const std::vector<Row>& rows() const { return rows_; }
  /// Returns the segments of a step: all elements that are not frozen, with adjacent parts of a row merged.
  const std::vector<Segment>& segments() const { return segments_; }

  /// Returns this partition with other counts. Elements outside `counts`, whose ranges are in order, have taken
  /// `step_count` steps. `frozen` has an entry for each group; the elements of `idle`, whose ranges are in order, are
  /// frozen as well.
  Partition with_counts(int64_t step_count, const std::vector<CountedRange>& counts, const std::vector<bool>& frozen,
                        const std::vector<Range>& idle = {}) const;
  /// Returns the elements that have not taken `step_count` steps, in order.
  std::vector<CountedRange> other_counts(int64_t step_count) const;
  /// Returns the number of steps that the elements of a group have taken, or no value if they differ.
  std::optional<int64_t> count_of(size_t group, int64_t step_count) const;

 private:
  struct Part : Range {
    int32_t group;
    int32_t row;
  };

  int64_t size_;
  int32_t groups_;
  std::vector<Part> parts_;  // all elements, in order
  std::vector<Row> rows_;
  std::vector<Segment> segments_;
};

}  // namespace lrcore
