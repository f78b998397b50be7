#include "watch.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <utility>

namespace lrcore {
namespace {

constexpr int writable = 0x400;  // NumPy's flag

/// Returns NumPy's C struct of an array.
const py::detail::PyArray_Proxy& numpy_struct(py::handle array) { return *py::detail::array_proxy(array.ptr()); }

int64_t size_of(const py::detail::PyArray_Proxy& array) {
  int64_t size = 1;
  for (int i = 0; i < array.nd; ++i) size *= array.dimensions[i];
  return size;
}

std::vector<int64_t> layout_of(const DLTensor& tensor) {
  std::vector<int64_t> layout(tensor.shape, tensor.shape + tensor.ndim);
  layout.insert(layout.end(), tensor.strides, tensor.strides + tensor.ndim);
  return layout;
}

const void* address_of(const DLTensor& tensor) { return static_cast<const char*>(tensor.data) + tensor.byte_offset; }

}  // namespace

Watch::~Watch() { clear(); }

bool Watch::add(py::handle object, std::string name, bool written) {
  if (!is_numpy(object)) return add_torch(object, std::move(name));
  add_numpy(object, std::move(name), written);
  return true;
}

void Watch::add(py::handle object, Array& array, bool written) {
  if (!add(object, array.name(), written)) return;
  const void* data = is_numpy(object) ? numpy_.back().data : torch_.back().data;
  if (data != array.data() && array.size() != 0)
    throw std::runtime_error(
        text(array.name(), ": its memory moved while the optimizer was being made; make the optimizer again"));
  array.release_owner();
}

void Watch::add_numpy(py::handle object, std::string name, bool written) {
  const auto& array = numpy_struct(object);
  const int flags = array.flags & (py::array::c_style | (written ? writable : 0));
  numpy_.push_back({std::move(name), py::reinterpret_borrow<py::object>(object),
                    py::reinterpret_borrow<py::object>(array.descr), array.data, size_of(array), flags});
}

bool Watch::add_torch(py::handle object, std::string name) {
  if (!torch_type_of(object)) return false;
  const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(object));
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) return false;
  DLTensor tensor;
  if (api->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) throw py::error_already_set();
  torch_.push_back({std::move(name), py::reinterpret_borrow<py::object>(object), api, object.attr("untyped_storage")(),
                    tensor.dtype, address_of(tensor), layout_of(tensor)});
  return true;
}

bool Watch::is_unchanged(const NumpyEntry& entry) {
  const auto& array = numpy_struct(entry.array);
  return array.data == entry.data && array.descr == entry.dtype.ptr() && (array.flags & entry.flags) == entry.flags &&
         size_of(array) == entry.size;
}

bool Watch::is_unchanged(const TorchEntry& entry) {
  DLTensor tensor;
  if (entry.api->dltensor_from_py_object_no_sync(entry.tensor.ptr(), &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  const auto dimensions = static_cast<size_t>(tensor.ndim);
  const int64_t* layout = entry.layout.data();
  return address_of(tensor) == entry.data && tensor.dtype.code == entry.dtype.code &&
         tensor.dtype.bits == entry.dtype.bits && 2 * dimensions == entry.layout.size() &&
         std::equal(layout, layout + dimensions, tensor.shape) &&
         std::equal(layout + dimensions, layout + 2 * dimensions, tensor.strides);
}

bool Watch::require_writable(std::string_view name) const {
  const auto found = std::ranges::find(numpy_, name, &NumpyEntry::name);
  if (found == numpy_.end()) return false;
  if ((numpy_struct(found->array).flags & writable) == 0)
    throw py::value_error(text(
        name, ": the array is read-only, but a step writes to it in place; make it writable, or bind another array"));
  return true;
}

void Watch::refuse(const NumpyEntry& entry, const char* why) {
  const auto& array = numpy_struct(entry.array);
  if (array.data == entry.data && size_of(array) == entry.size && (entry.flags & ~array.flags) == writable)
    throw py::value_error(text(entry.name,
                               ": the array has become read-only since it was bound, but a step writes to it in place; "
                               "make it writable again"));
  refuse_moved(entry.name, why);
}

void Watch::refuse_moved(const std::string& name, const char* why) { throw std::runtime_error(text(name, ": ", why)); }

int Watch::traverse(visitproc visit, void* arg) const {
  for (const NumpyEntry& entry : numpy_) Py_VISIT(entry.array.ptr());
  for (const TorchEntry& entry : torch_) Py_VISIT(entry.tensor.ptr());
  return 0;
}

void Watch::clear() {
  // Releasing the arrays may run code that uses this watch, so mark it as cleared first.
  is_cleared_ = !numpy_.empty() || !torch_.empty();
  const auto numpy = std::exchange(numpy_, {});
  const auto torch = std::exchange(torch_, {});
}

void require_in_place(py::handle object, const Array& array) {
  if (array.size() == 0) return;
  const void* data = array.data();
  if (is_numpy(object)) {
    data = size_of(numpy_struct(object)) == array.size() ? numpy_struct(object).data : nullptr;
  } else if (torch_type_of(object)) {
    const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(object));
    DLTensor tensor;
    if (api != nullptr && api->dltensor_from_py_object_no_sync != nullptr) {
      const bool exported = api->dltensor_from_py_object_no_sync(object.ptr(), &tensor) == 0;
      if (!exported) PyErr_Clear();
      data = exported ? address_of(tensor) : nullptr;
    }
  }
  if (data != array.data())
    throw std::runtime_error(text(array.name(), ": its memory was replaced during the call; pass the array again"));
}

void require_in_place(const py::sequence& objects, const std::vector<Array>& arrays) {
  for (size_t k = 0; k < arrays.size(); ++k) require_in_place(py::object(objects[k]), arrays[k]);
}

}  // namespace lrcore
