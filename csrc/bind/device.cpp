#include "device.h"

#include <pybind11/gil_safe_call_once.h>

#include <optional>

#include "gil.h"

namespace lrcore {
namespace {

/// Returns lrcore._arrays.streams, which is imported on first use and never released.
py::handle streams() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> module;
  return module.call_once_and_store_result([] { return py::object(py::module_::import("lrcore._arrays.streams")); })
      .get_stored();
}

/// Returns the remedy for an error of the CUDA runtime, if there is one.
const char* remedy(const std::string& name) {
  if (name == "cudaErrorNoDevice") return "; no device is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES";
  if (name == "cudaErrorInsufficientDriver") return "; install or update the NVIDIA driver";
  if (name == "cudaErrorInitializationError")
    return "; a process that was forked after CUDA was used cannot use CUDA: start it with the spawn method";
  if (name == "cudaErrorMemoryAllocation") return "; free memory on the device, or use a smaller buffer";
  if (name == "cudaErrorNoKernelImageForDevice")
    return "; lrcore was built only for the architectures in lrcore.info()['cuda_architectures']: set "
           "LRCORE_CUDA_ARCHITECTURES and build it again";
  if (name.starts_with("cudaErrorStreamCapture"))
    return "; while a stream is being captured, only step() of a capturable optimizer may run";
  return "";
}

}  // namespace

const cuda::Api& cuda_api() {
  try {
    const py::object capsule = py::module_::import("lrcore._lrcore_cuda").attr("api");
    const void* api = PyCapsule_GetPointer(capsule.ptr(), cuda::api_name);
    if (api == nullptr) throw py::error_already_set();
    return *static_cast<const cuda::Api*>(api);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_ImportError)) throw;
    throw std::runtime_error(LRCORE_CUDA != 0 ? text("the CUDA part of lrcore cannot be loaded: ",
                                                     py::str(error.value()).cast<std::string>())
                                              : "this build of lrcore supports CPU arrays only; install it with "
                                                "LRCORE_CUDA=ON in the environment, or move the arrays to the CPU");
  }
}

void check_cuda(const cuda::Api& api, int error, const char* tried) {
  if (error == 0) return;
  const std::string name = api.error_name(error);
  throw std::runtime_error(text("CUDA: ", tried, ": ", name, ": ", api.error_text(error), remedy(name)));
}

std::vector<std::string> cuda_devices() {
  const cuda::Api& api = cuda_api();
  int count = 0;
  check_cuda(api, api.device_count(&count), "counting the devices");
  std::vector<std::string> names;
  for (int device = 0; device < count; ++device) {
    char name[256] = "";
    check_cuda(api, api.device_name(device, name, sizeof name), "reading the name of a device");
    names.push_back(text(Device{device}.name(), " ", name));
  }
  return names;
}

CurrentDevice::CurrentDevice(const cuda::Api& api, Device device) : api_(api), device_(device.cuda) {
  int found = device_;
  check_cuda(api_, api_.current_device(&found), "getting the current device");
  if (found == device_) return;
  check_cuda(api_, api_.set_device(device_), "making the array's device current");
  found_ = found;
}

CurrentDevice::~CurrentDevice() {
  if (found_ >= 0) api_.restore_device(found_);
}

DeviceMemory::DeviceMemory(const cuda::Api& api, Device device, int64_t bytes) : api_(api), device_(device) {
  if (bytes == 0) return;
  const GilRelease unlocked;
  const CurrentDevice current(api_, device_);
  const std::string tried = text("allocating ", bytes, " bytes on ", device.name());
  check_cuda(api_, api_.allocate(&data_, bytes), tried.c_str());
}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) return;
  std::optional<GilRelease> unlocked;
  if (PyGILState_Check() != 0) unlocked.emplace();  // a DLPack consumer may release the array without holding the GIL
  api_.release(data_);
}

StreamMemory::StreamMemory(const cuda::Api& api, int64_t bytes, uintptr_t stream) : api_(api), stream_(stream) {
  check_cuda(api_, api_.allocate_on(&data_, bytes, stream_), "allocating memory for the stream");
}

StreamMemory::~StreamMemory() { api_.release_on(data_, stream_); }

CurrentInLibrary::CurrentInLibrary(py::handle array, Device device)
    : context_(streams().attr("device_context")(array, device.cuda)) {
  if (!context_.is_none()) context_.attr("__enter__")();
}

CurrentInLibrary::~CurrentInLibrary() {
  if (context_.is_none()) return;
  py::error_scope kept;  // preserves the error of a failed export
  try {
    context_.attr("__exit__")(py::none(), py::none(), py::none());
  } catch (py::error_already_set& error) {
    error.discard_as_unraisable("making the previous device of an array library current again");
  }
}

py::object library_of(py::handle array) { return streams().attr("library_of")(array); }

CudaStream resolve_stream(Device device, py::handle library, py::handle requested, py::handle grads) {
  if (device.on_cpu()) {
    if (!requested.is_none()) throw py::value_error("stream: CPU arrays have no stream; leave it out");
    return {};
  }
  const auto [handle, dlpack_stream] =
      streams().attr("resolve")(device.cuda, library, requested, grads).cast<std::pair<uintptr_t, int64_t>>();
  return {handle, dlpack_stream};
}

}  // namespace lrcore
