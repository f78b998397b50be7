#include "step_method.h"

#include <cxxabi.h>

#include <string_view>

namespace lrcore {
namespace {

constexpr char doc[] = R"(step($self, /, grads=None, *, grad_scale=1.0, zero_grads=False, stream=None)
--

Take one step: update the parameters and the states in place, in one pass.

Parameters
----------
grads : array of float32, optional
    As many gradients as parameters, in a C-contiguous array on the same device. If neither array is flat, the shapes
    must match. The array is only written to if `zero_grads` is True. It can be omitted if gradients were bound at
    construction. The arrays of a list are added in order.
grad_scale : float
    Factor by which the gradients are multiplied, such as 1 / loss_scale or a clipping factor.
zero_grads : bool
    Set the gradients to 0 in the same pass, also if the step is skipped. Gradients of frozen groups stay as they are.
    Requires writable gradients; the arrays of a list must not overlap, unless they are the same array.
stream : optional
    The CUDA stream of a step on device arrays: a CuPy or torch stream, or a raw handle (0 is the legacy default
    stream). The default is the current stream of the parameters' library. Must be omitted for CPU arrays.

Raises
------
TypeError, ValueError, RuntimeError
    If an argument is invalid, the memory of a bound array has moved, or the schedule does not return a valid rate.
    In that case, nothing is changed, not even the step count.)";

/// The arguments of one call; null if they were not passed.
struct Arguments {
  py::handle grads, grad_scale, zero_grads, stream;
};

/// Returns the argument of that name, or null.
py::handle* find(Arguments& arguments, std::string_view name) {
  if (name == "grads") return &arguments.grads;
  if (name == "grad_scale") return &arguments.grad_scale;
  if (name == "zero_grads") return &arguments.zero_grads;
  if (name == "stream") return &arguments.stream;
  return nullptr;
}

/// Throws TypeError, naming the arguments that the method does not take.
[[noreturn]] void refuse(Py_ssize_t positional, py::handle names) {
  Arguments known;
  std::string got = positional > 1 ? text(positional, " positional arguments") : "";
  std::string remedy;
  for (const py::handle each : py::reinterpret_borrow<py::tuple>(names ? names : py::tuple())) {
    const auto name = each.cast<std::string>();
    if (find(known, name) != nullptr && !(name == "grads" && positional == 1)) continue;
    got += text(got.empty() ? "" : " and ", name, "=", name == "grads" ? " twice" : "");
    if (name == "closure") remedy += "; compute the gradients before the step";
    if (name == "zero_grad") remedy += "; did you mean zero_grads?";
    if (name == "lr") remedy += "; assign opt.lr";
  }
  throw py::type_error(
      text("step: expected step(grads=None, *, grad_scale=1.0, zero_grads=False, stream=None), got ", got, remedy));
}

Arguments parse(PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  Arguments arguments;
  if (positional > 1) refuse(positional, names);
  if (positional == 1) arguments.grads = values[0];
  for (Py_ssize_t i = 0; names != nullptr && i < PyTuple_GET_SIZE(names); ++i) {
    Py_ssize_t length = 0;
    const char* name = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(names, i), &length);
    if (name == nullptr) throw py::error_already_set();
    py::handle* argument = find(arguments, {name, static_cast<size_t>(length)});
    if (argument == nullptr || *argument) refuse(positional, names);
    *argument = values[positional + i];
  }
  return arguments;
}

PyObject* step(PyObject* self, PyObject* const* values, Py_ssize_t positional, PyObject* names) {
  try {
    const auto* instance = reinterpret_cast<py::detail::instance*>(self);
    auto* stepper = static_cast<Stepper*>(instance->simple_layout ? instance->simple_value_holder[0]
                                                                  : py::cast<Stepper*>(py::handle(self)));
    if (stepper == nullptr) throw py::type_error(Stepper::uninitialized);
    const auto [grads, grad_scale, zero_grads, stream] = parse(values, positional, names);
    const auto or_none = [](py::handle argument) { return argument ? argument : py::handle(Py_None); };
    stepper->step(or_none(grads), grad_scale, zero_grads && to_flag(zero_grads, "zero_grads"), or_none(stream));
    Py_RETURN_NONE;
  } catch (py::error_already_set& error) {
    error.restore();
#ifdef __GLIBCXX__
  } catch (abi::__forced_unwind&) {  // the thread exits because the interpreter is finalizing
    throw;
#endif
  } catch (...) {
    py::detail::try_translate_exceptions();
  }
  return nullptr;
}

}  // namespace

void add_step_method(py::class_<Stepper>& stepper) {
  static PyMethodDef method = {"step", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&step)),
                               METH_FASTCALL | METH_KEYWORDS, doc};
  PyObject* descriptor = PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(stepper.ptr()), &method);
  if (descriptor == nullptr) throw py::error_already_set();
  stepper.attr("step") = py::reinterpret_steal<py::object>(descriptor);
}

}  // namespace lrcore
