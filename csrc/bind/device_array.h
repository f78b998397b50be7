// A flat float32 array in memory of a CUDA device, for DLPack's consumers: the state of device parameters.
#pragma once

#include <memory>

#include "device.h"

namespace lrcore {

class DeviceArray {
 public:
  /// `size` floats of one value that begin `offset` bytes after a multiple of 256.
  DeviceArray(int device, int64_t size, int64_t offset, float value);

  py::tuple dlpack_device() const;
  /// A capsule over the same memory. The values are there: no stream has to wait.
  py::capsule dlpack(py::handle max_version, py::handle dl_device, py::handle copy) const;

 private:
  std::shared_ptr<DeviceMemory> memory_;
  float* data_;
  int64_t size_;
};

}  // namespace lrcore
