// The step count of an optimizer: on the host, where each step computes its constants, or on the device, next to a
// table with the constants of every step that a CUDA graph may take.
#pragma once

#include <atomic>
#include <optional>
#include <vector>

#include "constants_table.h"

namespace lrcore {

class Clock {
 public:
  /// Moves the count, which must be 0, to a device, with the constants of the first `steps` steps. Requires the GIL.
  void move_to_device(const cuda::Api& api, Device device, int64_t steps, const StepTable& table);
  bool on_device() const { return table_.has_value(); }

  /// Returns the number of steps taken. Waits for the device if the count is there.
  int64_t count() const { return table_ ? table_->step_count() : count_.load(std::memory_order_acquire); }
  void set_count(int64_t count);
  /// Returns the number of steps in the table on the device.
  int64_t steps_on_device() const { return table_->steps(); }
  /// Replaces the constants on the device and, if it is present, the count.
  void set_table(const StepTable& table, std::optional<int64_t> count);

  /// Returns the addresses from which a launch reads the constants, or null pointers if they are on the host.
  const cuda::Table& table() const { return view_; }
  /// Counts a step. If the count is on the device, the increment is queued on `stream`, unless the step has been
  /// skipped by a decision there.
  void advance(uintptr_t stream, const cuda::Decision* decision = nullptr) {
    if (table_) [[unlikely]]
      table_->advance(decision, stream);
    else
      count_.store(count_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

 private:
  std::atomic<int64_t> count_{0};  // stays 0 if there is a table
  cuda::Table view_{};             // of the table; made once, because small steps are slower if each makes it
  std::optional<ConstantsTable> table_;
};

}  // namespace lrcore
