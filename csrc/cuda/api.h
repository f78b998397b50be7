// The interface of the CUDA module to the core: a table of plain functions that one extension module passes to the
// other.
#pragma once

#include "job.h"

namespace lrcore::cuda {

/// The name of the capsule that holds a table.
inline constexpr char api_name[] = "lrcore.cuda.Api";

/// All functions except the last two return 0 or an error of the CUDA runtime. Memory and launches belong to the
/// current device. `stream` is a raw handle.
struct Api {
  int (*device_count)(int* count);
  int (*device_name)(int device, char* name, int64_t size);
  int (*current_device)(int* device);
  int (*set_device)(int device);
  int (*restore_device)(int device);  // like set_device, but a no-op if it would create a context

  int (*allocate)(void** memory, int64_t bytes);         // aligned to 256 bytes; also works during a capture
  int (*release)(void* memory);                          // also works during a capture
  int (*allocate_pinned)(void** memory, int64_t bytes);  // memory of the host, at the same address on the devices
  int (*release_pinned)(void* memory);
  int (*allocate_on)(void** memory, int64_t bytes, uintptr_t stream);  // for work queued on the stream from now on
  int (*release_on)(void* memory, uintptr_t stream);                   // after the work queued on the stream so far
  int (*fill)(float* memory, float value, int64_t n);                  // waits for completion
  int (*copy)(void* to, const void* from, int64_t bytes);  // between any devices and the host; waits for completion
  int (*synchronize)();                                    // waits for all work queued on the device
  int (*record_event)(void** event, uintptr_t stream);     // marks the work queued on the stream so far
  int (*query_event)(void* event, int* completed);         // whether that work is done
  int (*wait_for_event)(void* event);                      // waits for that work; also works during a capture
  int (*destroy_event)(void* event);
  int (*is_capturing)(uintptr_t stream, int* capturing);

  int (*prepare)(int rule);  // loads the rule's kernels, so that no launch has to load them
  int (*launch)(int rule, const Job* job, uintptr_t stream);
  int (*write)(void* to, const void* from, int64_t words, uintptr_t stream);  // 16-byte words; does not wait
  int (*measure)(const Measurement* launch, uintptr_t stream);
  int (*judge)(const Judgement* launch, uintptr_t stream);
  int (*advance)(int64_t* step_count, const Decision* decision, uintptr_t stream);  // adds 1 unless it was skipped
  int (*leaf_sums)(const float* x, const float* y, int64_t n, double* sums, uintptr_t stream);  // see sums/tree.h
  int (*stream_bound)(const Step* step, int states, int64_t n, uintptr_t stream);

  const char* (*error_name)(int error);
  const char* (*error_text)(int error);
};

}  // namespace lrcore::cuda
