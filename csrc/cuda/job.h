// The division of a step into blocks and threads, as plain numbers that the host and the device compute identically.
// The `constexpr` functions of this module run on both.
#pragma once

#include "../plan.h"
#include "../sums/tree.h"

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
  const double* max_norms;  // the largest norm of the gradients at each step, or null
  const float* averagings;  // `Step::averaging` of each step, or null

  /// Returns the entry of the next step.
  constexpr int64_t entry() const {
    if (step_count == nullptr) return 0;
    return *step_count < last ? *step_count : last;
  }
};

/// What the device has decided about a step.
struct Decision {
  double norm;  // of the gradients, before clipping, at the last step that measured it; negative before
  float gscale;
  int32_t is_skipped;
  int64_t skipped;   // number of skipped steps
  int64_t in_a_row;  // number of steps skipped since the last one that was taken
  int64_t since;     // the step count when the first of them was skipped
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
  const Stream* added;      // a list of gradients, the first of which is `step.g`; null if there is only one
  int64_t added_count;
  const Decision* decision;  // its gscale multiplies that of the row; null if each step is taken
  int64_t blocks;
  int width;
  bool is_skipped;  // no step is taken; only the gradients are zeroed
};

/// The elements of a leaf, the first segment that does not end before it, and the number that becomes its sum.
struct Leaf {
  int64_t begin, end;
  int64_t segment;
  int64_t to;
};

/// A launch that sums the squares of the gradients of each leaf. Elements outside all segments count as zeros.
struct Measurement {
  Job job;  // whose gradients they are
  int64_t segments;
  const Leaf* leaves;
  int64_t leaf_count;
  double* numbers;
};

/// A launch that adds up the sums of the leaves, and decides about the step.
struct Judgement {
  const sums::Addition* additions;
  const int64_t* phases;
  int64_t phase_count;
  double* numbers;  // null if the gradients have not been measured
  int64_t total;
  double grad_scale;
  const float* loss_scale;  // divides grad_scale, or null
  const float* found_inf;   // the step is skipped unless it is 0; or null
  double max_norm;          // infinite if the norm is not bounded; not used if the table has max_norms
  Table table;
  int64_t step_count;  // not used if it is in the table
  int32_t skips;       // whether a step is skipped if its gradients are not finite
  int32_t unused;
  Decision* decision;
  Decision* copy;  // in the memory of the host, or null
};

/// Returns the number of elements in a chunk: four if all arrays have the same offset from a multiple of 16 bytes,
/// otherwise one. If the segments have gradients of their own, `gradients` are those of the `segments` segments.
inline int chunk_width(const Step& step, int states, const Stream* gradients = nullptr, int64_t segments = 0) {
  const auto offset = [](const Stream& array) { return reinterpret_cast<uintptr_t>(array.data) % sizeof(Vec4); };
  bool alike = segments > 0 || offset(step.p) == offset(step.g);
  for (int64_t k = 0; k < segments; ++k) alike = alike && offset(gradients[k]) == offset(step.p);
  for (int k = 0; k < states; ++k) alike = alike && offset(step.states[k]) == offset(step.p);
  if (step.average.data != nullptr) alike = alike && offset(step.average) == offset(step.p);
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

/// Returns the job of a step with one segment, in chunks of `width` elements.
inline Job make_job(const Step& step, int width, const Constants& constants, const Table& table,
                    const Segment& segment) {
  const Extent whole = extent_of(step, width, segment, 0);
  return {.step = step,
          .constants = constants,
          .table = table,
          .whole = whole,
          .extents = nullptr,
          .of_block = nullptr,
          .gradients = nullptr,
          .added = nullptr,
          .added_count = 0,
          .decision = nullptr,
          .blocks = blocks(whole, width),
          .width = width,
          .is_skipped = false};
}

}  // namespace lrcore::cuda
