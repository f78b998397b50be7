// Arrays that a device may still be reading.
#pragma once

#include <vector>

#include "array.h"

namespace lrcore {

/// Keeps gradients alive until the device has read them. Another library made them, and may reuse their memory as soon
/// as they are released.
class PendingReads {
 public:
  PendingReads() = default;
  ~PendingReads();
  PendingReads(const PendingReads&) = delete;
  PendingReads& operator=(const PendingReads&) = delete;

  /// Keeps `array` alive until `stream` has completed the work that is now queued on it. An array on the CPU, whose
  /// `api` is null, or of a library that works on that stream itself, stays with the caller, who releases it under the
  /// GIL.
  void add(const cuda::Api* api, Array&& array, const Stream& stream);
  /// Returns the arrays that have been read. The caller releases them, which requires the GIL.
  std::vector<Array> remove_completed();

 private:
  struct Read {
    Array array;
    const cuda::Api* api;
    void* event;
  };
  std::vector<Read> reads_;
};

}  // namespace lrcore
