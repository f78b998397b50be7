#include "stepper.h"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "../cpu/fp_mode.h"
#include "../cpu/pool.h"
#include "../dispatch.h"
#include "gil.h"

namespace lrcore {
namespace {

int find_rule(const std::string& name) {
  const auto infos = rule_infos();
  for (size_t i = 0; i < infos.size(); ++i)
    if (name == infos[i].name) return static_cast<int>(i);
  throw py::value_error(text("rule: no rule is called '", name, "'; lrcore.rules() lists them"));
}

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

std::string joined(const Names& names) {
  std::string all;
  for (int i = 0; i < names.count; ++i) all += text(i ? ", " : "", names.text[i]);
  return all;
}

std::vector<Array> import_all(const py::sequence& states, const Names& names, const Array& params, Access access) {
  if (static_cast<int>(states.size()) != names.count)
    throw py::type_error(text("states: expected ", names.count, " arrays", names.count ? " (" : "", joined(names),
                              names.count ? ")" : "", ", got ", states.size()));
  std::vector<Array> arrays;
  for (int i = 0; i < names.count; ++i) {
    arrays.push_back(Array::import(py::object(states[static_cast<size_t>(i)]), names.text[i], access));
    require_same_size(arrays.back(), params);
  }
  return arrays;
}

/// ValueError where an array shares memory with another's counterpart.
void require_uncrossed(const std::vector<Array>& arrays, const std::vector<Array>& written) {
  for (size_t i = 0; i < arrays.size(); ++i)
    for (size_t j = 0; j < written.size(); ++j)
      if (i != j) require_disjoint(arrays[i], written[j]);
}

void copy(const std::vector<Array>& from, const std::vector<Array>& to) {
  for (size_t k = 0; k < from.size(); ++k)
    if (from[k].size() != 0)
      std::memmove(to[k].data(), from[k].data(), static_cast<size_t>(from[k].size()) * sizeof(float));
}

}  // namespace

Recipe::Recipe(const std::string& rule_name, bool is_decoupled, bool is_maximize)
    : rule(find_rule(rule_name)), hypers{}, weight_decay(0), decoupled(is_decoupled), maximize(is_maximize) {}

void Recipe::fold(Step& step, const Clock& now, Memo& memo, double grad_scale) const {
  const cpu::DefaultFpMode mode;
  step.stages = fold_stages(now.lr, weight_decay, decoupled, grad_scale, maximize);
  info().fold(hypers.data(), now, memo, step.constants);
}

void Recipe::sweep(const Step& step, int64_t n) const {
  if (n == 0) return;
  const bool coupled = weight_decay != 0 && !decoupled;
  run(active_backend().kernels->sweeps[rule][coupled], step, n);
}

Operands::Operands(py::handle params_object, const py::sequence& state_objects, const Names& names)
    : params(Array::import(params_object, "params", Access::write)),
      states(import_all(state_objects, names, params, Access::write)) {
  for (const Array& state : states) require_disjoint(state, params);
  require_uncrossed(states, states);
}

void Operands::require_fit(const Array& grads) const {
  require_same_size(grads, params);
  require_disjoint(grads, params);
  for (const Array& state : states) require_disjoint(grads, state);
}

Step Operands::step(const Array& grads) const {
  Step step{};
  step.p = params.data();
  step.g = grads.data();
  for (size_t k = 0; k < states.size(); ++k) step.states[k] = states[k].data();
  return step;
}

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
                 bool decoupled, bool maximize, Numbers numbers, Rate rate)
    : operands_(params, states, Recipe(rule, decoupled, maximize).info().states),
      recipe_(rule, decoupled, maximize),
      rate_(std::move(rate)) {
  use(numbers);
  if (grads.is_none()) return;
  grads_ = Array::import(grads, "grads", Access::read);
  operands_.require_fit(*grads_);
}

/// Takes over `numbers` and leaves the former ones to be let go by the caller, outside of the lock.
void Stepper::use(Numbers& numbers) {
  if (static_cast<int>(numbers.hypers.size()) != recipe_.info().hypers.count)
    throw py::type_error(text("hyper: rule ", rule(), " takes ", joined(recipe_.info().hypers)));
  std::copy(numbers.hypers.begin(), numbers.hypers.end(), recipe_.hypers.begin());
  recipe_.weight_decay = numbers.weight_decay;
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

double Stepper::lr(int64_t count) const {
  if (PyFloat_CheckExact(rate_.asked.ptr())) return PyFloat_AS_DOUBLE(rate_.asked.ptr());
  const auto t = py::reinterpret_steal<py::object>(PyLong_FromLongLong(count));
  const auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(rate_.asked.ptr(), t.ptr()));
  if (!value) throw py::error_already_set();
  return checked_rate(value, count);
}

void Stepper::step(py::handle grads, py::handle scale, py::handle stream) {
  if (!stream.is_none()) throw py::value_error("stream: CPU arrays have no stream; leave it out");
  const double grad_scale = checked_grad_scale(scale);

  std::optional<Array> passed;
  if (!grads.is_none()) {
    passed = Array::import(grads, "grads", Access::read);
    operands_.require_fit(*passed);
  } else if (!grads_) {
    throw py::type_error("grads: expected an array, got None; pass the gradients, or bind them once with grads=");
  }
  Step step = operands_.step(passed ? *passed : *grads_);

  const Turn turn(*this);
  const int64_t count = step_count();
  if (count >= max_step) throw std::overflow_error("step_count: 2**53 - 1 steps is the most that can be counted");
  const Clock now{.t = static_cast<double>(count + 1), .lr = lr(count)};

  const GilRelease unlocked;
  recipe_.fold(step, now, memo_, grad_scale);
  recipe_.sweep(step, size());
  count_.store(count + 1, std::memory_order_release);
}

void Stepper::apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
                    py::handle scale) {
  const Clock now{.t = static_cast<double>(to_integer(t, "step", 1, max_step)), .lr = checked_rate(lr)};
  const double grad_scale = checked_grad_scale(scale);
  const Operands operands(params, states, recipe_.info().states);
  const Array gradient = Array::import(grads, "grads", Access::read);
  operands.require_fit(gradient);

  Step step = operands.step(gradient);
  {
    const Turn turn(*this);
    recipe_.fold(step, now, memo_, grad_scale);
  }
  const GilRelease unlocked;
  recipe_.sweep(step, operands.params.size());
}

void Stepper::set_step_count(py::handle object) {
  const int64_t count = to_integer(object, "step_count", 0, max_step);
  const Turn turn(*this);
  count_.store(count, std::memory_order_release);
}

bool Stepper::replace_numbers(py::handle expected, Numbers numbers) {
  const Turn turn(*this);
  if (!numbers_.is(expected)) return false;
  use(numbers);
  return true;
}

void Stepper::set_rate(Rate rate) {
  const Turn turn(*this);
  use(rate);
}

py::tuple Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_all(states, recipe_.info().states, operands_.params, Access::write);
  const Turn turn(*this);
  copy(operands_.states, to);
  return py::make_tuple(step_count(), numbers_, rate_.schedule);
}

void Stepper::restore(const py::sequence& states, py::handle count_object, Numbers numbers, Rate rate) {
  const std::vector<Array> from = import_all(states, recipe_.info().states, operands_.params, Access::read);
  require_uncrossed(from, operands_.states);
  const int64_t count = to_integer(count_object, "step_count", 0, max_step);
  const Turn turn(*this);
  use(numbers);
  copy(from, operands_.states);
  use(rate);
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
