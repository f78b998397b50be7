#include "watch.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <utility>

namespace lrcore {
namespace {

constexpr int writable = 0x400;  // NumPy's

/// NumPy's own struct of an array.
const py::detail::PyArray_Proxy& numpy_struct(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

int64_t size_of(const py::detail::PyArray_Proxy& array) {
  int64_t size = 1;
  for (int i = 0; i < array.nd; ++i) size *= array.dimensions[i];
  return size;
}

/// Holds the buffer of what an array's memory belongs to in the end, such as a map, which then cannot be closed or
/// resized: its close() raises BufferError. Nothing where the memory is NumPy's own, or no buffer is offered.
void hold_root(py::handle array, Py_buffer& buffer) {
  PyObject* root = numpy_struct(array).base;
  while (root != nullptr && is_numpy(root)) root = numpy_struct(root).base;
  if (root == nullptr || PyObject_CheckBuffer(root) == 0) return;
  if (PyObject_GetBuffer(root, &buffer, PyBUF_FULL_RO) != 0) {
    PyErr_Clear();
    buffer.obj = nullptr;
  }
}

std::vector<int64_t> layout_of(const DLTensor& tensor) {
  std::vector<int64_t> layout(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr) layout.insert(layout.end(), tensor.strides, tensor.strides + tensor.ndim);
  return layout;
}

const void* address_of(const DLTensor& tensor) { return static_cast<const char*>(tensor.data) + tensor.byte_offset; }

}  // namespace

Watch::~Watch() { clear(); }

bool Watch::add(py::handle object, std::string name, bool written) {
  if (!is_numpy(object)) return add_torch(object, std::move(name), written);
  add_numpy(object, std::move(name), written);
  return true;
}

void Watch::add(py::handle object, Array& array, bool written) {
  if (!add(object, array.name(), written)) return;
  const void* data = is_numpy(object) ? numpy_.back().data : torch_.back().data;
  if (data != array.data() && array.size() != 0)
    throw std::runtime_error(text(array.name(), ": its memory moved while the optimizer was made; make it again"));
  array.let_go();
}

void Watch::add_numpy(py::handle object, std::string name, bool written) {
  const auto& array = numpy_struct(object);
  const int flags = array.flags & (py::array::c_style | (written ? writable : 0));
  numpy_.push_back(
      {std::move(name), py::reinterpret_borrow<py::object>(object), array.data, size_of(array), flags, {}});
  hold_root(object, numpy_.back().root);
}

bool Watch::add_torch(py::handle object, std::string name, bool written) {
  if (!torch_type_of(object)) return false;
  const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(object));
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) return false;
  DLTensor tensor;
  if (api->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) throw py::error_already_set();
  torch_.push_back({std::move(name), py::reinterpret_borrow<py::object>(object), api, object.attr("untyped_storage")(),
                    tensor.dtype, address_of(tensor), layout_of(tensor)});
  if (written) {
    if (!versioned_) versioned_ = py::list();
    py::reinterpret_borrow<py::list>(versioned_).append(object);
  }
  return true;
}

bool Watch::is_unchanged(const NumpyEntry& entry) {
  const auto& array = numpy_struct(entry.array);
  return array.data == entry.data && (array.flags & entry.flags) == entry.flags && size_of(array) == entry.size;
}

bool Watch::is_unchanged(const TorchEntry& entry) {
  DLTensor tensor;
  if (entry.api->dltensor_from_py_object_no_sync(entry.tensor.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  const int64_t* known = entry.layout.data();
  const auto has = [&known](const int64_t* values, int count) {
    return values == nullptr || std::equal(values, values + count, std::exchange(known, known + count));
  };
  const auto dimensions = static_cast<size_t>(tensor.ndim) * (tensor.strides == nullptr ? 1 : 2);
  return address_of(tensor) == entry.data && tensor.dtype.code == entry.dtype.code &&
         tensor.dtype.bits == entry.dtype.bits && dimensions == entry.layout.size() && has(tensor.shape, tensor.ndim) &&
         has(tensor.strides, tensor.ndim);
}

void Watch::refuse(const NumpyEntry& entry, const char* why) {
  const auto& array = numpy_struct(entry.array);
  if (array.data == entry.data && size_of(array) == entry.size && (array.flags & writable) != (entry.flags & writable))
    throw py::value_error(text(entry.name,
                               ": the array has become read-only since it was bound, and a step writes it in place; "
                               "make it writable again"));
  refuse_moved(entry.name, why);
}

void Watch::refuse_moved(const std::string& name, const char* why) { throw std::runtime_error(text(name, ": ", why)); }

int Watch::traverse(visitproc visit, void* arg) const {
  for (const NumpyEntry& entry : numpy_) Py_VISIT(entry.array.ptr());
  for (const TorchEntry& entry : torch_) Py_VISIT(entry.tensor.ptr());
  Py_VISIT(versioned_.ptr());
  return 0;
}

void Watch::clear() {
  // Whatever is let go may come back here: what is cleared has to be seen as such first.
  is_cleared_ = !numpy_.empty() || !torch_.empty();
  auto numpy = std::exchange(numpy_, {});
  const auto torch = std::exchange(torch_, {});
  const py::object versioned = std::exchange(versioned_, py::object());
  for (NumpyEntry& entry : numpy)
    if (entry.root.obj != nullptr) PyBuffer_Release(&entry.root);
}

void raise_versions(py::handle tensors) {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> increment;
  increment.call_once_and_store_result(
      [] { return py::object(py::module_::import("torch.autograd.graph").attr("increment_version")); });
  increment.get_stored()(tensors);
}

}  // namespace lrcore
