#include "arguments.h"

namespace lrcore {

double to_double(py::handle object, const char* name) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1 && PyErr_Occurred() != nullptr) {
    py::error_already_set cause;
    if (!cause.matches(PyExc_TypeError) && !cause.matches(PyExc_OverflowError)) throw cause;
    PyObject* kind = cause.matches(PyExc_TypeError) ? PyExc_TypeError : PyExc_ValueError;
    py::raise_from(cause, kind, text(name, ": expected a number, got ", type_name(object)).c_str());
    throw py::error_already_set();
  }
  return value;
}

int64_t to_integer(py::handle object, const char* name, int64_t least, int64_t most) {
  const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index || PyBool_Check(object.ptr())) {
    PyErr_Clear();
    throw py::type_error(text(name, ": expected an integer, got ", type_name(object)));
  }
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < least || value > most)
    throw py::value_error(
        text(name, ": expected an integer from ", least, " to ", most, ", got ", py::str(index).cast<std::string>()));
  return value;
}

}  // namespace lrcore
