// The sums of squares of gradients on a CUDA device: the tables that its launches read, and the memory for the sums.
#pragma once

#include <span>
#include <vector>

#include "../plan.h"
#include "../sums/units.h"
#include "device.h"

namespace lrcore {

class DeviceSums {
 public:
  /// Copies the tables to the device, for steps with these segments. Waits for the device. Requires the GIL.
  DeviceSums(const cuda::Api& api, Device device, const sums::Units& units, std::span<const Segment> segments);

  /// Queues the sums of the leaves, of the gradients that a job reads. The device must be current.
  void measure(const cuda::Job& job, uintptr_t stream) const;
  /// Enters the sums that `measure` has queued into a judgement, which adds them up.
  void enter(cuda::Judgement& judgement) const;
  /// Waits for the sums that `measure` has queued, and writes those of the leaves in order.
  void read(std::span<double> leaf_sums) const;

 private:
  const cuda::Api& api_;
  int64_t segments_;
  sums::Additions additions_;
  DeviceMemory memory_;
  double* numbers_;
  cuda::Leaf* leaves_;
  sums::Addition* list_;
  int64_t* phases_;
};

}  // namespace lrcore
