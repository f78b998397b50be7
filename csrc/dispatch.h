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

/// Every CPU backend that was built, best first; last the emulated grid of a GPU, which is used only when it is named.
std::span<const Backend> cpu_backends();

/// The backend of that name, or null.
const Backend* find_backend(std::string_view name);

/// The backend that CPU arrays are stepped with: the best that runs here, until another is chosen.
const Backend& active_backend();
void choose_backend(const Backend& backend);

/// Runs a sweep over [0, n) on the thread pool, each thread in the default floating-point mode.
void run_sweep(Sweep sweep, const Step& step, int64_t n);

}  // namespace lrcore
