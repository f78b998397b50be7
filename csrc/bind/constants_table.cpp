#include "constants_table.h"

namespace lrcore {

ConstantsTable::ConstantsTable(const cuda::Api& api, Device device, int64_t steps, int64_t rows_per_step,
                               bool has_max_norms)
    : api_(api),
      steps_(steps),
      rows_per_step_(rows_per_step),
      memory_(api, device,
              steps * rows_per_step * static_cast<int64_t>(sizeof(Constants)) +
                  (has_max_norms ? steps : 0) * static_cast<int64_t>(sizeof(double)) +
                  static_cast<int64_t>(sizeof(int64_t))),
      rows_(static_cast<Constants*>(memory_.data())),
      max_norms_(has_max_norms ? reinterpret_cast<double*>(rows_ + steps * rows_per_step) : nullptr),
      step_count_(has_max_norms ? reinterpret_cast<int64_t*>(max_norms_ + steps)
                                : reinterpret_cast<int64_t*>(rows_ + steps * rows_per_step)) {}

void ConstantsTable::write(const StepTable& table, int64_t step_count) {
  const CurrentDevice current(api_, memory_.device());
  constexpr char tried[] = "writing the table of constants";
  copy_to_device(api_, rows_, table.rows, tried);
  copy_to_device(api_, max_norms_, table.max_norms, tried);
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
