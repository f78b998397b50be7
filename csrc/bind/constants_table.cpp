#include "constants_table.h"

namespace lrcore {

ConstantsTable::ConstantsTable(const cuda::Api& api, Device device, int64_t steps, const StepTable& table)
    : api_(api),
      steps_(steps),
      rows_per_step_(std::ssize(table.rows) / steps),
      memory_(api, device,
              static_cast<int64_t>(table.rows.size() * sizeof(Constants) + sizeof(int64_t) +
                                   table.max_norms.size() * sizeof(double) + table.averagings.size() * sizeof(float))),
      rows_(static_cast<Constants*>(memory_.data())),
      step_count_(reinterpret_cast<int64_t*>(rows_ + table.rows.size())),
      max_norms_(table.max_norms.empty() ? nullptr : reinterpret_cast<double*>(step_count_ + 1)),
      averagings_(table.averagings.empty()
                      ? nullptr
                      : reinterpret_cast<float*>(reinterpret_cast<double*>(step_count_ + 1) + table.max_norms.size())) {
}

void ConstantsTable::write(const StepTable& table, int64_t step_count) {
  const CurrentDevice current(api_, memory_.device());
  constexpr char tried[] = "writing the table of constants";
  copy_to_device(api_, rows_, table.rows, tried);
  copy_to_device(api_, max_norms_, table.max_norms, tried);
  copy_to_device(api_, averagings_, table.averagings, tried);
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

void ConstantsTable::advance(const cuda::Decision* decision, uintptr_t stream) const {
  const CurrentDevice current(api_, memory_.device());
  check_cuda(api_, api_.advance(step_count_, decision, stream), "advancing the step count");
}

}  // namespace lrcore
