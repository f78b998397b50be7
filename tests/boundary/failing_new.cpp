// An operator new that fails on request in the calling thread. Tests preload it.
#include <cstdlib>
#include <new>

namespace {
thread_local long left = 0;
}

/// Makes the `which`-th call from now fail, or no call if `which` is 0. Returns whether the previous request was still
/// pending.
extern "C" int fail_new(long which) {
  const int pending = left > 0;
  left = which;
  return pending;
}

void* operator new(std::size_t size) {
  if (left > 0 && --left == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(size != 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}

void* operator new(std::size_t size, std::align_val_t alignment) {
  if (left > 0 && --left == 0) throw std::bad_alloc();
  const auto to = static_cast<std::size_t>(alignment);
  if (void* memory = std::aligned_alloc(to, (size + to - 1) / to * to)) return memory;
  throw std::bad_alloc();
}
