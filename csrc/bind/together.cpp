// One step of several optimizers, whose parameters belong together but lie on different devices.
#include <algorithm>
#include <deque>
#include <functional>

#include "gil.h"
#include "stepper.h"

namespace lrcore {

void Stepper::step_together(std::span<Stepper* const> steppers, py::handle scale) {
  const double grad_scale = checked_grad_scale(scale);
  std::vector<Stream> streams;
  bool by_table = false;
  for (Stepper* each : steppers) {
    if (!each->grads_)
      throw py::type_error("grads: optimizers that step together need gradients bound at construction");
    streams.push_back(each->operands_.stream(py::none(), py::none()));
    by_table = by_table || each->timetable_;
  }
  if (by_table) {
    for (Stepper* each : steppers) each->step_by_table(py::none(), grad_scale, py::none());
    return;
  }
  std::vector<Stepper*> in_order(steppers.begin(), steppers.end());  // so that two calls do not wait for each other
  std::ranges::sort(in_order, std::less<>());
  if (in_order.empty() || std::ranges::adjacent_find(in_order) != in_order.end())
    throw py::value_error("steppers: expected optimizers, each of them once");

  Stepper& first = *steppers[0];
  for (Tries tries(first.patience_);; tries.fail()) {
    tries.begin();
    const Answer answer = first.ask();
    std::deque<Turn> turns;
    for (Stepper* each : in_order) turns.emplace_back(each->turn_);
    if (!first.serves(answer, tries)) continue;
    for (size_t i = 0; i < steppers.size(); ++i) steppers[i]->require_unmoved(streams[i]);

    const GilRelease unlocked;
    for (size_t i = 0; i < steppers.size(); ++i) {
      Stepper& each = *steppers[i];
      each.advance(each.operands_.step(*each.grads_), answer.lr, grad_scale, streams[i]);
    }
    break;
  }
  for (const Stepper* each : steppers) each->raise_versions();
}

}  // namespace lrcore
