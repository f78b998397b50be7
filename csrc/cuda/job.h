// The division of a step into blocks and threads, as plain numbers that the host and the device compute identically.
// The `constexpr` functions of this module run on both.
#pragma once

#include "../step.h"

namespace lrcore::cuda {

inline constexpr int block_threads = 256;

/// `width` neighbouring elements of one array, loaded or stored by one access.
template <int width_>
struct alignas(width_ * sizeof(float)) Chunk {
  static constexpr int width = width_;
  float x[width];
};
using Vec4 = Chunk<4>;
using Vec1 = Chunk<1>;

/// Returns the number of chunks of each array per thread: one chunk of four elements, or four chunks of one. With two
/// chunks of four elements, a step of Adam takes 1.04 times as long on an NVIDIA H200, and with four chunks 1.17 times
/// as long, because fewer threads fit on a multiprocessor.
constexpr int unroll(int width) { return Vec4::width / width; }

/// The constants of every step that a captured graph may take, and the index of the next step. If `rows` is null, there
/// is no table.
struct Table {
  const Constants* rows;
  const int64_t* step_count;  // the row to use; beyond the last row, the last row is used
  int64_t last;
};

/// The arguments of one launch.
///
/// Chunks begin at element `prologue`; the few elements before and after the chunks are updated one by one.
struct Job {
  Step step;
  Table table;
  int64_t n;
  int64_t prologue;
  int64_t chunks;
  int width;
};

/// Returns a job with chunks of four elements if all arrays have the same offset from a multiple of 16 bytes, else with
/// chunks of one element.
inline Job make_job(const Step& step, int states, int64_t n, const Table& table) {
  const auto offset = [](const float* array) { return reinterpret_cast<uintptr_t>(array) % sizeof(Vec4); };
  bool alike = offset(step.p) == offset(step.g);
  for (int k = 0; k < states; ++k) alike = alike && offset(step.states[k]) == offset(step.p);

  const int width = alike ? Vec4::width : Vec1::width;
  const auto before = static_cast<int64_t>((sizeof(Vec4) - offset(step.p)) % sizeof(Vec4) / sizeof(float));
  const int64_t prologue = !alike ? 0 : before < n ? before : n;
  return {step, table, n, prologue, (n - prologue) / width, width};
}

/// Returns the number of blocks of a launch, at least 1.
constexpr int64_t blocks(const Job& job) {
  const int64_t tile = int64_t{block_threads} * unroll(job.width);
  return job.chunks == 0 ? 1 : (job.chunks + tile - 1) / tile;
}

}  // namespace lrcore::cuda
