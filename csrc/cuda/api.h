// What the CUDA module offers to the core: plain functions in a table, which one extension module hands to the other.
#pragma once

#include "job.h"

namespace lrcore::cuda {

/// The name of the capsule that holds a table.
inline constexpr char api_name[] = "lrcore.cuda.Api";

/// Every function but the last two gives 0, or the error of the CUDA runtime. Memory and launches belong to the current
/// device. `stream` is a raw handle.
struct Api {
  int (*device_count)(int* count);
  int (*device_name)(int device, char* name, int64_t size);
  int (*current_device)(int* device);
  int (*set_device)(int device);
  int (*restore_device)(int device);  // the one that was current, unless that would only now make a context there

  int (*allocate)(void** memory, int64_t bytes);       // at a multiple of 256 bytes; also while a stream is captured
  int (*release)(void* memory);                        // likewise
  int (*fill)(float* memory, float value, int64_t n);  // waits for its end
  int (*copy)(void* to, const void* from, int64_t bytes);  // from and to any device or the host; waits for its end
  int (*synchronize)();                                    // waits for all that the device has been given
  int (*record_event)(void** event, uintptr_t stream);     // of the work queued on the stream so far
  int (*query_event)(void* event, int* completed);         // whether that work is done
  int (*wait_for_event)(void* event);                      // that is, for that work
  int (*destroy_event)(void* event);
  int (*is_capturing)(uintptr_t stream, int* capturing);

  int (*prepare)(int rule);  // loads the rule's kernels, so that no launch has to
  int (*launch)(int rule, int coupled, const Job* job, uintptr_t stream);
  int (*advance)(int64_t* step_count, uintptr_t stream);  // adds 1
  int (*stream_bound)(const Step* step, int states, int64_t n, uintptr_t stream);

  const char* (*error_name)(int error);
  const char* (*error_text)(int error);
};

}  // namespace lrcore::cuda
