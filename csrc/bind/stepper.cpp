#include "stepper.h"

#include <utility>

#include "gil.h"

namespace lrcore {

Stepper::Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads,
                 bool decoupled, bool maximize, Hyperparameters hyperparameters, Rate rate,
                 std::optional<int64_t> max_steps)
    : operands_(params, states, RuleConfig(rule, decoupled, maximize).info().states),
      config_(rule, decoupled, maximize),
      rate_(std::move(rate)) {
  use(hyperparameters);
  watch_.add(params, operands_.params, true);
  written_ = tensors_among(params, states);
  if (!grads.is_none()) {
    grads_ = operands_.gradients(grads, {});
    watch_.add(grads, *grads_, false);
  }
  for (size_t k = 0; k < operands_.states.size(); ++k)
    states_watch_.add(py::object(states[k]), operands_.states[k], true);
  if (operands_.api != nullptr) {
    const GilRelease unlocked;
    const CurrentDevice current(*operands_.api, operands_.device());
    check_cuda(*operands_.api, operands_.api->prepare(config_.rule), "loading the kernels");
  }
  if (!max_steps) return;
  if (operands_.api == nullptr)
    throw py::value_error("capturable: CPU arrays cannot be part of a CUDA graph; leave it out");
  if (!grads_) throw py::value_error("grads: a capturable optimizer needs gradients bound at construction, got None");
  clock_.move_to_device(*operands_.api, operands_.device(), rows(config_, rate_, *max_steps));
}

/// Swaps in `hyperparameters`. The caller must release the previous ones without holding the lock.
void Stepper::use(Hyperparameters& hyperparameters) {
  config_ = config_.with(hyperparameters);
  const std::lock_guard lock(references_mutex_);
  std::swap(hyperparameters_, hyperparameters.dict);
}

/// Swaps in `rate` in the same way.
void Stepper::use(Rate& rate) {
  const std::lock_guard lock(references_mutex_);
  std::swap(rate_, rate);
}

py::object Stepper::hyperparameters() const {
  const std::lock_guard lock(references_mutex_);
  return hyperparameters_;
}

py::object Stepper::schedule() const {
  const std::lock_guard lock(references_mutex_);
  return rate_.schedule;
}

void Stepper::step(py::handle grads, py::handle scale, py::handle requested) {
  const double grad_scale = checked_grad_scale(scale);
  if (clock_.on_device() && !grads.is_none()) [[unlikely]]
    throw py::type_error(
        "grads: a capturable optimizer steps with the gradients that were bound at construction; write into them");
  const Stream stream = operands_.stream(requested, grads);
  std::optional<Array> passed;
  if (!grads.is_none())
    passed = fitting_gradients(grads, stream);
  else if (!grads_)
    throw py::type_error("grads: expected an array, got None; pass the gradients, or bind them once with grads=");
  const Step step = operands_.step(passed ? *passed : *grads_);

  std::vector<Array> completed;  // destroyed after the lock is released
  for (Tries tries(patience_);; tries.fail()) {
    tries.begin();
    const ScheduledRate rate = next_rate();
    const StepLock lock(step_mutex_);
    if (!is_current(rate, tries)) continue;
    require_unmoved(stream);
    if (passed) require_in_place(grads, *passed);
    completed = pending_reads_.remove_completed();

    const GilRelease unlocked;
    advance(step, rate, grad_scale, stream);
    if (passed) pending_reads_.add(operands_.api, std::move(*passed), stream);
    break;
  }
  raise_versions();
}

/// Returns the gradients of one step. If they do not match because bound arrays have moved, the error is about the
/// bound arrays.
Array Stepper::fitting_gradients(py::handle grads, const Stream& stream) const {
  try {
    return operands_.gradients(grads, stream);
  } catch (py::builtin_exception&) {
    watch_.check(moved);
    states_watch_.check(moved);
    throw;
  }
}

/// Computes the rate of the next step before the step takes the lock, because the schedule is Python code. Calls no
/// schedule if the rates are on the device.
Stepper::ScheduledRate Stepper::next_rate() const {
  if (clock_.on_device()) [[unlikely]]
    return {};
  Rate rate;
  {
    const std::lock_guard lock(references_mutex_);
    rate = rate_;
  }
  if (!rate.source) throw std::runtime_error("the optimizer was cleared by the garbage collector; make a new one");
  const int64_t count = clock_.count();
  if (count >= max_step) throw std::overflow_error("step_count: the maximum of 2**53 - 1 steps has been reached");
  std::optional<ScheduleCall> call;
  if (!PyFloat_CheckExact(rate.source.ptr())) call.emplace(this);
  const double lr = rate_at(rate.source, count);
  return {std::move(rate.schedule), count, lr};
}

/// Whether the rate is still the rate of the next step. If the schedule has been replaced in the meantime, returns
/// false so that the new schedule is called; but after ten failed tries, the new schedule takes effect only after this
/// step. Requires the lock.
bool Stepper::is_current(const ScheduledRate& rate, const Tries& tries) const {
  if (clock_.on_device()) [[unlikely]]
    return true;
  if (clock_.count() == rate.count) return rate_.schedule.is(rate.schedule) || tries.failed() >= 10;
  if (tries.failed() >= 1000)
    throw std::runtime_error(
        "step_count: it was changed 1000 times while the schedule was called for the rate of one step; a schedule must "
        "not change the step count of the optimizer that is calling it");
  return false;
}

/// Throws if bound memory has changed, or if the stream is recording a CUDA graph although the step count is on the
/// host. Requires the lock.
void Stepper::require_unmoved(const Stream& stream) const {
  watch_.check(moved);
  states_watch_.check(moved);
  if (!clock_.on_device()) operands_.refuse_capture(stream);
}

/// Takes the step. Requires the lock, but not the GIL.
void Stepper::advance(Step step, const ScheduledRate& rate, double grad_scale, const Stream& stream) {
  step.constants = config_.constants_at(clock_.next(rate.lr), memo_, grad_scale);
  if (clock_.on_device()) [[unlikely]]
    captured_ = captured_ || operands_.is_capturing(stream);
  operands_.run_step(config_, step, stream, clock_.table());
  clock_.advance(stream.handle);
}

void Stepper::raise_versions(bool of_params) const {
  if (written_) raise_versions_of(of_params ? written_ : written_[py::slice(1, std::nullopt, std::nullopt)]);
}

/// Returns the constants of the first `steps` steps.
std::vector<Constants> Stepper::rows(const RuleConfig& config, const Rate& rate, int64_t steps) {
  std::vector<Constants> all;
  all.reserve(static_cast<size_t>(steps));
  Memo memo;
  for (int64_t count = 0; count < steps; ++count)
    all.push_back(
        config.constants_at({.t = static_cast<double>(count + 1), .lr = rate_at(rate.source, count)}, memo, 1));
  return all;
}

int64_t Stepper::step_count() const {
  if (!clock_.on_device()) return clock_.count();
  const GilRelease unlocked;
  return clock_.count();
}

void Stepper::set_step_count(py::handle object) {
  const int64_t count = to_integer(object, "step_count", 0, max_step);
  const StepLock lock(step_mutex_);
  const GilRelease unlocked;
  clock_.set_count(count);
}

/// Throws AttributeError if the constants are on the device, where captured graphs continue to use them.
void Stepper::refuse_where_captured(const char* what) const {
  if (clock_.on_device())
    throw py::attribute_error(text(what,
                                   ": fixed at construction: this optimizer is capturable, and graphs read the "
                                   "constants of each step from a table on the device; make a new optimizer"));
}

bool Stepper::replace_hyperparameters(py::handle expected, Hyperparameters hyperparameters) {
  refuse_where_captured("hyper");
  const StepLock lock(step_mutex_);
  if (!hyperparameters_.is(expected)) return false;
  use(hyperparameters);
  return true;
}

void Stepper::set_rate(Rate rate) {
  refuse_where_captured("lr");
  const StepLock lock(step_mutex_);
  use(rate);
}

py::tuple Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_states(states, config_.info().states, operands_.params, Access::write);
  int64_t count = 0;
  py::object hyperparameters, schedule;
  {
    const StepLock lock(step_mutex_);
    states_watch_.check(moved);
    require_in_place(states, to);
    copy_all(operands_.states, to);
    count = step_count();
    hyperparameters = hyperparameters_;
    schedule = rate_.schedule;
  }
  return py::make_tuple(count, hyperparameters, schedule);
}

int Stepper::traverse(visitproc visit, void* arg) const {
  Py_VISIT(hyperparameters_.ptr());
  Py_VISIT(rate_.schedule.ptr());
  Py_VISIT(rate_.source.ptr());
  Py_VISIT(written_.ptr());
  if (const int found = watch_.traverse(visit, arg)) return found;
  return states_watch_.traverse(visit, arg);
}

void Stepper::clear() {
  const py::object hyperparameters = std::exchange(hyperparameters_, py::object());
  const Rate rate = std::exchange(rate_, Rate());
  const py::object written = std::exchange(written_, py::object());
  watch_.clear();
  states_watch_.clear();
}

}  // namespace lrcore
