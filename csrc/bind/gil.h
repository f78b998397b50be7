// Letting go of the GIL.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

namespace lrcore {

/// Lets go of the GIL for its lifetime.
///
/// A daemon thread that asks for the GIL back while the interpreter finalizes is told to exit: up to Python 3.13 by
/// unwinding its stack, over frames that need the GIL to clean up. It sleeps instead until the process ends, as it does
/// from Python 3.14 on.
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
