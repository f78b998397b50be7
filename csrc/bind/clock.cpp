#include "clock.h"

#include "gil.h"

namespace lrcore {

void Clock::move_to_device(const cuda::Api& api, Device device, int64_t steps, const StepTable& table) {
  table_.emplace(api, device, steps, table);
  const GilRelease unlocked;
  table_->write(table, 0);
  view_ = table_->view();
}

void Clock::set_count(int64_t count) {
  if (table_)
    table_->set_step_count(count);
  else
    count_.store(count, std::memory_order_release);
}

void Clock::set_table(const StepTable& table, std::optional<int64_t> count) {
  table_->write(table, count ? *count : table_->step_count());
}

}  // namespace lrcore
