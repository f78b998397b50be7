#include "arguments.h"

namespace lrcore {
namespace {

/// Whether `object` is a bool, or a NumPy bool, complex number, time or string. Python would convert these to floats,
/// which is never intended.
bool is_no_real_number(py::handle object) {
  if (PyLong_Check(object.ptr())) return PyBool_Check(object.ptr());
  const auto numpy = py::module_::import("numpy");
  if (!py::isinstance(object, numpy.attr("generic")) && !py::isinstance(object, numpy.attr("ndarray"))) return false;
  const auto kind = object.attr("dtype").attr("kind").cast<std::string>();
  return std::string("bcmMSU").find(kind) != std::string::npos;
}

}  // namespace

double to_double(py::handle object, const char* name) {
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  const auto problem = [&] { return text(name, ": expected a number, got ", type_name(object)); };
  if (is_no_real_number(object)) throw py::type_error(problem());
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) {
    py::error_already_set cause;
    if (cause.matches(PyExc_OverflowError))
      py::raise_from(cause, PyExc_ValueError,
                     text(name, ": expected a number that fits in float64, got a larger integer").c_str());
    else if (cause.matches(PyExc_ValueError))  // for example, decimal's signaling NaN
      py::raise_from(cause, PyExc_ValueError,
                     text(name, ": expected a number: ", py::str(cause.value()).cast<std::string>()).c_str());
    else if (cause.matches(PyExc_TypeError))
      py::raise_from(cause, PyExc_TypeError, problem().c_str());
    else
      throw cause;
    throw py::error_already_set();
  }
  return value;
}

int64_t to_integer(py::handle object, const char* name, int64_t least, int64_t most) {
  const auto problem = [&] { return text(name, ": expected an integer, got ", type_name(object)); };
  if (is_no_real_number(object)) throw py::type_error(problem());
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) {
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw py::error_already_set();
    PyErr_Clear();
    throw py::type_error(problem());
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < least || value > most)
    throw py::value_error(text(name, ": expected an integer from ", least, " to ", most, ", got ",
                               overflow == 0  ? text(value)
                               : overflow > 0 ? "a larger one"
                                              : "a smaller one"));
  return value;
}

bool to_flag(py::handle object, const char* name) {
  if (object.is(py::handle(Py_True)) || object.is(py::handle(Py_False))) return object.is(py::handle(Py_True));
  if (!py::isinstance(object, py::module_::import("numpy").attr("bool_")))
    throw py::type_error(text(name, ": expected True or False, got ", type_name(object)));
  return object.attr("__bool__")().is(py::handle(Py_True));
}

}  // namespace lrcore
