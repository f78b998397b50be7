// One step of a buffer whose parts may have different constants.
#pragma once

#include <span>

#include "step.h"

namespace lrcore {

/// The elements [begin, end), which are stepped with the constants of one row.
struct Segment {
  int64_t begin, end;
  int64_t before;  // the number of elements in the segments before this one
  int32_t row;

  int64_t size() const { return end - begin; }
  friend bool operator==(const Segment&, const Segment&) = default;
};

/// The arrays of a step, the rows of constants, and the segments in order. Elements outside all segments are neither
/// read nor written.
struct Plan {
  const Step& step;
  std::span<const Constants> rows;
  std::span<const Segment> segments;
  /// For each segment, the gradients that it reads in place of `step.g`; empty if all segments read that one.
  std::span<const Stream> gradients = {};
  /// Gradients that are added from left to right, in place of `step.g`; empty if there is only one.
  std::span<const Stream> added = {};

  /// Returns the number of elements in all segments.
  int64_t size() const { return segments.empty() ? 0 : segments.back().before + segments.back().size(); }
};

}  // namespace lrcore
