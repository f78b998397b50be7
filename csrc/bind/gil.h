// Releasing the GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace lrcore {

/// Releases the GIL for the lifetime of this object.
///
/// If a daemon thread tries to reacquire the GIL while the interpreter is finalizing, Python up to 3.13 makes it exit
/// by unwinding its stack, through frames that need the GIL to clean up. Here, the thread sleeps instead until the
/// process ends, as it does from Python 3.14 on.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) pause();
    }
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace lrcore
