// Who is at work on an optimizer: the thread that has the lock, and the threads that ask its schedule for a rate.
#pragma once

#include <atomic>
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
