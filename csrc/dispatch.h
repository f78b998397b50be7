// The list of backends, and the active one.
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

/// Returns the backend called `name`, or null. Also finds `emulated`, which is not in the list.
const Backend* find_backend(std::string_view name);

/// Returns the backend that steps CPU arrays: the best one that runs on this CPU, unless another has been chosen.
const Backend& active_backend();
void choose_backend(const Backend& backend);

}  // namespace lrcore
