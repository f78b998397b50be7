#include "openmp.h"

#if defined(__linux__)

#include <dlfcn.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace lrcore::openmp {
namespace {

/// Functions of libgomp that libomp and libiomp5 have too. A compiler translates `#pragma omp parallel` to a call of
/// GOMP_parallel.
struct Runtime {
  void (*parallel)(void (*body)(void* data), void* data, unsigned threads, unsigned flags);
  int (*get_max_threads)();
  int (*get_num_threads)();
  int (*get_thread_num)();
};

Runtime runtime;
std::atomic<bool> joined{false};  // set after `runtime`

template <class Function>
bool find(Function*& function, const char* name) {
  function = reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  return function != nullptr;
}

struct Parts {
  int count;
  Part part;
  const void* context;

  /// Runs the parts of one thread. It has several if there are fewer threads than parts.
  static void run(void* data) {
    const auto& [count, part, context] = *static_cast<const Parts*>(data);
    const int threads = runtime.get_num_threads();
    for (int i = runtime.get_thread_num(); i < count; i += threads) part(context, i);
  }
};

}  // namespace

bool join() {
  if (joined.load(std::memory_order_acquire)) return true;
  if (!find(runtime.parallel, "GOMP_parallel") || !find(runtime.get_max_threads, "omp_get_max_threads") ||
      !find(runtime.get_num_threads, "omp_get_num_threads") || !find(runtime.get_thread_num, "omp_get_thread_num"))
    return false;
  joined.store(true, std::memory_order_release);
  return true;
}

void leave() { joined.store(false, std::memory_order_relaxed); }

int threads() {
  if (!joined.load(std::memory_order_acquire) || syscall(SYS_gettid) != getpid()) return 0;
  return runtime.get_max_threads();
}

void run(int count, Part part, const void* context) {
  // Always the default number: a runtime ends the threads that a smaller number leaves out, and has to start them anew.
  constexpr unsigned default_number = 0;
  Parts parts{.count = count, .part = part, .context = context};
  runtime.parallel(Parts::run, &parts, default_number, 0);
}

}  // namespace lrcore::openmp

#else

namespace lrcore::openmp {

bool join() { return false; }
void leave() {}
int threads() { return 0; }
void run(int, Part, const void*) {}

}  // namespace lrcore::openmp

#endif
