// A flat float32 array in the memory of a CUDA device, exported through DLPack. Optimizers use it for the states of
// parameters on that device.
#pragma once

#include <memory>

#include "device.h"

namespace lrcore {

class DeviceArray {
 public:
  /// Allocates `size` floats that begin `offset` bytes after a multiple of 256, and fills them with `value`.
  DeviceArray(int device, int64_t size, int64_t offset, float value);

  py::tuple dlpack_device() const;
  /// Returns a capsule that shares this memory. The memory has been filled already, so no stream has to wait.
  py::capsule dlpack(py::handle max_version, py::handle dl_device, py::handle copy) const;

 private:
  std::shared_ptr<DeviceMemory> memory_;
  float* data_;
  int64_t size_;
};

}  // namespace lrcore
