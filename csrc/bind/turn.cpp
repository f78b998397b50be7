#include "turn.h"

#include <unistd.h>

#include <chrono>
#include <stdexcept>

#include "../cpu/pool.h"
#include "gil.h"

namespace lrcore {
namespace {

/// Whether the lock was taken before a fork by a thread that this process does not have. A thread of this process that
/// has just taken it says so at once.
bool owner_is_lost(const TurnLock& lock) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    if (lock.generation.load(std::memory_order_relaxed) == pool::generation()) return false;
    usleep(1000);
  }
  return true;
}

int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

thread_local constinit const Asking* innermost = nullptr;

}  // namespace

Turn::Turn(TurnLock& lock) : lock_(lock) {
  if (!lock.mutex.try_lock()) {
    if (owner_is_lost(lock))
      throw std::runtime_error(
          "this process was forked while another thread was stepping this optimizer, so its arrays may be half "
          "updated; make a new optimizer");
    const GilRelease unlocked;
    lock.mutex.lock();
  }
  lock.generation.store(pool::generation(), std::memory_order_relaxed);
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
  // Only of a try for which nobody has waited: where the schedule itself waits for a step of another thread, and that
  // for this one, each would else take longer than the one before.
  if (!is_announced_) needed_ = now() - began_;
  is_announced_ = true;
  patience_.store(4 * needed_, std::memory_order_relaxed);
}

Asking::Asking(const void* optimizer) : optimizer_(optimizer), outer_(innermost) {
  for (const Asking* each = outer_; each != nullptr; each = each->outer_)
    if (each->optimizer_ == optimizer)
      throw std::runtime_error("a schedule must not step the optimizer that is asking it for a rate");
  innermost = this;
}

Asking::~Asking() { innermost = outer_; }

}  // namespace lrcore
