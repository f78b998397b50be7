// The division of a step into blocks and threads, as plain numbers that the host and the device compute identically.
// The `constexpr` functions of this module run on both.
#pragma once

#include "../plan.h"

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

/// Rows of constants in the memory of a device: `per_step` rows for each step in turn. If `rows` is null, there is no
/// table. If `step_count` is null, the rows are those of the next step; otherwise `step_count` is the number of steps
/// taken, and steps after the last one use the rows of the last one.
struct Table {
  const Constants* rows;
  const int64_t* step_count;
  int64_t last;
  int64_t per_step;
};

/// The blocks that update one segment. Its chunks begin at element `prologue`; the few elements of the segment before
/// and after them are updated one by one.
struct Extent {
  int64_t begin, prologue, chunks, end;
  int64_t first_block;
  int64_t row;
};

/// The arguments of one launch.
struct Job {
  Step step;
  Constants constants;  // without a table, the row; with a table, only gscale, which multiplies that of the row
  Table table;
  Extent whole;             // the only segment, unless there are several
  const Extent* extents;    // the segments, or null
  const int32_t* of_block;  // for each block, the index of its segment
  const Stream* gradients;  // those of each segment, or null if all segments read `step.g`
  int64_t blocks;
  int width;
};

/// Returns the number of elements in a chunk: four if all arrays have the same offset from a multiple of 16 bytes,
/// otherwise one. If the segments have gradients of their own, `gradients` are those of the `segments` segments.
inline int chunk_width(const Step& step, int states, const Stream* gradients = nullptr, int64_t segments = 0) {
  const auto offset = [](const Stream& array) { return reinterpret_cast<uintptr_t>(array.data) % sizeof(Vec4); };
  bool alike = gradients != nullptr || offset(step.p) == offset(step.g);
  for (int64_t k = 0; k < segments; ++k) alike = alike && offset(gradients[k]) == offset(step.p);
  for (int k = 0; k < states; ++k) alike = alike && offset(step.states[k]) == offset(step.p);
  return alike ? Vec4::width : Vec1::width;
}

/// Returns the blocks that update a segment with chunks of `width` elements.
inline Extent extent_of(const Step& step, int width, const Segment& segment, int64_t first_block) {
  const auto address = reinterpret_cast<uintptr_t>(elements<float>(step.p) + segment.begin);
  const auto before = static_cast<int64_t>((sizeof(Vec4) - address % sizeof(Vec4)) % sizeof(Vec4) / sizeof(float));
  const int64_t unaligned = width == Vec1::width ? 0 : before < segment.size() ? before : segment.size();
  return {.begin = segment.begin,
          .prologue = segment.begin + unaligned,
          .chunks = (segment.size() - unaligned) / width,
          .end = segment.end,
          .first_block = first_block,
          .row = segment.row};
}

/// Returns the number of blocks that update a segment, at least 1.
constexpr int64_t blocks(const Extent& extent, int width) {
  const int64_t tile = int64_t{block_threads} * unroll(width);
  return extent.chunks == 0 ? 1 : (extent.chunks + tile - 1) / tile;
}

/// Returns the job of a step with one segment.
inline Job make_job(const Step& step, int states, const Constants& constants, const Table& table,
                    const Segment& segment) {
  const int width = chunk_width(step, states);
  const Extent whole = extent_of(step, width, segment, 0);
  return {.step = step,
          .constants = constants,
          .table = table,
          .whole = whole,
          .extents = nullptr,
          .of_block = nullptr,
          .gradients = nullptr,
          .blocks = blocks(whole, width),
          .width = width};
}

}  // namespace lrcore::cuda
