// What a CUDA device decides about the steps of an optimizer, and how the host learns it.
#pragma once

#include "device.h"

namespace lrcore {

class DeviceDecision {
 public:
  /// Waits for the device. Requires the GIL.
  DeviceDecision(const cuda::Api& api, Device device);
  ~DeviceDecision();
  DeviceDecision(const DeviceDecision&) = delete;
  DeviceDecision& operator=(const DeviceDecision&) = delete;

  const cuda::Decision* data() const { return decision_; }

  /// Queues a judgement, and marks its end if the host may wait for it. The device must be current.
  void queue(cuda::Judgement judgement, uintptr_t stream, bool may_wait);
  /// Makes the decision that was queued last the one that `wait` waits for. `may_skip` is whether it can skip the step.
  void expect(bool may_skip);
  /// Expects no decision.
  void forget() { is_expected_ = false; }

  bool is_expected() const { return is_expected_; }
  bool may_skip() const { return is_expected_ && may_skip_; }
  /// Waits for the expected decision alone, and returns it. Does not require the GIL.
  cuda::Decision wait();

  /// Waits for the device, then returns or replaces its last decision.
  cuda::Decision read() const;
  void write(const cuda::Decision& decision);

 private:
  const cuda::Api& api_;
  DeviceMemory memory_;
  cuda::Decision* decision_;
  cuda::Decision* copy_ = nullptr;  // in memory of the host that the device can write
  void* event_ = nullptr;
  bool is_expected_ = false;
  bool may_skip_ = false;
};

}  // namespace lrcore
