#include "stepper.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "../cpu/fp_mode.h"
#include "../dispatch.h"

namespace lrcore {
namespace {

int find_rule(const std::string& name) {
  const auto infos = rule_infos();
  for (size_t i = 0; i < infos.size(); ++i)
    if (name == infos[i].name) return static_cast<int>(i);
  throw py::value_error(text("rule: no rule is called '", name, "'; lrcore.rules() lists them"));
}

bool fits_float32(double value) { return std::abs(value) <= std::numeric_limits<float>::max(); }

std::vector<Array> import_all(const py::sequence& states, const Names& names, const Array& params, Access access) {
  if (static_cast<int>(states.size()) != names.count)
    throw py::type_error(text("states: expected ", names.count, " arrays, got ", states.size()));
  std::vector<Array> arrays;
  for (int i = 0; i < names.count; ++i) {
    arrays.push_back(Array::import(py::object(states[static_cast<size_t>(i)]), names.text[i], access));
    require_same_size(arrays.back(), params);
  }
  return arrays;
}

void copy(const std::vector<Array>& from, const std::vector<Array>& to) {
  for (size_t k = 0; k < from.size(); ++k)
    if (from[k].size() != 0)
      std::memmove(to[k].data(), from[k].data(), static_cast<size_t>(from[k].size()) * sizeof(float));
}

}  // namespace

double checked_rate(double lr, std::optional<int64_t> asked_at) {
  if (!(lr >= 0) || !fits_float32(lr))
    throw py::value_error(text("lr: expected a number >= 0 that is finite in float32, got ", number(lr),
                               asked_at ? text(" from the schedule at t = ", *asked_at) : ""));
  return lr;
}

double checked_grad_scale(double grad_scale) {
  if (!fits_float32(grad_scale))
    throw py::value_error(text("grad_scale: expected a number that is finite in float32, got ", number(grad_scale)));
  return grad_scale;
}

Recipe::Recipe(const std::string& rule_name, const std::vector<double>& hyper_values, double decay, bool is_decoupled,
               bool is_maximize)
    : rule(find_rule(rule_name)), hypers{}, weight_decay(decay), decoupled(is_decoupled), maximize(is_maximize) {
  set_hypers(hyper_values);
}

void Recipe::set_hypers(const std::vector<double>& values) {
  const int expected = info().hypers.count;
  if (static_cast<int>(values.size()) != expected)
    throw py::type_error(text("hyper: rule ", info().name, " takes ", expected, " numbers, got ", values.size()));
  std::copy(values.begin(), values.end(), hypers.begin());
}

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
  for (size_t k = 0; k < states.size(); ++k) {
    require_disjoint(states[k], params);
    for (size_t j = 0; j < k; ++j) require_disjoint(states[k], states[j]);
  }
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
/// that is asking it would wait for itself, so it is refused.
class Stepper::Turn {
 public:
  explicit Turn(Stepper& stepper) : stepper_(stepper) {
    if (stepper_.owner_.load(std::memory_order_relaxed) == this_thread())
      throw std::runtime_error("a schedule must not step or change the optimizer that is asking it for a rate");
    if (!stepper_.mutex_.try_lock()) {
      const py::gil_scoped_release unlocked;
      stepper_.mutex_.lock();
    }
    stepper_.owner_.store(this_thread(), std::memory_order_relaxed);
  }
  ~Turn() {
    stepper_.owner_.store(nullptr, std::memory_order_relaxed);
    stepper_.mutex_.unlock();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  static const void* this_thread() {
    static thread_local const char mark = 0;
    return &mark;
  }

  Stepper& stepper_;
};

Stepper::Stepper(py::handle params, const py::sequence& states, py::handle grads, Recipe recipe, py::object lr)
    : operands_(params, states, recipe.info().states), recipe_(recipe), lr_(std::move(lr)) {
  if (grads.is_none()) return;
  grads_ = Array::import(grads, "grads", Access::read);
  operands_.require_fit(*grads_);
}

double Stepper::rate(int64_t count) const {
  if (PyFloat_CheckExact(lr_.ptr())) return PyFloat_AS_DOUBLE(lr_.ptr());
  const auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(lr_.ptr(), py::int_(count).ptr()));
  if (!value) throw py::error_already_set();
  const double lr = PyFloat_AsDouble(value.ptr());
  if (lr == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return checked_rate(lr, count);
}

void Stepper::step(py::handle grads, double grad_scale, py::handle stream) {
  if (!stream.is_none()) throw py::value_error("stream: CPU arrays have no stream; leave it out");
  checked_grad_scale(grad_scale);

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
  const Clock now{.t = static_cast<double>(count + 1), .lr = rate(count)};
  recipe_.fold(step, now, memo_, grad_scale);

  const py::gil_scoped_release unlocked;
  recipe_.sweep(step, size());
  count_.store(count + 1, std::memory_order_release);
}

void Stepper::apply(py::handle params, py::handle grads, const py::sequence& states, int64_t t, double lr,
                    double grad_scale) const {
  if (t < 1 || t > max_step) throw py::value_error(text("step: expected a number from 1 to 2**53 - 1, got ", t));
  checked_rate(lr);
  checked_grad_scale(grad_scale);
  const Operands operands(params, states, recipe_.info().states);
  const Array gradient = Array::import(grads, "grads", Access::read);
  operands.require_fit(gradient);

  Step step = operands.step(gradient);
  Memo memo;
  recipe_.fold(step, {.t = static_cast<double>(t), .lr = lr}, memo, grad_scale);
  const py::gil_scoped_release unlocked;
  recipe_.sweep(step, operands.params.size());
}

void Stepper::set_step_count(int64_t count) {
  if (count < 0 || count > max_step)
    throw py::value_error(text("step_count: expected a number from 0 to 2**53 - 1, got ", count));
  const Turn turn(*this);
  count_.store(count, std::memory_order_release);
}

void Stepper::set_hypers(const std::vector<double>& hypers, double weight_decay) {
  const Turn turn(*this);
  recipe_.set_hypers(hypers);
  recipe_.weight_decay = weight_decay;
}

void Stepper::set_lr(py::object lr) {
  const Turn turn(*this);
  std::swap(lr_, lr);
}

std::vector<Array> Stepper::import_states(const py::sequence& states, Access access) const {
  return import_all(states, recipe_.info().states, operands_.params, access);
}

int64_t Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_states(states, Access::write);
  const Turn turn(*this);
  copy(operands_.states, to);
  return step_count();
}

void Stepper::restore(const py::sequence& states, int64_t count, const std::vector<double>& hypers, double weight_decay,
                      py::object lr) {
  const std::vector<Array> from = import_states(states, Access::read);
  if (count < 0 || count > max_step)
    throw py::value_error(text("step_count: expected a number from 0 to 2**53 - 1, got ", count));
  const Turn turn(*this);
  recipe_.set_hypers(hypers);
  recipe_.weight_decay = weight_decay;
  copy(from, operands_.states);
  count_.store(count, std::memory_order_release);
  std::swap(lr_, lr);
}

}  // namespace lrcore
