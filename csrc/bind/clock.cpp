#include "clock.h"

#include "gil.h"

namespace lrcore {

void Clock::move_to_device(const cuda::Api& api, Device device, int64_t steps, const std::vector<Constants>& rows) {
  table_.emplace(api, device, steps, static_cast<int64_t>(rows.size()) / steps);
  const GilRelease unlocked;
  table_->write(rows, 0);
  view_ = table_->view();
}

void Clock::set_count(int64_t count) {
  if (table_)
    table_->set_step_count(count);
  else
    count_.store(count, std::memory_order_release);
}

void Clock::set_rows(const std::vector<Constants>& rows, std::optional<int64_t> count) {
  table_->write(rows, count ? *count : table_->step_count());
}

}  // namespace lrcore
