#include "tensors.h"

#include <algorithm>
#include <functional>
#include <utility>

namespace lrcore {
namespace {

/// The names of the attribute and the method of tensors that are used here.
struct Known {
  py::handle grad = PyUnicode_InternFromString("grad");
  py::handle is_neg = PyUnicode_InternFromString("is_neg");
};

const Known& known() {
  static const Known names;  // kept forever
  return names;
}

/// Whether a tensor's memory represents its values: it does not if the tensor overrides dispatch, or is a lazily
/// negated view. Runs Python code.
bool is_plain(py::handle tensor) {
  if (!py::type::handle_of(tensor).is(torch_type_of(tensor))) return false;
  const auto is_negated =
      py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor.ptr(), known().is_neg.ptr()));
  if (!is_negated) throw py::error_already_set();
  return !is_negated.is(py::handle(Py_True));
}

py::object reference_to(py::handle object) {
  auto made = py::reinterpret_steal<py::object>(PyWeakref_NewRef(object.ptr(), nullptr));
  if (!made) throw py::error_already_set();
  return made;
}

/// Returns the address of the object that a weak reference refers to, or null if that object no longer exists.
PyObject* referent(py::handle reference) {
  PyObject* object = nullptr;
#if PY_VERSION_HEX >= 0x030D0000
  if (PyWeakref_GetRef(reference.ptr(), &object) < 0) throw py::error_already_set();
  Py_XDECREF(object);
#else
  object = PyWeakref_GetObject(reference.ptr());
#endif
  return object == Py_None ? nullptr : object;
}

py::list list_of(const std::vector<py::object>& objects) {
  py::list list;
  for (const py::object& each : objects) list.append(each);
  return list;
}

bool overlaps(const char* begin, const char* end, const Array& array) {
  const auto* other = reinterpret_cast<const char*>(array.data());
  return begin < other + array.size() * static_cast<int64_t>(sizeof(float)) && other < end;
}

}  // namespace

Tensors::Tensors(const std::vector<std::string>& names, const std::vector<py::object>& tensors,
                 const std::vector<py::object>& views, const std::vector<int64_t>& begins, py::object fitting,
                 py::object zero)
    : objects_(list_of(tensors)),
      fitting_(std::move(fitting)),
      zero_(std::move(zero)),
      addresses_(tensors.size()),
      has_gradient_(tensors.size(), true) {
  if (names.size() != tensors.size() || views.size() != tensors.size() || begins.size() != tensors.size())
    throw py::value_error("tensors: expected a name and a view for each tensor");
  for (size_t i = 0; i < tensors.size(); ++i) {
    const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(tensors[i]));
    if (!torch_type_of(tensors[i]) || api == nullptr || api->dltensor_from_py_object_no_sync == nullptr)
      throw py::type_error(text(names[i], ": expected a torch tensor, got ", type_name(tensors[i])));
    DLTensor view;
    if (api->dltensor_from_py_object_no_sync(views[i].ptr(), &view) != 0) throw py::error_already_set();
    std::vector<int64_t> layout(view.shape, view.shape + view.ndim);
    int64_t size = 1;
    for (const int64_t extent : layout) size *= extent;
    layout.insert(layout.end(), view.strides, view.strides + view.ndim);
    tensors_.push_back({.name = names[i],
                        .object = tensors[i],
                        .api = api,
                        .device = view.device,
                        .data = static_cast<const char*>(view.data) + view.byte_offset,
                        .layout = std::move(layout),
                        .begin = begins[i],
                        .end = begins[i] + size,
                        .last_gradient = nullptr,
                        .known_gradient = {},
                        .known_data = nullptr});
  }
}

/// Returns the memory of a torch tensor if it has the device, the dtype, the extents and the strides of this one, and
/// null otherwise. Strides of dimensions with one element do not matter. Runs no Python code.
const void* Tensors::Tensor::address_of(py::handle other) const {
  DLTensor view;
  if (api->dltensor_from_py_object_no_sync(other.ptr(), &view) != 0) {
    PyErr_Clear();
    return nullptr;
  }
  const auto dimensions = static_cast<size_t>(view.ndim);
  if (view.dtype.code != kDLFloat || view.dtype.bits != 32 || view.dtype.lanes != 1 ||
      view.device.device_type != device.device_type || view.device.device_id != device.device_id ||
      2 * dimensions != layout.size() || view.data == nullptr)
    return nullptr;
  for (size_t k = 0; k < dimensions; ++k)
    if (view.shape[k] != layout[k] || (layout[k] != 1 && view.strides[k] != layout[dimensions + k])) return nullptr;
  return static_cast<const char*>(view.data) + view.byte_offset;
}

void Tensors::check(const char* why) const {
  if (!objects_) throw std::runtime_error(text("params: ", why));
  for (const Tensor& tensor : tensors_)
    if (tensor.begin != tensor.end && tensor.address_of(tensor.object) != tensor.data)
      throw std::runtime_error(text(tensor.name, ": ", why));
}

/// Whether `gradient` is the same object as in the last two calls, and was alive in between. `is_plain` is then not
/// called again, because it takes longer than the rest of the work for a tensor.
bool Tensors::Tensor::is_known(py::handle gradient) {
  if (known_gradient && referent(known_gradient) == gradient.ptr()) return true;
  known_gradient = last_gradient == gradient.ptr() ? reference_to(gradient) : py::object();
  known_data = nullptr;
  last_gradient = gradient.ptr();
  return false;
}

void require_detachable(py::handle gradient, const std::string& name) {
  if (requires_grad(gradient) && !gradient.attr("grad_fn").is_none() && gradient.attr("_is_view")().cast<bool>())
    throw std::runtime_error(text(name,
                                  ": its gradient is a view that belongs to a graph, which PyTorch cannot detach in "
                                  "place; assign the gradient's detach() before a step with zero_grads=True"));
}

Tensors::Gradients Tensors::read(bool zeroes_grads) {
  Gradients gradients;
  gradients.of_tensors.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensors_[i].object.ptr(), known().grad.ptr()));
    if (!found) throw py::error_already_set();
    if (zeroes_grads && !found.is_none() && requires_grad(found)) {
      require_detachable(found, tensors_[i].name);
      gradients.for_torch.append(found);
    }
    if (!found.is_none() && !tensors_[i].is_known(found) && !is_plain(found)) {
      tensors_[i].known_gradient = py::object();
      if (zeroes_grads) gradients.for_torch.append(found);
      found = fitting_(i, found);
    }
    gradients.of_tensors.push_back(std::move(found));
  }
  return gradients;
}

/// Forgets the addresses of gradients that share memory, because each of them could be zeroed before another one is
/// read. Returns whether there are none.
bool Tensors::are_disjoint() {
  const auto begin = [this](size_t i) { return static_cast<const char*>(addresses_[i]); };
  const auto end = [this, begin](size_t i) {
    return begin(i) + (tensors_[i].end - tensors_[i].begin) * static_cast<int64_t>(sizeof(float));
  };
  std::vector<size_t> order;
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (has_gradient_[i] && tensors_[i].begin != tensors_[i].end && addresses_[i] != nullptr) order.push_back(i);
  std::ranges::sort(order, std::less<>(), begin);
  std::vector<size_t> shared;
  for (size_t k = 1, last = 0; k < order.size(); ++k) {  // order[last] ends last of those before order[k]
    if (begin(order[k]) < end(order[last])) shared.insert(shared.end(), {order[last], order[k]});
    if (end(order[k]) > end(order[last])) last = k;
  }
  for (const size_t i : shared) addresses_[i] = nullptr;
  return shared.empty();
}

bool Tensors::locate(const Gradients& gradients, const Operands& operands, bool zeroes_grads) {
  bool all_fit = true;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& tensor = tensors_[i];
    has_gradient_[i] = !gradients.of_tensors[i].is_none();
    if (!has_gradient_[i] || tensor.begin == tensor.end) continue;
    const auto* begin = static_cast<const char*>(tensor.address_of(gradients.of_tensors[i]));
    const char* end = begin + (tensor.end - tensor.begin) * static_cast<int64_t>(sizeof(float));
    const auto shares = [&](const Array& array) { return overlaps(begin, end, array); };
    const bool fits = begin != nullptr && reinterpret_cast<uintptr_t>(begin) % alignof(float) == 0 &&
                      !shares(operands.params) && std::ranges::none_of(operands.states, shares);
    // The memory of a known gradient can be replaced by that of a negated view.
    const bool has_moved = tensor.known_gradient && tensor.known_data != nullptr && tensor.known_data != begin;
    tensor.known_data = begin;
    addresses_[i] = fits && !has_moved ? begin : nullptr;
    all_fit = all_fit && addresses_[i] != nullptr;
  }
  return (!zeroes_grads || are_disjoint()) && all_fit;
}

void Tensors::fit(Gradients& gradients) {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    Tensor& tensor = tensors_[i];
    py::object& gradient = gradients.of_tensors[i];
    if (gradient.is_none() || tensor.begin == tensor.end || addresses_[i] != nullptr) continue;
    tensor.known_gradient = py::object();
    gradients.for_torch.append(gradient);
    gradient = fitting_(i, gradient);
  }
}

std::vector<Range> Tensors::idle(int64_t size) const {
  std::vector<Range> ranges;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const int64_t end = i + 1 < tensors_.size() ? tensors_[i + 1].begin : size;
    if (!has_gradient_[i] && tensors_[i].begin < end) ranges.push_back({tensors_[i].begin, end});
  }
  return ranges;
}

std::vector<sums::Elements> Tensors::units() const {
  std::vector<sums::Elements> units;
  for (const Tensor& tensor : tensors_)
    if (tensor.begin < tensor.end) units.push_back({.begin = tensor.begin, .end = tensor.end});
  return units;
}

void Tensors::split(std::span<const Segment> segments) {
  used_ = has_gradient_;
  segments_.clear();
  of_segment_.clear();
  int64_t before = 0;
  size_t first = 0;
  for (const Segment& segment : segments) {
    while (first < tensors_.size() && tensors_[first].end <= segment.begin) ++first;
    for (size_t i = first; i < tensors_.size() && tensors_[i].begin < segment.end; ++i) {
      const int64_t begin = std::max(segment.begin, tensors_[i].begin);
      const int64_t end = std::min(segment.end, tensors_[i].end);
      if (begin >= end) continue;
      segments_.push_back({.begin = begin, .end = end, .before = before, .row = segment.row});
      of_segment_.push_back(i);
      before += end - begin;
    }
  }
  gradients_.assign(segments_.size(), {.data = nullptr, .format = Format::float32});
}

std::span<const Stream> Tensors::gradients() {
  for (size_t k = 0; k < segments_.size(); ++k) {
    const size_t i = of_segment_[k];
    gradients_[k] = shifted({.data = const_cast<void*>(addresses_[i]), .format = Format::float32}, tensors_[i].begin);
  }
  return gradients_;
}

void Tensors::raise_versions(bool of_all) const {
  if (of_all || std::ranges::find(used_, false) == used_.end()) return raise_versions_of(objects_);
  py::list stepped;
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (used_[i]) stepped.append(tensors_[i].object);
  raise_versions_of(stepped);
}

void Tensors::finish_zeroing(const Gradients& gradients) const {
  py::list zeroed;
  for (const py::object& each : gradients.of_tensors)
    if (!each.is_none()) zeroed.append(each);
  raise_versions_of(zeroed);
  if (!gradients.for_torch.empty()) zero_(gradients.for_torch);
}

int Tensors::traverse(visitproc visit, void* arg) const {
  for (const Tensor& tensor : tensors_) Py_VISIT(tensor.object.ptr());
  Py_VISIT(objects_.ptr());
  Py_VISIT(fitting_.ptr());
  Py_VISIT(zero_.ptr());
  return 0;
}

void Tensors::clear() {
  const auto tensors = std::exchange(tensors_, {});
  const py::object objects = std::exchange(objects_, py::object());
  const py::object fitting = std::exchange(fitting_, py::object());
  const py::object zero = std::exchange(zero_, py::object());
}

}  // namespace lrcore
