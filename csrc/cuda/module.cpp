// The extension module lrcore._lrcore_cuda: the CUDA runtime and the kernels behind one table, which the core asks for
// when it meets the first array of a CUDA device.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdio>

#include "api.h"
#include "launch.h"

namespace lrcore::cuda {
namespace {

/// The first error of some calls in order; what follows an error is not called. The runtime forgets it: it is told
/// here.
template <class... Call>
int first_error(Call... call) {
  cudaError_t error = cudaSuccess;
  (void)((error = static_cast<cudaError_t>(call()), error == cudaSuccess) && ...);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

constexpr Api api = {
    .device_count = [](int* count) { return first_error([&] { return cudaGetDeviceCount(count); }); },
    .device_name =
        [](int device, char* name, int64_t size) {
          cudaDeviceProp properties{};
          const int error = first_error([&] { return cudaGetDeviceProperties(&properties, device); });
          std::snprintf(name, static_cast<size_t>(size), "%s", properties.name);
          return error;
        },
    .current_device = [](int* device) { return first_error([&] { return cudaGetDevice(device); }); },
    .set_device = [](int device) { return first_error([&] { return cudaSetDevice(device); }); },
    .allocate =
        [](void** memory, int64_t bytes) {
          return first_error([&] { return cudaMalloc(memory, static_cast<size_t>(bytes)); });
        },
    .release = [](void* memory) { return first_error([&] { return cudaFree(memory); }); },
    .fill = [](float* memory, float value,
               int64_t n) { return first_error([&] { return start_fill(memory, value, n); }, cudaDeviceSynchronize); },
    .copy =
        [](void* to, const void* from, int64_t bytes) {
          // A copy on the default stream alone would neither wait for the other streams nor make them wait.
          return first_error(
              cudaDeviceSynchronize,
              [&] { return cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault); },
              cudaDeviceSynchronize);
        },
    .synchronize = [] { return first_error(cudaDeviceSynchronize); },
    .is_capturing =
        [](uintptr_t stream, int* capturing) {
          cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
          const int error =
              first_error([&] { return cudaStreamIsCapturing(reinterpret_cast<cudaStream_t>(stream), &status); });
          *capturing = status != cudaStreamCaptureStatusNone;
          return error;
        },
    .prepare = [](int rule) { return first_error([&] { return prepare(rule); }); },
    .launch = [](int rule, int coupled, const Job* job,
                 uintptr_t stream) { return first_error([&] { return launch(rule, coupled, job, stream); }); },
    .advance = [](int64_t* taken, uintptr_t stream) { return first_error([&] { return advance(taken, stream); }); },
    .limit = [](const Step* step, int states, int64_t n,
                uintptr_t stream) { return first_error([&] { return limit(step, states, n, stream); }); },
    .error_name = [](int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); },
    .error_text = [](int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); },
};

}  // namespace
}  // namespace lrcore::cuda

PYBIND11_MODULE(_lrcore_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace lrcore::cuda;
  module.attr("api") = pybind11::capsule(&api, api_name);
}
