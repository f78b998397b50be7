// The backends as a list, and the one that is in use.
#pragma once

#include <span>
#include <string_view>

#include "cpu/backends.h"

namespace lrcore {

struct Backend {
  const char* name;
  const cpu::SweepTable* table;
  bool (*runs_here)();
};

/// Returns every CPU backend that was built, best first.
std::span<const Backend> cpu_backends();

/// Returns the backend of that name, which may also be the unlisted `emulated`, or null.
const Backend* find_backend(std::string_view name);

/// The backend that CPU arrays are stepped with: the best that runs here, until another is chosen.
const Backend& active_backend();
void choose_backend(const Backend& backend);

/// Runs a sweep over [0, n) on the thread pool, each thread in the default floating-point mode.
void run_sweep(Sweep sweep, const Step& step, int64_t n);

}  // namespace lrcore
