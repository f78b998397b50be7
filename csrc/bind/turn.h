// Who is at work on an optimizer: the thread that has the lock, and the threads that ask its schedule for a rate.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>

namespace lrcore {

/// The lock of an optimizer, and the process that took it: a forked child has none of its parent's threads.
struct TurnLock {
  std::mutex mutex;
  std::atomic<int> generation{0};
};

/// One thread's turn at an optimizer. Waits for it without holding the GIL; needs the GIL itself.
///
/// While it lasts no Python code may run, such as a schedule, a signal handler or a finalizer: it could come back and
/// wait for itself. So nothing is made or let go of that the garbage collector sees.
///
/// RuntimeError in a forked child whose parent had the lock in another thread: nobody is there to give it back.
class Turn {
 public:
  explicit Turn(TurnLock& lock);
  ~Turn() { lock_.mutex.unlock(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  TurnLock& lock_;
};

/// The tries of one step to take its turn before another step takes it, which makes the rate that it has asked for
/// another step's. A step that fails again and again, since its thread asks more slowly than others step, makes those
/// wait for it: four times as long as it needed before, and no longer, since its schedule may be waiting for one of
/// them.
class Tries {
 public:
  /// What the steps of one optimizer share: the nanoseconds for which others wait, 0 for nobody.
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

/// One thread's question to the schedule of an optimizer, which it may ask without a turn. RuntimeError where the
/// schedule comes back with another: a step that asks for the rate of a step has no end.
class Asking {
 public:
  explicit Asking(const void* optimizer);
  ~Asking();
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 private:
  const void* optimizer_;
  const Asking* outer_;
};

}  // namespace lrcore
