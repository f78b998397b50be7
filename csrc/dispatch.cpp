#include "dispatch.h"

#include <array>
#include <atomic>
#include <utility>

namespace lrcore {
namespace {

#if defined(__x86_64__)
bool has_avx512() { return __builtin_cpu_supports("avx512f") != 0; }

/// Returns the backends, best first. `avx512_pair` is faster than `avx512` on Intel's processors alone, whose divider
/// takes longer than products.
auto in_order() {
  std::array all{
      Backend{"avx512_pair", &cpu::avx512_pair_sweeps, has_avx512},
      Backend{"avx512", &cpu::avx512_sweeps, has_avx512},
      Backend{"avx2", &cpu::avx2_sweeps,
              [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
      Backend{"portable", &cpu::portable_sweeps, [] { return true; }},
  };
  if (!__builtin_cpu_is("intel")) std::swap(all[0], all[1]);
  return all;
}
#else
auto in_order() {
  return std::array{Backend{"portable", &cpu::portable_sweeps, [] { return true; }}};
}
#endif

/// Runs the code of GPU threads on the host. It is for tests, which choose it by name.
constexpr Backend emulated{"emulated", &cpu::emulated_sweeps, [] { return true; }};

const Backend* best_backend() {
  for (const Backend& backend : cpu_backends())
    if (backend.runs_here()) return &backend;
  __builtin_unreachable();  // portable runs everywhere
}

std::atomic<const Backend*>& active() {
  static std::atomic<const Backend*> backend = best_backend();
  return backend;
}

}  // namespace

std::span<const Backend> cpu_backends() {
  static const auto backends = in_order();
  return backends;
}

const Backend* find_backend(std::string_view name) {
  for (const Backend& backend : cpu_backends())
    if (name == backend.name) return &backend;
  return name == emulated.name ? &emulated : nullptr;
}

const Backend& active_backend() { return *active().load(std::memory_order_relaxed); }
void choose_backend(const Backend& backend) { active().store(&backend, std::memory_order_relaxed); }

}  // namespace lrcore
