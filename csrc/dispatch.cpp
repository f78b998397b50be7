#include "dispatch.h"

#include <atomic>

namespace lrcore {
namespace {

constexpr Backend backends[] = {
#if defined(__x86_64__)
    {"avx512", &cpu::avx512_sweeps, [] { return __builtin_cpu_supports("avx512f") != 0; }},
    {"avx2", &cpu::avx2_sweeps, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
#endif
    {"portable", &cpu::portable_sweeps, [] { return true; }},
};

/// Runs the code of GPU threads on the host. It is for tests, which choose it by name.
constexpr Backend emulated{"emulated", &cpu::emulated_sweeps, [] { return true; }};

const Backend* best_backend() {
  for (const Backend& backend : backends)
    if (backend.runs_here()) return &backend;
  __builtin_unreachable();  // portable runs everywhere
}

std::atomic<const Backend*>& active() {
  static std::atomic<const Backend*> backend = best_backend();
  return backend;
}

}  // namespace

std::span<const Backend> cpu_backends() { return backends; }

const Backend* find_backend(std::string_view name) {
  for (const Backend& backend : backends)
    if (name == backend.name) return &backend;
  return name == emulated.name ? &emulated : nullptr;
}

const Backend& active_backend() { return *active().load(std::memory_order_relaxed); }
void choose_backend(const Backend& backend) { active().store(&backend, std::memory_order_relaxed); }

}  // namespace lrcore
