// The constants of every step that a CUDA graph may take, and the count of the steps taken, in memory of the device.
#pragma once

#include <vector>

#include "device.h"

namespace lrcore {

class Timetable {
 public:
  Timetable(const cuda::Api& api, Place place, int64_t steps);

  int64_t steps() const { return steps_; }
  /// What a launch reads.
  cuda::Table view() const { return {rows_, taken_, steps_ - 1}; }

  /// Replaces rows and count, when all that the device has been given is done. `rows` holds `steps()` of them.
  void write(const std::vector<Constants>& rows, int64_t taken);
  /// The count, when all that the device has been given is done.
  int64_t taken() const;
  void set_taken(int64_t taken);
  /// Lets `stream` add 1 to the count.
  void advance(uintptr_t stream) const;

 private:
  const cuda::Api& api_;
  int64_t steps_;
  DeviceMemory memory_;
  Constants* rows_;
  int64_t* taken_;
};

}  // namespace lrcore
