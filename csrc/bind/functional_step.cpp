#include "functional_step.h"

#include "../cpu/fp_mode.h"
#include "gil.h"
#include "step_numbers.h"
#include "watch.h"

namespace lrcore {

void FunctionalStep::apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
                           py::handle scale, py::handle requested) {
  const Instant now{.t = static_cast<double>(to_integer(t, "step", 1, max_step)), .lr = checked_rate(lr)};
  const double grad_scale = checked_grad_scale(scale);
  const Operands operands(params, states, config_.info().states);
  const bool is_one = !are_several(grads);
  const CudaStream stream = operands.stream(requested, is_one ? grads : py::handle(Py_None));
  const py::tuple objects = is_one ? py::make_tuple(grads) : checked_list(grads);
  std::vector<Array> gradients;
  for (const py::handle each : objects) {
    const std::string name = is_one ? "grads" : text("grads[", gradients.size(), "]");
    gradients.push_back(operands.gradients(each, stream, name.c_str()));
  }
  operands.refuse_capture(stream);
  require_in_place(params, operands.params);
  require_in_place(states, operands.states);
  require_in_place(objects, gradients);
  const std::vector<Stream> added = streams_of(gradients);

  Memo memo;
  std::vector<Array> completed;  // destroyed after the lock is released
  {
    const StepLock lock(mutex_);
    memo = memo_;
    completed = pending_reads_.remove_completed();
  }
  {
    const GilRelease unlocked;
    const Step step = operands.step(gradients.front());
    Constants row{};
    {
      const cpu::DefaultFpMode mode;
      config_.write_constants(now, memo, grad_scale, row);
    }
    const Segment whole{.begin = 0, .end = operands.params.size(), .before = 0, .row = 0};
    const Plan plan{.step = step, .rows = {&row, 1}, .segments = {&whole, 1}, .gradients = {}, .added = added};
    operands.run(config_.rule, plan, stream);
  }
  {
    const StepLock lock(mutex_);
    memo_ = memo;
    for (Array& each : gradients) pending_reads_.add(operands.api, std::move(each), stream);
  }
  raise_versions_of(tensors_among(params, states));
}

}  // namespace lrcore
