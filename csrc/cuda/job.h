// How a step is cut into blocks and threads, as plain numbers that host and device compute alike. A `constexpr`
// function of this room runs on both.
#pragma once

#include "../step.h"

namespace lrcore::cuda {

inline constexpr int block_threads = 256;

/// `width` neighbouring elements of one array, moved by one access.
template <int width_>
struct alignas(width_ * sizeof(float)) Chunk {
  static constexpr int width = width_;
  float x[width];
};
using Quad = Chunk<4>;
using Single = Chunk<1>;

/// Chunks of each array that a thread takes: a quad, or as many single elements. With two quads in flight a step of
/// Adam takes 1.04 times as long on an NVIDIA H200, with four 1.17 times: fewer threads fit on a multiprocessor.
constexpr int depth(int width) { return Quad::width / width; }

/// The constants of every step that a captured graph may take, and which step is next. Null rows mean none.
struct Table {
  const Constants* rows;
  const int64_t* taken;  // steps taken so far: the row to use, and beyond the last row the last
  int64_t last;
};

/// What one launch is given.
///
/// Chunks begin at element `head`; the few elements before them and after them are single.
struct Job {
  Step step;
  Table table;
  int64_t n;
  int64_t head;
  int64_t chunks;
  int width;
};

/// Quads where all arrays lie alike with respect to 16 bytes, else single elements.
inline Job make_job(const Step& step, int states, int64_t n, const Table& table) {
  const auto offset = [](const float* array) { return reinterpret_cast<uintptr_t>(array) % sizeof(Quad); };
  bool alike = offset(step.p) == offset(step.g);
  for (int k = 0; k < states; ++k) alike = alike && offset(step.states[k]) == offset(step.p);

  const int width = alike ? Quad::width : Single::width;
  const auto before = static_cast<int64_t>((sizeof(Quad) - offset(step.p)) % sizeof(Quad) / sizeof(float));
  const int64_t head = !alike ? 0 : before < n ? before : n;
  return {step, table, n, head, (n - head) / width, width};
}

/// The blocks of a launch, at least one.
constexpr int64_t blocks(const Job& job) {
  const int64_t tile = int64_t{block_threads} * depth(job.width);
  return job.chunks == 0 ? 1 : (job.chunks + tile - 1) / tile;
}

}  // namespace lrcore::cuda
