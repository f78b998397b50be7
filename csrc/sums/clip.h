// The factor that bounds a norm. The host and devices compute it identically.
#pragma once

#include <limits>

namespace lrcore::sums {

/// Returns the scale of gradients with which their norm is at most `max_norm`. Multiplied by `scale`, they have the
/// norm `norm`.
constexpr double clipped(double scale, double norm, double max_norm) {
  const bool fits = norm <= max_norm || max_norm == std::numeric_limits<double>::infinity();
  return fits ? scale : scale * (max_norm / norm);
}

}  // namespace lrcore::sums
