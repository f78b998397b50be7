#include "constants_table.h"

namespace lrcore {

ConstantsTable::ConstantsTable(const cuda::Api& api, Device device, int64_t steps, int64_t rows_per_step)
    : api_(api),
      steps_(steps),
      rows_per_step_(rows_per_step),
      memory_(api, device,
              steps * rows_per_step * static_cast<int64_t>(sizeof(Constants)) + static_cast<int64_t>(sizeof(int64_t))),
      rows_(static_cast<Constants*>(memory_.data())),
      step_count_(reinterpret_cast<int64_t*>(rows_ + steps * rows_per_step)) {}

void ConstantsTable::write(const std::vector<Constants>& rows, int64_t step_count) {
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.copy(rows_, rows.data(), static_cast<int64_t>(rows.size() * sizeof(Constants))),
             "writing the table of constants");
  set_step_count(step_count);
}

int64_t ConstantsTable::step_count() const {
  int64_t step_count = 0;
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.copy(&step_count, step_count_, sizeof step_count), "reading the step count");
  return step_count;
}

void ConstantsTable::set_step_count(int64_t step_count) {
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.copy(step_count_, &step_count, sizeof step_count), "writing the step count");
}

void ConstantsTable::advance(uintptr_t stream) const {
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.advance(step_count_, stream), "advancing the step count");
}

}  // namespace lrcore
