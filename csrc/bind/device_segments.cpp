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
  const auto bytes_of_extents = static_cast<int64_t>(extents.size() * sizeof(cuda::Extent));
  const auto bytes_of_map = static_cast<int64_t>(of_block.size() * sizeof(int32_t));
  memory_.emplace(api, device, bytes_of_rows + bytes_of_extents + bytes_of_map);
  rows_ = static_cast<Constants*>(memory_->data());
  extents_ = reinterpret_cast<cuda::Extent*>(rows_ + rows);
  of_block_ = reinterpret_cast<int32_t*>(extents_ + extents.size());
  const GilRelease unlocked;
  const CurrentDevice current(api, device);
  check_cuda(api, api.copy(extents_, extents.data(), bytes_of_extents), "writing the segments");
  check_cuda(api, api.copy(of_block_, of_block.data(), bytes_of_map), "writing the segments");
}

cuda::Table DeviceSegments::write_rows(std::span<const Constants> rows, uintptr_t stream) const {
  check_cuda(api_, api_.write_rows(rows_, rows.data(), static_cast<int64_t>(rows.size()), stream),
             "writing the constants of the step");
  return {.rows = rows_, .step_count = nullptr, .last = 0, .per_step = 0};
}

cuda::Job DeviceSegments::job(const Step& step, float gscale, const cuda::Table& table) const {
  cuda::Job job{};
  job.step = step;
  job.constants.stages.gscale = gscale;
  job.table = table;
  job.extents = extents_;
  job.of_block = of_block_;
  job.blocks = blocks_;
  job.width = width_;
  return job;
}

}  // namespace lrcore
