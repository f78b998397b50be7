#include "timetable.h"

namespace lrcore {

Timetable::Timetable(const cuda::Api& api, Place place, int64_t steps)
    : api_(api),
      steps_(steps),
      memory_(api, place, steps * static_cast<int64_t>(sizeof(Constants)) + static_cast<int64_t>(sizeof(int64_t))),
      rows_(static_cast<Constants*>(memory_.data())),
      taken_(reinterpret_cast<int64_t*>(rows_ + steps)) {}

void Timetable::write(const std::vector<Constants>& rows, int64_t taken) {
  const CurrentDevice current(api_, memory_.place());
  check_cuda(api_, api_.copy(rows_, rows.data(), steps_ * static_cast<int64_t>(sizeof(Constants))),
             "writing the table of constants");
  set_taken(taken);
}

int64_t Timetable::taken() const {
  int64_t taken = 0;
  const CurrentDevice current(api_, memory_.place());
  check_cuda(api_, api_.copy(&taken, taken_, sizeof taken), "reading the step count");
  return taken;
}

void Timetable::set_taken(int64_t taken) {
  const CurrentDevice current(api_, memory_.place());
  check_cuda(api_, api_.copy(taken_, &taken, sizeof taken), "writing the step count");
}

void Timetable::advance(uintptr_t stream) const {
  const CurrentDevice current(api_, memory_.place());
  check_cuda(api_, api_.advance(taken_, stream), "advancing the step count");
}

}  // namespace lrcore
