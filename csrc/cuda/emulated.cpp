// The grid of a GPU, simulated on the host, which runs the same threads one after the other. It is for tests, which
// choose it by name.
#include <algorithm>
#include <cmath>

#include "../cpu/backends.h"
#include "../cpu/bounds.h"
#include "../cpu/fp_mode.h"
#include "../cpu/lane_portable.h"
#include "../cpu/leaf_sums.h"
#include "guard.h"
#include "kernels.h"

namespace lrcore::cuda {
namespace {

struct Host {
  template <class Chunk>
  static Chunk load(const Chunk* chunk) {
    return *chunk;
  }
  template <class Chunk>
  static void store(Chunk* chunk, const Chunk& from) {
    *chunk = from;
  }
};

using Grid = void (*)(const Job& job, int64_t begin, int64_t end);

/// Runs the blocks [begin, end).
template <class Chunk, class Rule, Form form>
void grid(const Job& job, int64_t begin, int64_t end) {
  for (int64_t block = begin; block < end; ++block)
    for (int thread = 0; thread < block_threads; ++thread) run_thread<Host, Chunk, Rule, form>(job, block, thread);
}

template <class Chunk, class Rule, Form form>
struct Grids {
  static constexpr Grid kernel() { return grid<Chunk, Rule, form>; }
};

constexpr Kernels<Grid> grids = make_kernels<Grid, Grids>();

/// One launch over the elements [begin, end).
template <class Rule, Form form>
void sweep(const Step& step, const Constants& constants, int64_t begin, int64_t end) {
  const Segment segment{.begin = begin, .end = end, .before = 0, .row = 0};
  const Job job = make_job(step, chunk_width(step, Rule::states.count), constants, {}, segment);
  (job.width == Vec4::width ? grid<Vec4, Rule, form> : grid<Vec1, Rule, form>)(job, 0, job.blocks);
}

void add_products(const float* x, const float* y, int64_t begin, int64_t end, double* partial) {
  const auto term = [=](int64_t i) { return double{x[i]} * double{y[i]}; };
  for (int thread = 0; thread < warp_threads; ++thread)
    partial[thread] = partial_sum(partial[thread], term, begin, end, thread);
}

/// Returns the sum that a warp computes: `partial(thread)` is the partial sum of a thread.
template <class Partial>
double warp_sum(Partial partial) {
  double sums[warp_threads];
  for (int thread = 0; thread < warp_threads; ++thread) sums[thread] = partial(thread);
  return sums::add_partials(sums);
}

void measure(const Measurement& launch) {
  for (int64_t k = 0; k < launch.leaf_count; ++k) {
    const Leaf& leaf = launch.leaves[k];
    const auto load = [](const float* element) { return *element; };
    launch.numbers[leaf.to] = warp_sum([&](int thread) { return measured(launch, leaf, thread, load); });
  }
}

void judge(const Judgement& launch) {
  int64_t begin = 0;
  for (int64_t phase = 0; phase < launch.phase_count; begin = launch.phases[phase++])
    for (int64_t k = launch.phases[phase]; k-- > begin;) {  // backwards, because the order within a phase is undefined
      const sums::Addition& addition = launch.additions[k];
      launch.numbers[addition.to] = warp_sum([&](int thread) { return added(launch, addition, thread); });
    }
  decide(launch, [](double x) { return std::sqrt(x); });
}

}  // namespace
}  // namespace lrcore::cuda

namespace lrcore::cpu {

constinit const SweepTable emulated_sweeps = rules::with_all([]<class... Entry>(Entry...) -> SweepTable {
  using enum cuda::Form;
  return {.sweeps = {{{cuda::sweep<typename Entry::Rule, plain>, cuda::sweep<typename Entry::Rule, full>},
                      {cuda::sweep<typename Entry::Rule, plain>, cuda::sweep<typename Entry::Rule, full>}}...},
          .arithmetic_bounds = {cpu::arithmetic_bound<Portable, typename Entry::Rule>...},
          .stream_bounds = {stream_bound<Portable, 0>, stream_bound<Portable, 1>, stream_bound<Portable, 2>,
                            stream_bound<Portable, 3>},
          .add_products = cuda::add_products,
          .add_arrays = cpu::add_arrays<Portable>};
});

}  // namespace lrcore::cpu

// For tests that replace the CUDA module: these run a range of a launch's blocks, or another launch, on the host.
extern "C" {
[[gnu::visibility("default")]] void lrcore_emulate(int rule, const lrcore::cuda::Job* job, int64_t begin, int64_t end) {
  const lrcore::cpu::DefaultFpMode mode;
  lrcore::cuda::grids.at(rule, *job)(*job, begin, end);
}
[[gnu::visibility("default")]] void lrcore_emulate_sums(const float* x, const float* y, int64_t n, double* sums) {
  const lrcore::cpu::DefaultFpMode mode;
  for (int64_t begin = 0; begin < n; begin += lrcore::sums::leaf_size) {
    double partial[lrcore::sums::partial_sums] = {};
    lrcore::cuda::add_products(x, y, begin, std::min(begin + lrcore::sums::leaf_size, n), partial);
    *sums++ = lrcore::sums::add_partials(partial);
  }
}
[[gnu::visibility("default")]] void lrcore_emulate_measure(const lrcore::cuda::Measurement* launch) {
  const lrcore::cpu::DefaultFpMode mode;
  lrcore::cuda::measure(*launch);
}
[[gnu::visibility("default")]] void lrcore_emulate_judge(const lrcore::cuda::Judgement* launch) {
  const lrcore::cpu::DefaultFpMode mode;
  lrcore::cuda::judge(*launch);
}
}
