#include "step_lock.h"

#include <unistd.h>

#include <chrono>
#include <stdexcept>

#include "../cpu/pool.h"
#include "gil.h"

namespace lrcore {
namespace {

/// Whether the mutex was locked before a fork, by a thread that does not exist in this process. A thread of this
/// process stores the current generation immediately after it locks the mutex.
bool is_locked_forever(const StepMutex& step_mutex) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (step_mutex.generation.load(std::memory_order_relaxed) == pool::generation()) return false;
    usleep(1000);
  }
  return true;
}

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

thread_local constinit const ScheduleCall* innermost = nullptr;

}  // namespace

StepLock::StepLock(StepMutex& step_mutex) : step_mutex_(step_mutex) {
  if (!step_mutex.mutex.try_lock()) {
    if (is_locked_forever(step_mutex))
      throw std::runtime_error(
          "this process was forked while another thread was stepping this optimizer, so its arrays may be half "
          "updated; make a new optimizer");
    const GilRelease unlocked;
    step_mutex.mutex.lock();
  }
  step_mutex.generation.store(pool::generation(), std::memory_order_relaxed);
}

void Tries::begin() {
  if (!is_announced_ && patience_.load(std::memory_order_relaxed) != 0) {
    const GilRelease unlocked;
    const int64_t end = now() + patience_.load(std::memory_order_relaxed);
    while (patience_.load(std::memory_order_relaxed) != 0 && now() < end) usleep(50);
  }
  if (failed_ != 0) began_ = now();
}

void Tries::fail() {
  constexpr int enough = 8;
  if (++failed_ < enough) return;
  // Measure only an attempt made before other steps began to wait. If the schedule waits for a step of another thread,
  // and that step waits for this one, each attempt would otherwise take longer than the previous one.
  if (!is_announced_) needed_ = now() - began_;
  is_announced_ = true;
  patience_.store(4 * needed_, std::memory_order_relaxed);
}

ScheduleCall::ScheduleCall(const void* optimizer) : optimizer_(optimizer), outer_(innermost) {
  for (const ScheduleCall* each = outer_; each != nullptr; each = each->outer_)
    if (each->optimizer_ == optimizer)
      throw std::runtime_error("a schedule must not step the optimizer that is calling it for a rate");
  innermost = this;
}

ScheduleCall::~ScheduleCall() { innermost = outer_; }

}  // namespace lrcore
