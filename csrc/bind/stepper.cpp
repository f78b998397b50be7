#include "stepper.h"

#include <utility>

#include "gil.h"

namespace lrcore {
namespace {

/// Those of the arrays that are tensors of torch, as a list; null if there are none.
py::object tensors_among(py::handle params, const py::sequence& states) {
  if (!torch_type_of(params)) return {};
  py::list tensors;
  tensors.append(params);
  for (const auto& state : states)
    if (torch_type_of(state)) tensors.append(state);
  return tensors;
}

/// Raises autograd's version of a list of tensors, or of none.
void raise_versions_of(const py::object& tensors) {
  if (!tensors) return;
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> increment;
  increment.call_once_and_store_result(
      [] { return py::object(py::module_::import("torch.autograd.graph").attr("increment_version")); });
  increment.get_stored()(tensors);
}

/// RuntimeError where the stream is recording a graph.
void refuse_capture(const Operands& operands, const Stream& stream) {
  if (operands.is_capturing(stream))
    throw std::runtime_error(
        "the stream is being captured, and a graph would repeat this step's rate and number; make an optimizer with "
        "capturable=True");
}

}  // namespace

Stepper::Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads,
                 bool decoupled, bool maximize, Numbers numbers, Rate rate, std::optional<int64_t> max_steps)
    : operands_(params, states, Recipe(rule, decoupled, maximize).info().states),
      recipe_(rule, decoupled, maximize),
      rate_(std::move(rate)) {
  use(numbers);
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
    const CurrentDevice current(*operands_.api, operands_.place());
    check_cuda(*operands_.api, operands_.api->prepare(recipe_.rule), "loading the kernels");
  }
  if (!max_steps) return;
  if (operands_.api == nullptr) throw py::value_error("capturable: CPU arrays are in no CUDA graph; leave it out");
  if (!grads_)
    throw py::value_error("grads: a capturable optimizer needs gradients that are bound at construction, got None");
  timetable_.emplace(*operands_.api, operands_.place(), *max_steps);
  const std::vector<Constants> table = rows(recipe_, rate_, *max_steps);
  const GilRelease unlocked;
  timetable_->write(table, 0);
}

void* Stepper::operator new(size_t) { throw py::type_error("the optimizer was not made: its constructor has not run"); }

/// Takes over `numbers` and leaves the former ones to be let go by the caller, outside of the lock.
void Stepper::use(Numbers& numbers) {
  recipe_ = recipe_.with(numbers);
  const std::lock_guard lock(shown_);
  std::swap(numbers_, numbers.shown);
}

/// Likewise for the rate.
void Stepper::use(Rate& rate) {
  const std::lock_guard lock(shown_);
  std::swap(rate_, rate);
}

py::object Stepper::numbers() const {
  const std::lock_guard lock(shown_);
  return numbers_;
}

py::object Stepper::schedule() const {
  const std::lock_guard lock(shown_);
  return rate_.schedule;
}

void Stepper::step(py::handle grads, py::handle scale, py::handle asked) {
  const double grad_scale = checked_grad_scale(scale);
  if (timetable_) return step_by_table(grads, grad_scale, asked);

  const Stream stream = operands_.stream(asked, grads);
  std::optional<Array> passed;
  if (!grads.is_none())
    passed = fitting_gradients(grads, stream);
  else if (!grads_)
    throw py::type_error("grads: expected an array, got None; pass the gradients, or bind them once with grads=");
  const Step step = operands_.step(passed ? *passed : *grads_);

  std::vector<Array> returned;  // let go when the turn is over
  for (Tries tries(patience_);; tries.fail()) {
    tries.begin();
    const Answer answer = ask();
    const Turn turn(turn_);
    if (!serves(answer, tries)) continue;
    require_unmoved(stream);
    if (passed) require_in_place(grads, *passed);
    returned = loans_.returned();

    const GilRelease unlocked;
    advance(step, answer.lr, grad_scale, stream);
    if (passed) lend(operands_, std::move(*passed), stream);
    break;
  }
  raise_versions();
}

/// The gradients of one step. Where they do not fit parameters that have moved, it is the parameters that are to blame.
Array Stepper::fitting_gradients(py::handle grads, const Stream& stream) const {
  try {
    return operands_.gradients(grads, stream);
  } catch (py::builtin_exception&) {
    watch_.check(moved);
    states_watch_.check(moved);
    throw;
  }
}

/// Asks for the rate of the next step, before the step takes its turn: the schedule is Python code.
Stepper::Answer Stepper::ask() const {
  Rate rate;
  {
    const std::lock_guard lock(shown_);
    rate = rate_;
  }
  if (!rate.asked) throw std::runtime_error("the optimizer was cleared by the garbage collector; make a new one");
  const int64_t count = count_.load(std::memory_order_acquire);
  if (count >= max_step) throw std::overflow_error("step_count: 2**53 - 1 steps is the most that can be counted");
  std::optional<Asking> asking;
  if (!PyFloat_CheckExact(rate.asked.ptr())) asking.emplace(this);
  const double lr = rate_at(rate.asked, count);
  return {std::move(rate.schedule), count, lr};
}

/// Whether the answer is for the step that is now the next. Where the schedule was replaced meanwhile, that is asked
/// too, but not for ever: whoever replaces it faster than it answers has replaced it after this step. Needs a turn.
bool Stepper::serves(const Answer& answer, const Tries& tries) const {
  if (count_.load(std::memory_order_relaxed) == answer.count)
    return rate_.schedule.is(answer.schedule) || tries.failed() >= 10;
  if (tries.failed() >= 1000)
    throw std::runtime_error(
        "step_count: it was changed 1000 times while the schedule was asked for the rate of one step; a schedule must "
        "not change the step count of the optimizer that is asking it");
  return false;
}

/// RuntimeError where bound memory is not what it was, or the stream is recording a graph. Needs a turn.
void Stepper::require_unmoved(const Stream& stream) const {
  watch_.check(moved);
  states_watch_.check(moved);
  refuse_capture(operands_, stream);
}

/// Takes the step. Needs a turn and no GIL.
void Stepper::advance(Step step, double lr, double grad_scale, const Stream& stream) {
  const int64_t count = count_.load(std::memory_order_relaxed);
  step.constants = recipe_.fold({.t = static_cast<double>(count + 1), .lr = lr}, memo_, grad_scale);
  operands_.run(recipe_, step, stream);
  count_.store(count + 1, std::memory_order_release);
}

void Stepper::raise_versions(bool of_params) const {
  if (written_) raise_versions_of(of_params ? written_ : written_[py::slice(1, std::nullopt, std::nullopt)]);
}

/// Keeps gradients of a library that does not work on the step's stream until they are read. Needs a turn. What is not
/// kept stays with the caller, who lets go of it under the GIL.
void Stepper::lend(const Operands& operands, Array&& grads, const Stream& stream) {
  if (operands.api == nullptr || stream.exported == -1) return;
  const CurrentDevice current(*operands.api, operands.place());
  loans_.take(*operands.api, std::move(grads), stream.handle);
}

/// Takes a step whose constants the device looks up by its own count.
void Stepper::step_by_table(py::handle grads, double grad_scale, py::handle asked) {
  if (!grads.is_none())
    throw py::type_error(
        "grads: a capturable optimizer steps with the gradients that were bound at construction; write into them");
  const Stream stream = operands_.stream(asked, grads);
  Step step = operands_.step(*grads_);

  {
    const Turn turn(turn_);
    watch_.check(moved);
    states_watch_.check(moved);
    const GilRelease unlocked;
    Memo memo;
    step.constants = recipe_.fold({.t = 1, .lr = 0}, memo, grad_scale);  // of these the gradients' scale is used
    captured_ = captured_ || operands_.is_capturing(stream);
    operands_.run(recipe_, step, stream, timetable_->view());
    timetable_->advance(stream.handle);
  }
  raise_versions();
}

/// The constants of the first `steps` steps.
std::vector<Constants> Stepper::rows(const Recipe& recipe, const Rate& rate, int64_t steps) {
  std::vector<Constants> all;
  all.reserve(static_cast<size_t>(steps));
  Memo memo;
  for (int64_t count = 0; count < steps; ++count)
    all.push_back(recipe.fold({.t = static_cast<double>(count + 1), .lr = rate_at(rate.asked, count)}, memo, 1));
  return all;
}

void Stepper::apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
                    py::handle scale, py::handle asked) {
  const Clock now{.t = static_cast<double>(to_integer(t, "step", 1, max_step)), .lr = checked_rate(lr)};
  const double grad_scale = checked_grad_scale(scale);
  const Operands operands(params, states, recipe_.info().states);
  const Stream stream = operands.stream(asked, grads);
  Array gradients = operands.gradients(grads, stream);
  refuse_capture(operands, stream);
  require_in_place(params, operands.params);
  require_in_place(states, operands.states);
  require_in_place(grads, gradients);

  Step step = operands.step(gradients);
  std::vector<Array> returned;  // let go when the turns are over
  {
    const Turn turn(turn_);
    returned = loans_.returned();
    const GilRelease unlocked;
    step.constants = recipe_.fold(now, memo_, grad_scale);
  }
  {
    const GilRelease unlocked;
    operands.run(recipe_, step, stream);
  }
  if (operands.api != nullptr) {
    const Turn turn(turn_);
    lend(operands, std::move(gradients), stream);
  }
  raise_versions_of(tensors_among(params, states));
}

int64_t Stepper::step_count() const {
  if (!timetable_) return count_.load(std::memory_order_acquire);
  const GilRelease unlocked;
  return timetable_->taken();
}

void Stepper::set_step_count(py::handle object) {
  const int64_t count = to_integer(object, "step_count", 0, max_step);
  const Turn turn(turn_);
  const GilRelease unlocked;
  if (timetable_)
    timetable_->set_taken(count);
  else
    count_.store(count, std::memory_order_release);
}

/// AttributeError where the constants lie in a table that captured graphs go on using.
void Stepper::refuse_where_captured(const char* what) const {
  if (timetable_)
    throw py::attribute_error(text(what,
                                   ": fixed at construction: this optimizer is capturable, and graphs read the "
                                   "constants of each step from a table on the device; make a new optimizer"));
}

bool Stepper::replace_numbers(py::handle expected, Numbers numbers) {
  refuse_where_captured("hyper");
  const Turn turn(turn_);
  if (!numbers_.is(expected)) return false;
  use(numbers);
  return true;
}

void Stepper::set_rate(Rate rate) {
  refuse_where_captured("lr");
  const Turn turn(turn_);
  use(rate);
}

py::tuple Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_states(states, recipe_.info().states, operands_.params, Access::write);
  int64_t count = 0;
  py::object numbers, schedule;
  {
    const Turn turn(turn_);
    states_watch_.check(moved);
    require_in_place(states, to);
    copy_all(operands_.states, to);
    count = step_count();
    numbers = numbers_;
    schedule = rate_.schedule;
  }
  return py::make_tuple(count, numbers, schedule);
}

int Stepper::traverse(visitproc visit, void* arg) const {
  Py_VISIT(numbers_.ptr());
  Py_VISIT(rate_.schedule.ptr());
  Py_VISIT(rate_.asked.ptr());
  Py_VISIT(written_.ptr());
  if (const int found = watch_.traverse(visit, arg)) return found;
  return states_watch_.traverse(visit, arg);
}

void Stepper::clear() {
  const py::object numbers = std::exchange(numbers_, py::object());
  const Rate rate = std::exchange(rate_, Rate());
  const py::object written = std::exchange(written_, py::object());
  watch_.clear();
  states_watch_.clear();
}

}  // namespace lrcore
