#include "device_segments.h"

#include <vector>

#include "gil.h"

namespace lrcore {

DeviceSegments::DeviceSegments(const cuda::Api& api, Device device, const Step& step, int width,
                               std::span<const Segment> segments, int64_t rows)
    : api_(api), width_(width) {
  std::vector<cuda::Extent> extents;
  std::vector<int32_t> of_block;
  for (const Segment& segment : segments) {
    extents.push_back(cuda::extent_of(step, width, segment, blocks_));
    blocks_ += cuda::blocks(extents.back(), width);
    of_block.resize(static_cast<size_t>(blocks_), static_cast<int32_t>(extents.size() - 1));
  }
  const int64_t bytes_of_rows = rows * static_cast<int64_t>(sizeof(Constants));
  const auto bytes_of_gradients = static_cast<int64_t>(extents.size() * sizeof(Stream));
  const auto bytes_of_extents = static_cast<int64_t>(extents.size() * sizeof(cuda::Extent));
  const auto bytes_of_map = static_cast<int64_t>(of_block.size() * sizeof(int32_t));
  memory_.emplace(api, device, bytes_of_rows + bytes_of_gradients + bytes_of_extents + bytes_of_map);
  rows_ = static_cast<Constants*>(memory_->data());
  gradients_ = reinterpret_cast<Stream*>(rows_ + rows);
  extents_ = reinterpret_cast<cuda::Extent*>(gradients_ + extents.size());
  of_block_ = reinterpret_cast<int32_t*>(extents_ + extents.size());
  const GilRelease unlocked;
  const CurrentDevice current(api, device);
  copy_to_device(api, extents_, extents, "writing the segments");
  copy_to_device(api, of_block_, of_block, "writing the segments");
}

cuda::Table DeviceSegments::write_rows(std::span<const Constants> rows, uintptr_t stream) const {
  static_assert(sizeof(Constants) % 16 == 0);
  check_cuda(api_, api_.write(rows_, rows.data(), static_cast<int64_t>(rows.size_bytes() / 16), stream),
             "writing the constants of the step");
  return {.rows = rows_, .step_count = nullptr, .last = 0, .per_step = 0, .max_norms = nullptr, .averagings = nullptr};
}

void DeviceSegments::write_gradients(std::span<const Stream> gradients, uintptr_t stream) const {
  static_assert(sizeof(Stream) == 16);
  check_cuda(api_, api_.write(gradients_, gradients.data(), static_cast<int64_t>(gradients.size()), stream),
             "writing the addresses of the gradients");
}

cuda::Job DeviceSegments::job(const Step& step, float gscale, const cuda::Table& table, bool has_gradients) const {
  cuda::Job job{};
  job.step = step;
  job.constants.stages.gscale = gscale;
  job.table = table;
  job.extents = extents_;
  job.of_block = of_block_;
  job.gradients = has_gradients ? gradients_ : nullptr;
  job.blocks = blocks_;
  job.width = width_;
  return job;
}

}  // namespace lrcore
