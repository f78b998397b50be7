// One thread of a CUDA step: the elements that it updates, and how it updates them. The thread runs in the grid of a
// GPU, or in the grid that `emulated` simulates on the host; `Memory` defines how chunks are loaded and stored in
// that grid.
#pragma once

#include "../rules/registry.h"
#include "../update.h"
#include "job.h"

namespace lrcore::cuda {

/// What a kernel can do besides the rule: nothing, read the decision about a step, or also add a list of gradients,
/// update the average of the parameters and zero the gradients. The less it can do, the fewer registers a thread needs.
enum class Form { plain, guarded, full };

/// Returns the constants of a row. Each product of scales is exact, because at most one of its factors is not 1 or -1.
template <Form form>
constexpr Constants constants(const Job& job, int64_t index) {
  Constants row = job.constants;
  if (job.table.rows != nullptr) {
    row = job.table.rows[job.table.entry() * job.table.per_step + index];
    row.stages.gscale = row.stages.gscale * job.constants.stages.gscale;
  }
  if constexpr (form != Form::plain)
    if (job.decision != nullptr) row.stages.gscale = row.stages.gscale * job.decision->gscale;
  return row;
}

/// Returns the extent of the segment that a block updates.
constexpr Extent extent(const Job& job, int64_t block) {
  return job.extents == nullptr ? job.whole : job.extents[job.of_block[block]];
}

/// Returns the gradients that a block reads.
constexpr float* gradients(const Job& job, int64_t block) {
  return elements<float>(job.gradients == nullptr ? job.step.g : job.gradients[job.of_block[block]]);
}

/// Whether the step is skipped: because the host or the device has decided so.
constexpr bool is_skipped(const Job& job) {
  return job.is_skipped || (job.decision != nullptr && job.decision->is_skipped != 0);
}

/// Returns the fraction by which the step moves the average of the parameters.
constexpr float averaging(const Job& job) {
  return job.table.averagings == nullptr ? job.step.averaging : job.table.averagings[job.table.entry()];
}

/// Updates up to `count` chunks, `stride` elements apart, of which the first begins at element `first`. All loads come
/// before the stores. `inside(k)` returns whether the k-th chunk exists.
template <class Memory, class Chunk, class Rule, Form form, int count, class Inside>
constexpr void update_chunks(const Job& job, const float* grads, int64_t row, int64_t first, int64_t stride,
                             Inside inside) {
  constexpr int states = Rule::states.count;
  constexpr int width = Chunk::width;
  const auto at = [&](auto* array, int k) { return array + first + k * stride; };
  const auto load = [&](const float* array, int k) {
    return Memory::load(reinterpret_cast<const Chunk*>(at(array, k)));
  };
  const auto store = [&](const Stream& array, int k, const Chunk& chunk) {
    Memory::store(reinterpret_cast<Chunk*>(at(elements<float>(array), k)), chunk);
  };

  Chunk p[count] = {}, g[count] = {}, s[max_states][count] = {}, average[count] = {};
  const bool has_average = form == Form::full && job.step.average.data != nullptr;
  for (int k = 0; k < count; ++k)
    if (inside(k)) {
      p[k] = load(elements<const float>(job.step.p), k);
      g[k] = load(grads, k);
      for (int i = 0; i < states; ++i) s[i][k] = load(elements<const float>(job.step.states[i]), k);
      if (has_average) average[k] = load(elements<const float>(job.step.average), k);
    }
  if constexpr (form == Form::full && width == Vec1::width)
    for (int64_t each = 1; each < job.added_count; ++each)
      for (int k = 0; k < count; ++k)
        if (inside(k)) {
          const Chunk next = load(elements<const float>(job.added[each]), k);
          for (int x = 0; x < width; ++x) g[k].x[x] = g[k].x[x] + next.x[x];
        }

  const Update<float, Rule, Coupled::by_row> update(constants<form>(job, row));
  for (int k = 0; k < count; ++k)
    for (int x = 0; x < width; ++x) {
      float lanes[max_states] = {};
      for (int i = 0; i < states; ++i) lanes[i] = s[i][k].x[x];
      update(p[k].x[x], g[k].x[x], lanes);
      for (int i = 0; i < states; ++i) s[i][k].x[x] = lanes[i];
      if (has_average) move_average(average[k].x[x], p[k].x[x], averaging(job));
    }

  for (int k = 0; k < count; ++k)
    if (inside(k)) {
      store(job.step.p, k, p[k]);
      for (int i = 0; i < states; ++i) store(job.step.states[i], k, s[i][k]);
      if (has_average) store(job.step.average, k, average[k]);
    }
}

/// Zeroes the gradients of the same chunks.
template <class Memory, class Chunk, int count, class Inside>
constexpr void zero_chunks(const Job& job, float* grads, int64_t first, int64_t stride, Inside inside) {
  const auto zero = [&](float* array) {
    for (int k = 0; k < count; ++k)
      if (inside(k)) Memory::store(reinterpret_cast<Chunk*>(array + first + k * stride), Chunk{});
  };
  zero(grads);
  if constexpr (Chunk::width == Vec1::width)
    for (int64_t each = 1; each < job.added_count; ++each) zero(elements<float>(job.added[each]));
}

/// Runs thread `thread` of block `block`. A block updates a tile of a segment's chunks, and neighbouring threads update
/// neighbouring chunks. The first block of a segment also updates the elements before and after all its chunks.
template <class Memory, class Chunk, class Rule, Form form>
constexpr void run_thread(const Job& job, int64_t block, int thread) {
  constexpr int count = unroll(Chunk::width);
  constexpr int64_t tile = int64_t{block_threads} * count;
  constexpr int64_t stride = int64_t{block_threads} * Chunk::width;

  const bool is_taken = form == Form::plain || !is_skipped(job);
  const bool is_zeroing = form == Form::full && job.step.zeroes_grads;
  if (!is_taken && !is_zeroing) return;
  const Extent part = extent(job, block);
  const int64_t own_block = block - part.first_block;
  const int64_t chunk = own_block * tile + thread;
  const int64_t first = part.prologue + chunk * Chunk::width;
  const int64_t left = part.chunks - chunk;  // from the thread's first chunk to the end of the segment
  const bool is_full = (own_block + 1) * tile <= part.chunks;
  const int64_t row = part.row;
  float* const grads = gradients(job, block);
  // Computed before the update, so that the extent need not be kept in registers.
  const int64_t before = part.prologue - part.begin;
  const int64_t tail = part.prologue + part.chunks * Chunk::width;
  const bool has_single = own_block == 0 && thread < before + (part.end - tail);
  const int64_t single = thread < before ? part.begin + thread : tail + (thread - before);

  const auto all = [](int) { return true; };
  const auto existing = [&](int k) { return k * block_threads < left; };
  if (is_taken) {
    if (is_full)
      update_chunks<Memory, Chunk, Rule, form, count>(job, grads, row, first, stride, all);
    else
      update_chunks<Memory, Chunk, Rule, form, count>(job, grads, row, first, stride, existing);
    if constexpr (Chunk::width > 1)
      if (has_single) update_chunks<Memory, Vec1, Rule, form, 1>(job, grads, row, single, 1, all);
  }
  if constexpr (form == Form::full)
    if (is_zeroing) {
      zero_chunks<Memory, Chunk, count>(job, grads, first, stride, existing);
      if constexpr (Chunk::width > 1)
        if (has_single) zero_chunks<Memory, Vec1, 1>(job, grads, single, 1, all);
    }
}

}  // namespace lrcore::cuda
