// A stress test of the thread pool, for the sanitizers: several callers at once, varying numbers of threads, sizes
// around the thresholds, pauses in which the workers fall asleep, and forks at any moment. The exit status is 0 if
// every job was done completely and exactly once.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/pool.h"

namespace {

namespace pool = lrcore::pool;

constexpr int64_t grain = 16;        // slices begin at multiples of this
constexpr int64_t smallest = 32768;  // and have at least this many elements
constexpr int most_threads = 6;
constexpr int64_t sizes[] = {0, 1000, 65'535, 65'536, 100'003, 524'288, 1'500'001};
constexpr int gaps[] = {0, 0, 0, 20, 45, 55, 200, 2000};  // microseconds, around the pool's constant `patience`
#if defined(__SANITIZE_THREAD__)
constexpr unsigned forks = 0;  // ThreadSanitizer does not follow a forked child that starts threads
#else
constexpr unsigned forks = 100;
#endif

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void change_threads(std::mt19937& random) { pool::set_threads(static_cast<int>(1 + random() % most_threads)); }

/// Runs jobs of various sizes, with gaps. Like sweeps, the jobs use no atomics, so a race is an error.
void call(unsigned seed, int jobs) {
  std::mt19937 random(seed);
  const auto one_of = [&](const auto& all) { return all[random() % std::size(all)]; };
  std::vector<int> counts(1'500'001 / grain + 1);  // how often each grain was processed
  int* const context = counts.data();
  for (int job = 0; job < jobs; ++job) {
    if (random() % 8 == 0) change_threads(random);
    const int64_t n = one_of(sizes);
    const auto done = counts.begin() + (n + grain - 1) / grain;
    std::fill(counts.begin(), counts.end(), 0);
    pool::parallel_for(
        n,
        [](const void* of, int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; i += grain) ++(*static_cast<int* const*>(of))[i / grain];
        },
        &context);
    require(std::all_of(counts.begin(), done, [](int times) { return times == 1; }),
            "an element was not processed exactly once");
    require(std::all_of(done, counts.end(), [](int times) { return times == 0; }),
            "an element beyond the end was processed");
    if (const int gap = one_of(gaps)) std::this_thread::sleep_for(std::chrono::microseconds(gap));
  }
}

/// Runs very short jobs one after the other, so that the caller and a worker often try to take the same slice.
void burst(unsigned seed, int jobs) {
  std::mt19937 random(seed);
  for (int job = 0; job < jobs; ++job) {
    if (random() % 64 == 0) change_threads(random);
    std::array<int, most_threads> begun{};
    int* const context = begun.data();
    pool::parallel_for(
        most_threads * smallest,
        [](const void* of, int64_t begin, int64_t) { ++(*static_cast<int* const*>(of))[begin / smallest]; }, &context);
    require(begun[0] == 1, "the first slice was not begun exactly once");
    require(std::all_of(begun.begin(), begun.end(), [](int times) { return times <= 1; }),
            "a slice was begun more than once");
  }
}

/// Forks while the callers work, and returns whether the child, which has none of the pool's threads, succeeds.
bool child_works(unsigned seed) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    call(seed, 20);
    burst(seed, 100);
    _exit(0);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && status == 0;
}

}  // namespace

int main() {
  pool::prepare_for_forks();
  burst(0, 20'000);
  std::vector<std::thread> callers;
  for (unsigned seed = 1; seed <= 3; ++seed) callers.emplace_back(call, seed, 500);
  callers.emplace_back(burst, 4, 20'000);
  int failures = 0;
  for (unsigned seed = 0; seed < forks; ++seed) failures += !child_works(seed);
  for (std::thread& caller : callers) caller.join();
  std::fprintf(stderr, "%d of %u forked children failed\n", failures, forks);
  return failures != 0;
}
