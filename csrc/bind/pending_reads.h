// Arrays that a device may still be reading.
#pragma once

#include <vector>

#include "array.h"

namespace lrcore {

/// Keeps gradients alive until the device has read them. They belong to another library, which may reuse their memory
/// as soon as they are released.
class PendingReads {
 public:
  PendingReads() = default;
  ~PendingReads();
  PendingReads(const PendingReads&) = delete;
  PendingReads& operator=(const PendingReads&) = delete;

  /// Keeps `array` alive until `stream` has completed the work queued on it so far. Does not take the array if it is on
  /// the CPU (`api` is null) or if its library works on the same stream; the caller then releases it, holding the GIL.
  void add(const cuda::Api* api, Array&& array, const CudaStream& stream);
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
