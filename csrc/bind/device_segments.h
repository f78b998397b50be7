// The segments of a step in the memory of a CUDA device, where each block of a launch looks up its segment.
#pragma once

#include <optional>
#include <span>

#include "device.h"

namespace lrcore {

class DeviceSegments {
 public:
  /// Copies the segments to the device, for launches with chunks of `width` elements, and allocates memory for the rows
  /// of constants of one step and the gradients of each segment. Waits for the device. Requires the GIL.
  DeviceSegments(const cuda::Api& api, Device device, const Step& step, int width, std::span<const Segment> segments,
                 int64_t rows);

  /// Queues a copy of the rows to the device on `stream`, and returns them as a table of one step.
  cuda::Table write_rows(std::span<const Constants> rows, uintptr_t stream) const;
  /// Queues a copy of the gradients of each segment to the device on `stream`.
  void write_gradients(std::span<const Stream> gradients, uintptr_t stream) const;
  /// Returns the job of a step whose constants are in `table`; `gscale` multiplies the gradient scale of each row. If
  /// `has_gradients` is true, each segment reads the gradients that were written last.
  cuda::Job job(const Step& step, float gscale, const cuda::Table& table, bool has_gradients) const;

 private:
  const cuda::Api& api_;
  int width_;
  int64_t blocks_ = 0;
  std::optional<DeviceMemory> memory_;
  Constants* rows_ = nullptr;
  cuda::Extent* extents_ = nullptr;
  Stream* gradients_ = nullptr;
  int32_t* of_block_ = nullptr;
};

}  // namespace lrcore
