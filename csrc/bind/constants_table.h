// The constants of every step that a CUDA graph may take, and the step count, in device memory.
#pragma once

#include <vector>

#include "device.h"

namespace lrcore {

/// The constants of several steps: the rows of each step in turn; and for each step the largest norm of the gradients,
/// if they are clipped, and `Step::averaging`, if the parameters are averaged.
struct StepTable {
  std::vector<Constants> rows;
  std::vector<double> max_norms;
  std::vector<float> averagings;
};

class ConstantsTable {
 public:
  /// Allocates memory for tables like this one.
  ConstantsTable(const cuda::Api& api, Device device, int64_t steps, const StepTable& table);

  int64_t steps() const { return steps_; }
  /// Returns the addresses that a launch reads.
  cuda::Table view() const {
    return {.rows = rows_,
            .step_count = step_count_,
            .last = steps_ - 1,
            .per_step = rows_per_step_,
            .max_norms = max_norms_,
            .averagings = averagings_};
  }

  /// Waits for the device, then replaces the constants of all steps and the step count.
  void write(const StepTable& table, int64_t step_count);
  /// Waits for the device, then returns the step count.
  int64_t step_count() const;
  void set_step_count(int64_t step_count);
  /// Queues an increment of the step count on `stream`, unless the step has been skipped by a decision.
  void advance(const cuda::Decision* decision, uintptr_t stream) const;

 private:
  const cuda::Api& api_;
  int64_t steps_;
  int64_t rows_per_step_;
  DeviceMemory memory_;
  Constants* rows_;
  int64_t* step_count_;
  double* max_norms_;  // null if there are none, as `averagings_`
  float* averagings_;
};

}  // namespace lrcore
