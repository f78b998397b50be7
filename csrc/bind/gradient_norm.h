// The norm of the gradients of a step, and the record of the steps that it skips.
#pragma once

#include <atomic>
#include <optional>
#include <vector>

#include "device_sums.h"

namespace lrcore {

/// The sums of squares of gradients, with the memory for them.
class GradientSums {
 public:
  explicit GradientSums(std::vector<sums::Elements> units);

  /// Returns the sum of each unit on the CPU. Elements that a step does not read count as zeros. Requires neither the
  /// GIL nor the default floating-point mode.
  const std::vector<double>& of_units(const Plan& plan);

  /// Returns the sums on a device, whose tables are made on first use. This requires the GIL.
  const DeviceSums& on_device(const cuda::Api& api, Device device, std::span<const Segment> segments);
  /// Waits for the sums that the device has measured, and returns the sum of each unit.
  const std::vector<double>& of_units_on_device();
  /// Forgets the tables, because the segments have changed.
  void forget_segments() { on_device_.reset(); }

 private:
  const std::vector<double>& added_up();

  sums::Units units_;
  std::optional<DeviceSums> on_device_;
  std::vector<double> leaf_sums_;
  std::vector<double> totals_;
};

/// Returns the norm of all units of several sums, in order.
double norm_of(const std::vector<const std::vector<double>*>& sums);

/// The last norm, and the number of skipped steps. A step writes them with the optimizer's lock; any thread may read
/// them.
class SkipRecord {
 public:
  std::optional<double> norm() const;
  int64_t skipped() const { return skipped_.load(std::memory_order_relaxed); }

  void set_norm(double norm);
  /// Takes the norm from a decision of a device, unless none has been measured.
  void take_norm(const cuda::Decision& decision);
  /// Counts a skipped step, which would have followed `step_count` steps.
  void skip(int64_t step_count);
  /// Replaces this record by that of a device.
  void assign(const cuda::Decision& decision);
  /// Returns this record in the form of a device.
  cuda::Decision as_decision() const;
  /// Ends a row of skipped steps.
  void end_row() { in_a_row_ = 0; }
  void set_skipped(int64_t skipped);

  /// Returns the number of steps that were skipped in a row, and the step count at which the row began.
  int64_t in_a_row() const { return in_a_row_; }
  int64_t since() const { return since_; }

 private:
  std::atomic<double> norm_{0};
  std::atomic<bool> has_norm_{false};
  std::atomic<int64_t> skipped_{0};
  int64_t in_a_row_ = 0;
  int64_t since_ = 0;
};

}  // namespace lrcore
