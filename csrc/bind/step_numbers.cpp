#include "step_numbers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../cpu/fp_mode.h"

namespace lrcore {
namespace {

bool fits_float32(double value) { return std::abs(value) <= std::numeric_limits<float>::max(); }

bool is_number(py::handle source) { return PyFloat_CheckExact(source.ptr()); }

/// Returns the end of a message about the rate that a schedule returned.
std::string from_schedule(std::optional<int64_t> t) { return t ? text(" from the schedule at t = ", *t) : ""; }

/// Returns `value` as a rate. `name` is the name of the argument, for messages. If a schedule returned the value, `t`
/// is the step count.
double checked(py::handle value, const std::string& name, std::optional<int64_t> t) {
  const double lr = to_double(value, PyFloat_Check(value.ptr()) ? "" : text(name, from_schedule(t)).c_str());
  if (!(lr >= 0) || !fits_float32(lr))
    throw py::value_error(
        text(name, ": expected a number >= 0 that is finite in float32, got ", number(lr), from_schedule(t)));
  return lr;
}

std::string name_of(std::optional<size_t> group) { return group ? text("opt.groups[", *group, "].lr") : "lr"; }

/// Calls a source with the number of steps taken so far.
py::object call(py::handle source, int64_t count) {
  const cpu::DefaultFpMode mode;
  const auto t = py::reinterpret_steal<py::object>(PyLong_FromLongLong(count));
  auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(source.ptr(), t.ptr()));
  if (!value) throw py::error_already_set();
  return value;
}

/// Returns the rate of the step that follows `count` steps.
double rate_at(py::handle source, int64_t count, std::optional<size_t> group = std::nullopt) {
  if (is_number(source)) return PyFloat_AS_DOUBLE(source.ptr());
  const py::object value = call(source, count);
  if (PyFloat_CheckExact(value.ptr())) [[likely]] {
    const double lr = PyFloat_AS_DOUBLE(value.ptr());
    if (lr >= 0 && fits_float32(lr)) return lr;
  }
  return checked(value, name_of(group), count);
}

/// Returns a hyperparameter of the step that follows `count` steps.
double number_at(const NumberSource& number, int64_t count) {
  py::object value = call(number.source, count);
  if (PyFloat_CheckExact(value.ptr())) [[likely]] {
    const double found = PyFloat_AS_DOUBLE(value.ptr());
    if (found >= 0 && found < number.limit) return found;
  }
  return number.check(value, count).cast<double>();
}

/// Returns the optimizer's rate multiplied by a group's scale.
double scaled(double lr, double scale, size_t group) {
  const double own = lr * scale;
  if (!fits_float32(own))
    throw py::value_error(text("opt.groups[", group, "].lr: ", number(lr), " multiplied by lr_scale ", number(scale),
                               " is not finite in float32"));
  return own;
}

}  // namespace

bool is_same(py::handle source, py::handle other) {
  if (source.is(other) || !source || !other) return source.is(other);
  if (is_number(source) && is_number(other)) return PyFloat_AS_DOUBLE(source.ptr()) == PyFloat_AS_DOUBLE(other.ptr());
  return PyMethod_Check(source.ptr()) && PyMethod_Check(other.ptr()) &&
         PyMethod_GET_SELF(source.ptr()) == PyMethod_GET_SELF(other.ptr()) &&
         PyMethod_GET_FUNCTION(source.ptr()) == PyMethod_GET_FUNCTION(other.ptr());
}

double checked_rate(py::handle value) { return checked(value, "lr", std::nullopt); }

bool are_same(const std::shared_ptr<const std::vector<NumberSource>>& sources,
              const std::shared_ptr<const std::vector<NumberSource>>& others) {
  return sources == others || (sources && others && *sources == *others);
}

bool calls_python(const NumberSources& sources) {
  return !is_number(sources.of_optimizer) || sources.numbers ||
         std::ranges::any_of(sources.of_groups,
                             [](const auto& group) { return group.source && !is_number(group.source); });
}

StepNumbers numbers_at(const NumberSources& sources, int64_t count) {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  StepNumbers found{.of_optimizer = rate_at(sources.of_optimizer, count), .of_groups = {}, .changing = {}};
  found.of_groups.assign(sources.of_groups.size(), none);
  for (size_t i = 0; i < sources.of_groups.size(); ++i) {
    const auto& [source, scale, is_frozen] = sources.of_groups[i];
    if (!is_frozen) found.of_groups[i] = source ? rate_at(source, count, i) : scaled(found.of_optimizer, scale, i);
  }
  if (sources.numbers) [[unlikely]] {
    ChangingNumbers changing{.sources = sources.numbers, .values = {}};
    for (const NumberSource& each : *sources.numbers)
      changing.values.push_back(each.is_used ? number_at(each, count) : none);
    found.changing = std::make_unique<const ChangingNumbers>(std::move(changing));
  }
  return found;
}

double checked_grad_scale(py::handle object) {
  if (!object) return 1;
  const double grad_scale = to_double(object, "grad_scale");
  if (!fits_float32(grad_scale))
    throw py::value_error(text("grad_scale: expected a number that is finite in float32, got ", number(grad_scale)));
  if (grad_scale != 0 && std::abs(grad_scale) <= 0x1p-150)
    throw py::value_error(text("grad_scale: ", number(grad_scale), " becomes 0 in float32"));
  return grad_scale;
}

}  // namespace lrcore
