#include "pool.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "openmp.h"

namespace lrcore::pool {
namespace {

using std::chrono::steady_clock;

constexpr auto patience = std::chrono::microseconds(50);  // how long a waiting thread spins before it sleeps

/// Sizes of slices, in elements. Two slices of `smallest_slice` take less time on two threads than on one, with every
/// rule; two of `slice_worth_waking` do so even if the second thread must be woken up, which takes 10 us.
constexpr int64_t smallest_slice = 32 * 1024;
constexpr int64_t slice_worth_waking = 256 * 1024;
constexpr int64_t slice_multiple = 16;  // 64 bytes

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Waits until the value differs from `old`, and returns it. Spins for a while, then waits on a futex.
template <class T>
T wait_for_change(const std::atomic<T>& value, T old) {
  const steady_clock::time_point end = steady_clock::now() + patience;
  do {
    for (int i = 0; i < 32; ++i) {
      const T now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      relax();
    }
  } while (steady_clock::now() < end);
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

struct BoundTask {
  Task task;
  const void* context;
  int64_t n;
  int64_t elements;  // for each number

  void operator()(int64_t begin, int64_t end) const { task(context, begin, end); }
};

/// The numbers [0, n) in slices of one size, of which the last ones may be smaller or empty.
struct Slices {
  int64_t n, size;

  int64_t begin(int i) const { return std::min(n, i * size); }
  int64_t end(int i) const { return begin(i + 1); }
};

Slices divide(const BoundTask& task, int parts) {
  const int64_t share = (task.n + parts - 1) / parts;
  const int64_t multiple = std::max<int64_t>(1, slice_multiple / task.elements);
  return {.n = task.n, .size = (share + multiple - 1) / multiple * multiple};
}

struct Worker {
  alignas(64) std::atomic<uint32_t> ticket{0};  // changes when there is a slice to do
  std::atomic<bool> offered{false};             // cleared by the thread that takes the slice
  int64_t begin = 0, end = 0;
};

/// The workers, and the one task that they share. Never destroyed: workers are not joined at exit.
///
/// The memory order, which is also valid on processors that reorder stores and loads:
/// - `busy` serializes the callers. The caller that holds it writes `shared`, `begin` and `end`, and then sets
///   `offered` (release). The thread that clears `offered` (acquire), a worker or the caller itself, sees these writes
///   and processes the slice.
/// - A worker that sees its new `ticket` (acquire) sees the value that `offered` had before the ticket changed
///   (release), or a later one. Therefore it misses no slice. A worker that wakes up late finds the slice taken, or
///   finds the slice of a later task.
/// - A worker ends its slice by decrementing `pending` (release). The caller decrements it for each slice that it takes
///   back; these decrements are also read-modify-writes, so they continue the workers' release sequences. When the
///   caller reads 0 (acquire), it therefore sees the writes of all slices, and no worker reads `shared` any more.
struct Crew {
  std::mutex busy;
  std::vector<std::unique_ptr<Worker>> workers;
  BoundTask shared{};
  alignas(64) std::atomic<int> pending{0};
  std::atomic<steady_clock::rep> last_end{steady_clock::time_point::min().time_since_epoch().count()};

  /// Returns the number of slices for a task. If tasks follow one another closely, smaller slices are allowed, because
  /// the workers are still awake or worth waking.
  int parts(int64_t elements) const {
    const steady_clock::time_point last{steady_clock::duration(last_end.load(std::memory_order_relaxed))};
    const bool close = steady_clock::now() < last + patience;
    return static_cast<int>(std::min<int64_t>(threads(), elements / (close ? smallest_slice : slice_worth_waking)));
  }

  void note_end() { last_end.store(steady_clock::now().time_since_epoch().count(), std::memory_order_relaxed); }

  /// Starts workers until there are at least `wanted`. Returns `wanted`, or fewer if the system permits no more.
  int hire(int wanted) {
    if (static_cast<int>(workers.size()) >= wanted) return wanted;
    // Workers block all signals, which the program's own threads must receive.
    sigset_t all, found;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &found);
    try {
      workers.reserve(static_cast<size_t>(wanted));
      while (static_cast<int>(workers.size()) < wanted) {
        auto worker = std::make_unique<Worker>();
        std::thread([this, &own = *worker] { serve(own); }).detach();
        workers.push_back(std::move(worker));
      }
    } catch (const std::exception&) {
      // Threads or memory have run out; the existing workers do the work.
    }
    pthread_sigmask(SIG_SETMASK, &found, nullptr);
    return static_cast<int>(workers.size());
  }

  void serve(Worker& own) {
    for (uint32_t seen = 0;;) {
      seen = wait_for_change(own.ticket, seen);
      if (take(own) && pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
    }
  }

  /// Processes a worker's slice unless it has been taken. A thread that comes late, after another task has begun,
  /// processes the slice of that task.
  bool take(Worker& worker) {
    if (!worker.offered.exchange(false, std::memory_order_acq_rel)) return false;
    shared(worker.begin, worker.end);
    return true;
  }

  /// Runs a task in up to `parts` slices. Returns false if the workers are busy with another caller's task.
  bool share(BoundTask task, int parts) {
    const std::unique_lock lock(busy, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    const int helpers = hire(parts - 1);
    const Slices slices = divide(task, helpers + 1);
    shared = task;
    pending.store(helpers, std::memory_order_relaxed);
    for (int i = 0; i < helpers; ++i) {
      Worker& worker = *workers[static_cast<size_t>(i)];
      worker.begin = slices.begin(i + 1);
      worker.end = slices.end(i + 1);
      worker.offered.store(true, std::memory_order_release);
      worker.ticket.fetch_add(1, std::memory_order_release);
      worker.ticket.notify_one();
    }
    shared(0, slices.end(0));
    // Take back the slices of workers that have no core yet: waiting for them would take longer than processing the
    // slices.
    for (int i = helpers; i-- > 0;)
      if (take(*workers[static_cast<size_t>(i)])) pending.fetch_sub(1, std::memory_order_relaxed);
    for (int left = pending.load(std::memory_order_acquire); left != 0;) left = wait_for_change(pending, left);
    return true;
  }
};

/// Runs a task in up to `parts` slices on the threads of OpenMP. Returns false if they cannot be used.
bool share_with_openmp(BoundTask work, int parts) {
  const int count = std::min(parts, openmp::threads());
  if (count == 0) return false;
  const std::pair slices_of_work(work, divide(work, count));
  openmp::run(
      count,
      [](const void* context, int i) {
        const auto& [task, slices] = *static_cast<const std::pair<BoundTask, Slices>*>(context);
        task(slices.begin(i), slices.end(i));
      },
      &slices_of_work);
  return true;
}

std::atomic<int> thread_count{0};  // 0: not yet determined

/// The crew of this process. A forked child has none of its parent's threads, so it gets a new crew.
std::atomic<Crew*> crew{new Crew};
std::atomic<int> forks{0};

}  // namespace

int threads() {
  int count = thread_count.load(std::memory_order_relaxed);
  if (count != 0) return count;
  const int usual = default_threads();
  return thread_count.compare_exchange_strong(count, usual, std::memory_order_relaxed) ? usual : count;
}

void set_threads(int count) { thread_count.store(count, std::memory_order_relaxed); }

void prepare_for_forks() {
  pthread_atfork(nullptr, nullptr, [] {
    crew.store(new Crew, std::memory_order_release);
    forks.fetch_add(1, std::memory_order_relaxed);
    openmp::leave();
  });
}

int generation() { return forks.load(std::memory_order_relaxed); }

void parallel_for(int64_t n, Task task, const void* context, int64_t elements) {
  if (n * elements < 2 * smallest_slice || threads() == 1) return task(context, 0, n);
  Crew& hands = *crew.load(std::memory_order_acquire);
  const int parts = hands.parts(n * elements);
  const BoundTask work{.task = task, .context = context, .n = n, .elements = elements};
  if (parts < 2 || !(share_with_openmp(work, parts) || hands.share(work, parts))) work(0, n);
  hands.note_end();
}

}  // namespace lrcore::pool
