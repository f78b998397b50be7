// One thread of a CUDA step: the elements that it updates, and how it updates them. The thread runs in the grid of a
// GPU, or in the grid that `emulated` simulates on the host; `Memory` defines how chunks are loaded and stored in
// that grid.
#pragma once

#include "../rules/registry.h"
#include "../update.h"
#include "job.h"

namespace lrcore::cuda {

constexpr Constants constants(const Job& job) {
  if (job.table.rows == nullptr) return job.step.constants;
  const int64_t step_count = *job.table.step_count;
  Constants row = job.table.rows[step_count < job.table.last ? step_count : job.table.last];
  row.stages.gscale = job.step.constants.stages.gscale;  // depends on the call, not on the step number
  return row;
}

/// Updates up to `count` chunks, `stride` elements apart, of which the first begins at element `first`. All loads come
/// before the stores. `inside(k)` returns whether the k-th chunk exists.
template <class Memory, class Chunk, class Rule, bool coupled, int count, class Inside>
constexpr void update_chunks(const Job& job, int64_t first, int64_t stride, Inside inside) {
  constexpr int states = Rule::states.count;
  constexpr int width = Chunk::width;
  const auto at = [&](auto* array, int k) { return array + first + k * stride; };
  const auto load = [&](const float* array, int k) {
    return Memory::load(reinterpret_cast<const Chunk*>(at(array, k)));
  };
  const auto store = [&](float* array, int k, const Chunk& chunk) {
    Memory::store(reinterpret_cast<Chunk*>(at(array, k)), chunk);
  };

  Chunk p[count] = {}, g[count] = {}, s[max_states][count] = {};
  for (int k = 0; k < count; ++k)
    if (inside(k)) {
      p[k] = load(job.step.p, k);
      g[k] = load(job.step.g, k);
      for (int i = 0; i < states; ++i) s[i][k] = load(job.step.states[i], k);
    }

  const Update<float, Rule, coupled> update(constants(job));
  for (int k = 0; k < count; ++k)
    for (int x = 0; x < width; ++x) {
      float lanes[max_states] = {};
      for (int i = 0; i < states; ++i) lanes[i] = s[i][k].x[x];
      update(p[k].x[x], g[k].x[x], lanes);
      for (int i = 0; i < states; ++i) s[i][k].x[x] = lanes[i];
    }

  for (int k = 0; k < count; ++k)
    if (inside(k)) {
      store(job.step.p, k, p[k]);
      for (int i = 0; i < states; ++i) store(job.step.states[i], k, s[i][k]);
    }
}

/// Runs thread `thread` of block `block`. A block updates a tile of chunks, and neighbouring threads update
/// neighbouring chunks. The first block also updates the elements before and after all chunks.
template <class Memory, class Chunk, class Rule, bool coupled>
constexpr void run_thread(const Job& job, int64_t block, int thread) {
  constexpr int count = unroll(Chunk::width);
  constexpr int64_t tile = int64_t{block_threads} * count;
  constexpr int64_t stride = int64_t{block_threads} * Chunk::width;

  const int64_t chunk = block * tile + thread;
  const int64_t first = job.prologue + chunk * Chunk::width;
  if ((block + 1) * tile <= job.chunks)
    update_chunks<Memory, Chunk, Rule, coupled, count>(job, first, stride, [](int) { return true; });
  else
    update_chunks<Memory, Chunk, Rule, coupled, count>(job, first, stride,
                                                       [&](int k) { return chunk + k * block_threads < job.chunks; });

  if constexpr (Chunk::width > 1) {
    const int64_t tail = job.prologue + job.chunks * Chunk::width;
    if (block == 0 && thread < job.prologue + (job.n - tail)) {
      const int64_t element = thread < job.prologue ? thread : tail + (thread - job.prologue);
      update_chunks<Memory, Vec1, Rule, coupled, 1>(job, element, 1, [](int) { return true; });
    }
  }
}

}  // namespace lrcore::cuda
