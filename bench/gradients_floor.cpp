// The least work by which a step can find the memory of a PyTorch module: for each parameter, its attribute `grad` and
// the addresses of both, through DLPack's C functions. bench/_floor.py compiles this module and times `visit`.
//
// It uses Python's C API alone, so that the time contains nothing of a binding library.
#include <Python.h>

#include <cstdint>

#include "../csrc/bind/dlpack.h"

namespace {

const DLPackExchangeAPI* api = nullptr;
PyObject* grad_name = nullptr;

/// Returns the address of a tensor, or 0 with an exception.
std::uintptr_t address_of(PyObject* tensor) {
  DLTensor exported;
  if (api->dltensor_from_py_object_no_sync(tensor, &exported) != 0) return 0;
  return reinterpret_cast<std::uintptr_t>(exported.data) + exported.byte_offset;
}

/// Takes DLPack's functions from a class of tensors. The other functions can be called after this one.
PyObject* use(PyObject*, PyObject* type) {
  PyObject* capsule = PyObject_GetAttrString(type, "__dlpack_c_exchange_api__");
  if (capsule == nullptr) return nullptr;
  auto* found = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);
  if (found == nullptr) return nullptr;
  if (found->header.version.major != DLPACK_MAJOR_VERSION || found->dltensor_from_py_object_no_sync == nullptr) {
    PyErr_SetString(PyExc_RuntimeError, "this version of torch has no function that describes a tensor");
    return nullptr;
  }
  api = found;
  Py_RETURN_NONE;
}

/// Visits a list of parameters, and returns the sum of the addresses of the parameters and of their gradients.
PyObject* visit(PyObject*, PyObject* parameters) {
  if (api == nullptr || !PyList_Check(parameters)) {
    PyErr_SetString(PyExc_TypeError, "parameters: expected a list, after a call to use()");
    return nullptr;
  }
  std::uintptr_t sum = 0;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parameters); ++i) {
    PyObject* parameter = PyList_GET_ITEM(parameters, i);
    PyObject* grad = PyObject_GetAttr(parameter, grad_name);
    if (grad == nullptr) return nullptr;
    if (grad != Py_None) sum += address_of(parameter) + address_of(grad);
    Py_DECREF(grad);
    if (PyErr_Occurred() != nullptr) return nullptr;
  }
  return PyLong_FromUnsignedLongLong(sum);
}

PyMethodDef functions[] = {{"use", use, METH_O, nullptr}, {"visit", visit, METH_O, nullptr}, {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "gradients_floor", nullptr, -1, functions, {}, {}, {}, {}};

}  // namespace

PyMODINIT_FUNC PyInit_gradients_floor() {
  grad_name = PyUnicode_InternFromString("grad");
  return grad_name == nullptr ? nullptr : PyModule_Create(&definition);
}
