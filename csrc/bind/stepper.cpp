#include "stepper.h"

#include <unistd.h>

#include <cmath>
#include <limits>

#include "../cpu/pool.h"
#include "gil.h"

namespace lrcore {
namespace {

bool fits_float32(double value) { return std::abs(value) <= std::numeric_limits<float>::max(); }

double checked_grad_scale(py::handle object) {
  const double grad_scale = to_double(object, "grad_scale");
  if (!fits_float32(grad_scale))
    throw py::value_error(text("grad_scale: expected a number that is finite in float32, got ", number(grad_scale)));
  return grad_scale;
}

/// The rate `value`, which a schedule gave when it was asked at `asked_at`, if there was one.
double checked_rate(py::handle value, std::optional<int64_t> asked_at = std::nullopt) {
  const std::string name = PyFloat_Check(value.ptr()) ? ""
                           : asked_at                 ? text("lr from the schedule at t = ", *asked_at)
                                                      : "lr";
  const double lr = to_double(value, name.c_str());
  if (!(lr >= 0) || !fits_float32(lr))
    throw py::value_error(text("lr: expected a number >= 0 that is finite in float32, got ", number(lr),
                               asked_at ? text(" from the schedule at t = ", *asked_at) : ""));
  return lr;
}

double rate_at(const Rate& rate, int64_t count) {
  if (PyFloat_CheckExact(rate.asked.ptr())) return PyFloat_AS_DOUBLE(rate.asked.ptr());
  const auto t = py::reinterpret_steal<py::object>(PyLong_FromLongLong(count));
  const auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(rate.asked.ptr(), t.ptr()));
  if (!value) throw py::error_already_set();
  return checked_rate(value, count);
}

/// RuntimeError where the stream is recording a graph.
void refuse_capture(const Operands& operands, const Stream& stream) {
  if (operands.is_capturing(stream))
    throw std::runtime_error(
        "the stream is being captured, and a graph would repeat this step's rate and number; make an optimizer with "
        "capturable=True");
}

}  // namespace

/// One thread's turn at an optimizer. Waits for it without holding the GIL. A schedule that comes back to the optimizer
/// that is asking it would wait for itself, and a forked child for a thread that it does not have: both are refused.
class Stepper::Turn {
 public:
  explicit Turn(Stepper& stepper) : stepper_(stepper) {
    if (stepper_.owner_.load(std::memory_order_relaxed) == this_thread())
      throw std::runtime_error("a schedule must not step or change the optimizer that is asking it for a rate");
    if (!stepper_.mutex_.try_lock()) {
      if (owner_is_lost())
        throw std::runtime_error(
            "this process was forked while another thread was stepping this optimizer, so its arrays may be half "
            "updated; make a new optimizer");
      const GilRelease unlocked;
      stepper_.mutex_.lock();
    }
    stepper_.owner_.store(this_thread(), std::memory_order_relaxed);
    stepper_.owner_generation_.store(pool::generation(), std::memory_order_relaxed);
  }
  ~Turn() {
    stepper_.owner_.store(nullptr, std::memory_order_relaxed);
    stepper_.mutex_.unlock();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  /// Whether the lock was taken before a fork by a thread that this process does not have. A thread of this process
  /// that has just taken it says so at once.
  bool owner_is_lost() const {
    for (int attempt = 0; attempt < 100; ++attempt) {
      if (stepper_.owner_generation_.load(std::memory_order_relaxed) == pool::generation()) return false;
      usleep(1000);
    }
    return true;
  }

  static const void* this_thread() {
    static thread_local const char mark = 0;
    return &mark;
  }

  Stepper& stepper_;
};

Stepper::Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads,
                 bool decoupled, bool maximize, Numbers numbers, Rate rate, std::optional<int64_t> max_steps)
    : operands_(params, states, Recipe(rule, decoupled, maximize).info().states),
      recipe_(rule, decoupled, maximize),
      rate_(std::move(rate)) {
  use(numbers);
  if (!grads.is_none()) grads_ = operands_.gradients(grads, {});
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
    passed = operands_.gradients(grads, stream);
  else if (!grads_)
    throw py::type_error("grads: expected an array, got None; pass the gradients, or bind them once with grads=");
  Step step = operands_.step(passed ? *passed : *grads_);

  std::vector<Array> returned;  // let go when the turn is over
  const Turn turn(*this);
  returned = loans_.returned();
  const int64_t count = count_.load(std::memory_order_relaxed);
  if (count >= max_step) throw std::overflow_error("step_count: 2**53 - 1 steps is the most that can be counted");
  const Clock now{.t = static_cast<double>(count + 1), .lr = rate_at(rate_, count)};
  refuse_capture(operands_, stream);

  const GilRelease unlocked;
  step.constants = recipe_.fold(now, memo_, grad_scale);
  operands_.run(recipe_, step, stream);
  count_.store(count + 1, std::memory_order_release);
  if (passed) lend(operands_, std::move(*passed), stream);
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

  const Turn turn(*this);
  const GilRelease unlocked;
  Memo memo;
  step.constants = recipe_.fold({.t = 1, .lr = 0}, memo, grad_scale);  // of these the gradients' scale is used
  captured_ = captured_ || operands_.is_capturing(stream);
  operands_.run(recipe_, step, stream, timetable_->view());
  timetable_->advance(stream.handle);
}

/// The constants of the first `steps` steps.
std::vector<Constants> Stepper::rows(const Recipe& recipe, const Rate& rate, int64_t steps) const {
  std::vector<Constants> all;
  all.reserve(static_cast<size_t>(steps));
  Memo memo;
  for (int64_t count = 0; count < steps; ++count)
    all.push_back(recipe.fold({.t = static_cast<double>(count + 1), .lr = rate_at(rate, count)}, memo, 1));
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

  Step step = operands.step(gradients);
  std::vector<Array> returned;  // let go when the turns are over
  {
    const Turn turn(*this);
    returned = loans_.returned();
    step.constants = recipe_.fold(now, memo_, grad_scale);
  }
  {
    const GilRelease unlocked;
    operands.run(recipe_, step, stream);
  }
  if (operands.api == nullptr) return;
  const Turn turn(*this);
  lend(operands, std::move(gradients), stream);
}

int64_t Stepper::step_count() const {
  if (!timetable_) return count_.load(std::memory_order_acquire);
  const GilRelease unlocked;
  return timetable_->taken();
}

void Stepper::set_step_count(py::handle object) {
  const int64_t count = to_integer(object, "step_count", 0, max_step);
  const Turn turn(*this);
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
  const Turn turn(*this);
  if (!numbers_.is(expected)) return false;
  use(numbers);
  return true;
}

void Stepper::set_rate(Rate rate) {
  refuse_where_captured("lr");
  const Turn turn(*this);
  use(rate);
}

py::tuple Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_states(states, recipe_.info().states, operands_.params, Access::write);
  const Turn turn(*this);
  copy_all(operands_.states, to);
  return py::make_tuple(step_count(), numbers_, rate_.schedule);
}

void Stepper::restore(const py::sequence& states, py::handle count_object, Numbers numbers, Rate rate,
                      py::handle params) {
  const std::vector<Array> from = import_states(states, recipe_.info().states, operands_.params, Access::read);
  require_uncrossed(from, operands_.states);
  std::optional<Array> from_params;
  if (!params.is_none()) {
    from_params = Array::import(params, "params", Access::read);
    require_same_size(*from_params, operands_.params);
    require_disjoint(*from_params, operands_.params);
  }
  const int64_t count = to_integer(count_object, "step_count", 0, max_step);
  const Turn turn(*this);
  std::vector<Constants> table;
  if (timetable_) {
    const Recipe loaded = recipe_.with(numbers);
    if (captured_ && loaded.coupled() != recipe_.coupled())
      throw py::value_error("weight_decay: captured graphs would go on with the kernel of the former one");
    table = rows(loaded, rate, timetable_->steps());
  }
  copy_all(from, operands_.states);
  if (from_params) copy_all({&*from_params, 1}, {&operands_.params, 1});
  use(numbers);
  use(rate);
  const GilRelease unlocked;
  if (timetable_)
    timetable_->write(table, count);
  else
    count_.store(count, std::memory_order_release);
}

int Stepper::traverse(visitproc visit, void* arg) const {
  Py_VISIT(numbers_.ptr());
  Py_VISIT(rate_.schedule.ptr());
  Py_VISIT(rate_.asked.ptr());
  return 0;
}

void Stepper::clear() {
  numbers_ = py::object();
  rate_ = Rate();
}

}  // namespace lrcore
