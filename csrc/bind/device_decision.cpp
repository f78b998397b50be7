#include "device_decision.h"

#include <optional>
#include <utility>

#include "gil.h"

namespace lrcore {

DeviceDecision::DeviceDecision(const cuda::Api& api, Device device)
    : api_(api), memory_(api, device, sizeof(cuda::Decision)), decision_(static_cast<cuda::Decision*>(memory_.data())) {
  const GilRelease unlocked;
  write({.norm = -1, .gscale = 1, .is_skipped = 0, .skipped = 0, .in_a_row = 0, .since = 0});
  const CurrentDevice current(api_, device);
  void* pinned = nullptr;
  check_cuda(api_, api_.allocate_pinned(&pinned, sizeof(cuda::Decision)), "allocating pinned memory");
  copy_ = static_cast<cuda::Decision*>(pinned);
}

DeviceDecision::~DeviceDecision() {
  std::optional<GilRelease> unlocked;
  if (PyGILState_Check() != 0) unlocked.emplace();
  if (event_ != nullptr) {
    api_.wait_for_event(event_);  // the device may still write to the pinned memory
    api_.destroy_event(event_);
  }
  api_.release_pinned(copy_);
}

void DeviceDecision::queue(cuda::Judgement judgement, uintptr_t stream, bool may_wait) {
  forget();
  if (event_ != nullptr) api_.destroy_event(std::exchange(event_, nullptr));
  judgement.decision = decision_;
  judgement.copy = may_wait ? copy_ : nullptr;
  check_cuda(api_, api_.judge(&judgement, stream), "launching the decision");
  if (may_wait) check_cuda(api_, api_.record_event(&event_, stream), "recording the decision");
}

void DeviceDecision::expect(bool may_skip) {
  is_expected_ = true;
  may_skip_ = may_skip;
}

cuda::Decision DeviceDecision::wait() {
  check_cuda(api_, api_.wait_for_event(event_), "waiting for the decision");
  forget();
  return *copy_;
}

cuda::Decision DeviceDecision::read() const {
  cuda::Decision decision;
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.copy(&decision, decision_, sizeof decision), "reading the decision");
  return decision;
}

void DeviceDecision::write(const cuda::Decision& decision) {
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.copy(decision_, &decision, sizeof decision), "writing the decision");
}

}  // namespace lrcore
