// The core's access to CUDA devices, through the function table of the CUDA module, which is imported when the first
// CUDA array is used. An error of the CUDA runtime becomes a RuntimeError that names the failed operation and,
// for common errors, a remedy.
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

/// Returns the functions of the CUDA module, which is imported on first use. Throws RuntimeError if the module was not
/// built or cannot be loaded. Requires the GIL.
const cuda::Api& cuda_api();

/// Returns the names of the usable devices. Throws RuntimeError if there are none.
std::vector<std::string> cuda_devices();

/// Throws RuntimeError, naming the operation `tried`, unless `error` is 0. Does not require the GIL.
void check_cuda(const cuda::Api& api, int error, const char* tried);

/// Copies all elements to the current device, and waits. `tried` is as in `check_cuda`. Does not require the GIL.
template <class Element>
void copy_to_device(const cuda::Api& api, Element* to, const std::vector<Element>& from, const char* tried) {
  const auto bytes = static_cast<int64_t>(from.size() * sizeof(Element));
  if (bytes > 0) check_cuda(api, api.copy(to, from.data(), bytes), tried);
}

/// Makes a CUDA device current for the lifetime of this object. Does not require the GIL.
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

/// Memory of a CUDA device, aligned to 256 bytes. Releases the GIL while the driver allocates or frees it.
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

/// Memory of the current device for work that is queued on a stream while this object exists. Does not require the GIL.
class StreamMemory {
 public:
  StreamMemory(const cuda::Api& api, int64_t bytes, uintptr_t stream);
  ~StreamMemory();
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;

  void* data() const { return data_; }

 private:
  const cuda::Api& api_;
  uintptr_t stream_;
  void* data_ = nullptr;
};

/// The stream of a step: its raw handle, and the `stream` argument for the `__dlpack__` of the gradients.
struct CudaStream {
  uintptr_t handle = 1;        // the legacy default stream
  int64_t dlpack_stream = -1;  // -1 if the exporter works on the same stream
};

/// Makes a device current in the array's library for the lifetime of this object, if that library has its own current
/// device. Requires the GIL.
class CurrentInLibrary {
 public:
  CurrentInLibrary(py::handle array, Device device);
  ~CurrentInLibrary();
  CurrentInLibrary(const CurrentInLibrary&) = delete;
  CurrentInLibrary& operator=(const CurrentInLibrary&) = delete;

 private:
  py::object context_;
};

/// Returns the library that the array belongs to, or None if it is unknown. Steps use the library's current stream.
py::object library_of(py::handle array);

/// Returns the stream of a step on arrays of `device`: `requested` if it is not None, else the current stream of
/// `library`. Throws TypeError or ValueError if `requested` is not a stream, or if it is passed for CPU arrays.
CudaStream resolve_stream(Device device, py::handle library, py::handle requested, py::handle grads);

}  // namespace lrcore
