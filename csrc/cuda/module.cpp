// The extension module lrcore._lrcore_cuda: the CUDA runtime and the kernels behind one table. The core imports it when
// the first CUDA array is used.
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>

#include <cstdio>

#include "api.h"
#include "launch.h"

namespace lrcore::cuda {
namespace {

/// Makes the calls in order up to the first error, and returns that error. Resets the runtime's last error, because the
/// error is reported here.
template <class... Call>
int first_error(Call... call) {
  cudaError_t error = cudaSuccess;
  (void)((error = static_cast<cudaError_t>(call()), error == cudaSuccess) && ...);
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

/// Makes a call with this thread's capture mode relaxed, and returns its error. By default, a call that might wait for
/// a stream fails during a capture and invalidates the capture. The memory that optimizers allocate and release is
/// unrelated to captures.
template <class Call>
int in_spite_of_captures(Call call) {
  auto mode = cudaStreamCaptureModeRelaxed;
  const int error = first_error([&] { return cudaThreadExchangeStreamCaptureMode(&mode); });
  if (error != cudaSuccess) return error;
  const int result = first_error(call);
  cudaThreadExchangeStreamCaptureMode(&mode);
  return result;
}

/// Whether this process has used the device; true if this cannot be determined.
bool has_context(int device) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  if (cudaGetDriverEntryPointByVersion("cuDevicePrimaryCtxGetState", &function, 12000, cudaEnableDefault, &found) !=
          cudaSuccess ||
      function == nullptr)
    return true;
  unsigned flags = 0;
  int active = 1;
  const auto state = reinterpret_cast<PFN_cuDevicePrimaryCtxGetState_v7000>(function);
  return state(device, &flags, &active) != CUDA_SUCCESS || active != 0;
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
    .restore_device =
        [](int device) { return has_context(device) ? first_error([&] { return cudaSetDevice(device); }) : 0; },
    .allocate =
        [](void** memory, int64_t bytes) {
          return in_spite_of_captures([&] { return cudaMalloc(memory, static_cast<size_t>(bytes)); });
        },
    .release = [](void* memory) { return in_spite_of_captures([&] { return cudaFree(memory); }); },
    .allocate_pinned =
        [](void** memory, int64_t bytes) {
          return in_spite_of_captures(
              [&] { return cudaHostAlloc(memory, static_cast<size_t>(bytes), cudaHostAllocPortable); });
        },
    .release_pinned = [](void* memory) { return in_spite_of_captures([&] { return cudaFreeHost(memory); }); },
    .allocate_on =
        [](void** memory, int64_t bytes, uintptr_t stream) {
          return first_error([&] {
            return cudaMallocAsync(memory, static_cast<size_t>(bytes), reinterpret_cast<cudaStream_t>(stream));
          });
        },
    .release_on =
        [](void* memory, uintptr_t stream) {
          return first_error([&] { return cudaFreeAsync(memory, reinterpret_cast<cudaStream_t>(stream)); });
        },
    .fill = [](float* memory, float value,
               int64_t n) { return first_error([&] { return start_fill(memory, value, n); }, cudaDeviceSynchronize); },
    .copy =
        [](void* to, const void* from, int64_t bytes) {
          // A copy on the default stream does not synchronize with non-blocking streams.
          return first_error(
              cudaDeviceSynchronize,
              [&] { return cudaMemcpy(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault); },
              cudaDeviceSynchronize);
        },
    .synchronize = [] { return first_error(cudaDeviceSynchronize); },
    .record_event =
        [](void** recorded, uintptr_t stream) {
          cudaEvent_t event = nullptr;
          const int error = first_error([&] { return cudaEventCreateWithFlags(&event, cudaEventDisableTiming); },
                                        [&] { return cudaEventRecord(event, reinterpret_cast<cudaStream_t>(stream)); });
          if (error == cudaSuccess)
            *recorded = event;
          else if (event != nullptr)
            cudaEventDestroy(event);
          return error;
        },
    .query_event =
        [](void* event, int* completed) {
          auto state = cudaErrorNotReady;
          const int error = in_spite_of_captures([&] {
            state = cudaEventQuery(static_cast<cudaEvent_t>(event));
            return cudaSuccess;
          });
          if (error != cudaSuccess) return error;
          *completed = state != cudaErrorNotReady;
          cudaGetLastError();
          return state == cudaErrorNotReady ? 0 : int{state};
        },
    .wait_for_event =
        [](void* event) {
          return in_spite_of_captures([&] { return cudaEventSynchronize(static_cast<cudaEvent_t>(event)); });
        },
    .destroy_event =
        [](void* event) { return first_error([&] { return cudaEventDestroy(static_cast<cudaEvent_t>(event)); }); },
    .is_capturing =
        [](uintptr_t stream, int* capturing) {
          cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
          const int error =
              first_error([&] { return cudaStreamIsCapturing(reinterpret_cast<cudaStream_t>(stream), &status); });
          *capturing = status != cudaStreamCaptureStatusNone;
          return error;
        },
    .prepare = [](int rule) { return first_error([&] { return prepare(rule); }); },
    .launch = [](int rule, const Job* job,
                 uintptr_t stream) { return first_error([&] { return launch(rule, job, stream); }); },
    .write = [](void* to, const void* from, int64_t words,
                uintptr_t stream) { return first_error([&] { return write(to, from, words, stream); }); },
    .measure = [](const Measurement* launch,
                  uintptr_t stream) { return first_error([&] { return measure(launch, stream); }); },
    .judge = [](const Judgement* launch,
                uintptr_t stream) { return first_error([&] { return judge(launch, stream); }); },
    .advance = [](int64_t* step_count, const Decision* decision,
                  uintptr_t stream) { return first_error([&] { return advance(step_count, decision, stream); }); },
    .leaf_sums = [](const float* x, const float* y, int64_t n, double* sums,
                    uintptr_t stream) { return first_error([&] { return launch_leaf_sums(x, y, n, sums, stream); }); },
    .stream_bound =
        [](const Step* step, int states, int64_t n, uintptr_t stream) {
          return first_error([&] { return launch_stream_bound(step, states, n, stream); });
        },
    .error_name = [](int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); },
    .error_text = [](int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); },
};

}  // namespace
}  // namespace lrcore::cuda

PYBIND11_MODULE(_lrcore_cuda, module, pybind11::mod_gil_not_used()) {
  using namespace lrcore::cuda;
  module.attr("api") = pybind11::capsule(&api, api_name);
}
