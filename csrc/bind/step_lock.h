// Who is at work on an optimizer: the thread that holds its lock, and the threads that are calling its schedule.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace lrcore {

/// The mutex of an optimizer, and the process that locked it: a forked child has none of its parent's threads.
struct StepMutex {
  std::mutex mutex;
  std::atomic<int> generation{0};
};

/// Locks an optimizer for its lifetime. Waits without holding the GIL; the constructor requires the GIL itself.
///
/// While it is held no Python code may run, such as a schedule, a signal handler or a finalizer: that code could come
/// back and wait for the lock forever. So nothing is created or released that the garbage collector sees.
///
/// Throws RuntimeError in a forked child if another thread of the parent held the lock: no thread is left to unlock it.
class StepLock {
 public:
  explicit StepLock(StepMutex& step_mutex);
  ~StepLock() { step_mutex_.mutex.unlock(); }
  StepLock(const StepLock&) = delete;
  StepLock& operator=(const StepLock&) = delete;

 private:
  StepMutex& step_mutex_;
};

/// The tries of one step to take the lock before another step takes it: then the rate that was computed is that of
/// another step. If a step fails again and again, because its thread computes the rate more slowly than others step,
/// the others wait for it: four times as long as it needed before, and no longer, because its schedule may be waiting
/// for one of them.
class Tries {
 public:
  /// What the steps of one optimizer share: the nanoseconds for which others wait, 0 for no wait.
  using Patience = std::atomic<int64_t>;

  explicit Tries(Patience& patience) : patience_(patience) {}
  ~Tries() {
    if (is_announced_) patience_.store(0, std::memory_order_relaxed);
  }
  Tries(const Tries&) = delete;
  Tries& operator=(const Tries&) = delete;

  /// How many tries have failed.
  int failed() const { return failed_; }
  /// Begins a try. Waits, without holding the GIL, for a step that has announced itself.
  void begin();
  /// Ends a try that came too late.
  void fail();

 private:
  Patience& patience_;
  int failed_ = 0;
  bool is_announced_ = false;
  int64_t began_ = 0;
  int64_t needed_ = 0;
};

/// One thread's call of an optimizer's schedule, which does not require the lock. Throws RuntimeError if the schedule
/// leads to another call of itself: a step that needs the rate of a step never ends.
class ScheduleCall {
 public:
  explicit ScheduleCall(const void* optimizer);
  ~ScheduleCall();
  ScheduleCall(const ScheduleCall&) = delete;
  ScheduleCall& operator=(const ScheduleCall&) = delete;

 private:
  const void* optimizer_;
  const ScheduleCall* outer_;
};

}  // namespace lrcore
