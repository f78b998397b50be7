// CUDA devices as the core uses them: found when the first of their arrays comes, spoken to through the CUDA module's
// table. What the driver refuses becomes a RuntimeError that says what was tried and what to do.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "../cuda/api.h"
#include "arguments.h"

namespace lrcore {

/// The device of an array: the CPU, or a CUDA device by its number.
struct Device {
  int cuda = -1;

  bool on_cpu() const { return cuda < 0; }
  std::string name() const { return on_cpu() ? "cpu" : text("cuda:", cuda); }
  friend bool operator==(const Device&, const Device&) = default;
};

/// The functions of the CUDA module, imported when it is first asked for. RuntimeError where it was not built or cannot
/// be loaded. Needs the GIL.
const cuda::Api& cuda_api();

/// The names of the devices that work. RuntimeError where there are none.
std::vector<std::string> cuda_devices();

/// RuntimeError that says what was tried, unless `error` is 0. Needs no GIL.
void check_cuda(const cuda::Api& api, int error, const char* tried);

/// Makes a CUDA device current for its lifetime. Needs no GIL.
class CurrentDevice {
 public:
  CurrentDevice(const cuda::Api& api, Device device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

 private:
  const cuda::Api& api_;
  int found_ = -1;
  int device_;
};

/// Memory of a CUDA device, aligned to 256 bytes. Does not hold the GIL while the driver makes it or takes it back.
class DeviceMemory {
 public:
  DeviceMemory(const cuda::Api& api, Device device, int64_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }
  Device device() const { return device_; }

 private:
  const cuda::Api& api_;
  Device device_;
  void* data_ = nullptr;
};

/// The stream of a step: its raw handle, and the stream that is passed to the `__dlpack__` of gradients.
struct Stream {
  uintptr_t handle = 1;        // the legacy default
  int64_t dlpack_stream = -1;  // none, if the exporter works on the same stream
};

/// Makes a device the current one of the array's library for its lifetime, where that keeps one of its own. Needs the
/// GIL.
class CurrentInLibrary {
 public:
  CurrentInLibrary(py::handle array, Device device);
  ~CurrentInLibrary();
  CurrentInLibrary(const CurrentInLibrary&) = delete;
  CurrentInLibrary& operator=(const CurrentInLibrary&) = delete;

 private:
  py::object context_;
};

/// The library that the array belongs to, for its current stream; None where it is not known.
py::object library_of(py::handle array);

/// Returns the stream of a step on arrays of `device`: `requested` unless that is None, else the current stream of
/// `library`. Throws TypeError or ValueError if `requested` is not a stream, or if the arrays are on the CPU.
Stream resolve_stream(Device device, py::handle library, py::handle requested, py::handle grads);

}  // namespace lrcore
