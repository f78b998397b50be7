// Coordinates the threads that use an optimizer: the thread that holds its lock, and the threads that are calling its
// schedule.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace lrcore {

/// The mutex of an optimizer, and the generation of the process that locked it. The generation shows whether the mutex
/// was locked before a fork, by a thread that does not exist in the child.
struct StepMutex {
  std::mutex mutex;
  std::atomic<int> generation{0};
};

/// Locks an optimizer for the lifetime of this object. The constructor requires the GIL, and releases it while waiting.
///
/// While the lock is held, no Python code may run, such as a schedule, a signal handler or a finalizer: it could use
/// the optimizer and wait for the lock forever. Therefore no object that the garbage collector tracks may be created or
/// released.
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

/// The attempts of one step to take the lock. An attempt fails if another step takes the lock first, because the
/// computed rate is then for the wrong step. If a step keeps failing because other threads step faster than its thread
/// computes the rate, the other steps wait for it. The wait is limited to four times the duration of one attempt,
/// because the schedule of the failing step may itself be waiting for another step.
class Tries {
 public:
  /// The number of nanoseconds that other steps wait; 0 means that they do not wait. Shared by the steps of one
  /// optimizer.
  using Patience = std::atomic<int64_t>;

  explicit Tries(Patience& patience) : patience_(patience) {}
  ~Tries() {
    if (is_announced_) patience_.store(0, std::memory_order_relaxed);
  }
  Tries(const Tries&) = delete;
  Tries& operator=(const Tries&) = delete;

  /// Returns the number of attempts that have failed.
  int failed() const { return failed_; }
  /// Begins an attempt. If another step keeps failing, first waits for that step, without holding the GIL.
  void begin();
  /// Ends an attempt that was too late.
  void fail();

 private:
  Patience& patience_;
  int failed_ = 0;
  bool is_announced_ = false;
  int64_t began_ = 0;
  int64_t needed_ = 0;
};

/// One thread's call to the schedule of an optimizer, which does not require the lock. Throws RuntimeError if this
/// thread is already calling the schedule of that optimizer. Otherwise, each step would need the rate of another step,
/// and none would ever end.
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
