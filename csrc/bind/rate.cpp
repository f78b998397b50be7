#include "rate.h"

#include <cmath>
#include <limits>

#include "../cpu/fp_mode.h"

namespace lrcore {
namespace {

bool fits_float32(double value) { return std::abs(value) <= std::numeric_limits<float>::max(); }

}  // namespace

double checked_rate(py::handle value, std::optional<int64_t> t) {
  const std::string name = PyFloat_Check(value.ptr()) ? "" : t ? text("lr from the schedule at t = ", *t) : "lr";
  const double lr = to_double(value, name.c_str());
  if (!(lr >= 0) || !fits_float32(lr))
    throw py::value_error(text("lr: expected a number >= 0 that is finite in float32, got ", number(lr),
                               t ? text(" from the schedule at t = ", *t) : ""));
  return lr;
}

double rate_at(py::handle source, int64_t count) {
  if (PyFloat_CheckExact(source.ptr())) return PyFloat_AS_DOUBLE(source.ptr());
  const cpu::DefaultFpMode mode;
  const auto t = py::reinterpret_steal<py::object>(PyLong_FromLongLong(count));
  const auto value = py::reinterpret_steal<py::object>(PyObject_CallOneArg(source.ptr(), t.ptr()));
  if (!value) throw py::error_already_set();
  return checked_rate(value, count);
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
