#include "array.h"

#include <algorithm>
#include <span>

namespace lrcore {
namespace {

std::string dtype_name(DLDataType dtype) {
  const char* kind = nullptr;
  switch (dtype.code) {
    case kDLInt:
      kind = "int";
      break;
    case kDLUInt:
      kind = "uint";
      break;
    case kDLFloat:
      kind = "float";
      break;
    case kDLBfloat:
      kind = "bfloat";
      break;
    case kDLComplex:
      kind = "complex";
      break;
    case kDLBool:
      return "bool";
    default:
      return text("DLPack type code ", int{dtype.code});
  }
  return text(kind, int{dtype.bits}, dtype.lanes == 1 ? "" : text("x", dtype.lanes));
}

std::string tuple_text(const int64_t* values, int count) {
  std::string out = "(";
  for (int i = 0; i < count; ++i) out += text(i ? ", " : "", values[i]);
  return out + (count == 1 ? ",)" : ")");
}

void require_float32(DLDataType dtype, const std::string& name) {
  if (dtype.code != kDLFloat || dtype.bits != 32 || dtype.lanes != 1)
    throw py::type_error(text(name, ": expected dtype float32, got ", dtype_name(dtype),
                              "; lrcore never converts arrays: make a float32 array first"));
}

/// No address space can hold this many elements.
constexpr int64_t max_size = int64_t{1} << 60;

/// Returns the number of elements of a C-contiguous tensor, and throws ValueError for any other tensor. Ignores the
/// strides of empty tensors and of dimensions of size 1.
int64_t contiguous_size(const DLTensor& tensor, const std::string& name) {
  const std::span extents(tensor.shape, tensor.shape == nullptr ? 0 : static_cast<size_t>(std::max(tensor.ndim, 0)));
  if (tensor.ndim != static_cast<int>(extents.size()) ||
      std::ranges::any_of(extents, [](auto each) { return each < 0; }))
    throw py::value_error(text(name, ": the exporter of this array returned an invalid shape; fix the exporter"));
  if (std::ranges::find(extents, 0) != extents.end()) return 0;
  int64_t size = 1;
  for (int i = 0; i < tensor.ndim; ++i)
    if (__builtin_mul_overflow(size, tensor.shape[i], &size) || size > max_size)
      throw py::value_error(
          text(name, ": the shape ", tuple_text(tensor.shape, tensor.ndim), " has more elements than memory can hold"));
  if (tensor.strides == nullptr) return size;
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected)
      throw py::value_error(text(
          name, ": expected a C-contiguous array, got shape ", tuple_text(tensor.shape, tensor.ndim), " with strides ",
          tuple_text(tensor.strides, tensor.ndim), " in elements; lrcore never copies arrays: pass contiguous memory"));
    expected *= tensor.shape[i];
  }
  return size;
}

}  // namespace

Array Array::import(py::handle object, std::string name, Access access, int64_t stream) {
  Import import = import_array(object, name, stream);
  const DLTensor& tensor = import.tensor;

  require_float32(tensor.dtype, name);
  Array array(std::move(name), import.device, std::move(import.owner));
  array.writable_ = import.writable;
  if (access == Access::write) array.require_writable();

  const bool of_numpy = is_numpy(object);
  if (of_numpy) array.root_ = hold_root(object, array.name_);
  array.size_ = contiguous_size(tensor, array.name_);
  array.shape_ = tensor.shape;
  array.ndim_ = tensor.ndim;
  const auto address = reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset;
  if (array.size_ != 0) {
    if (tensor.data == nullptr || address == 0) refuse_null(object, array.name_);
    if (!of_numpy) require_storage(object, array.size_, array.name_);
  }
  if (array.size_ != 0 && address % alignof(float) != 0)
    throw py::value_error(text(array.name_, ": expected data aligned to 4 bytes, got address 0x", digits(address, 16),
                               "; copy it to aligned memory first"));
  array.data_ = reinterpret_cast<float*>(address);
  return array;
}

void Array::require_writable() const {
  if (!writable_.has_value())
    throw py::type_error(text(name_,
                              ": a step writes to this array in place, but its exporter does not declare it writable "
                              "(it returns a legacy DLPack capsule, as JAX does for immutable arrays); pass a NumPy, "
                              "CuPy or torch array"));
  if (!*writable_)
    throw py::value_error(
        text(name_, ": the array is read-only, but a step writes to it in place; pass a writable array"));
}

bool Array::overlaps(const Array& other) const {
  const auto begin = reinterpret_cast<uintptr_t>(data_);
  const auto other_begin = reinterpret_cast<uintptr_t>(other.data_);
  const auto bytes = static_cast<uintptr_t>(size_) * sizeof(float);
  const auto other_bytes = static_cast<uintptr_t>(other.size_) * sizeof(float);
  return begin < other_begin + other_bytes && other_begin < begin + bytes;
}

bool Array::has_shape_of(const Array& other) const {
  if (ndim_ <= 1 || other.ndim_ <= 1) return true;
  const auto next = [](const int64_t* extent, const int64_t* end) {
    while (extent != end && *extent == 1) ++extent;
    return extent;
  };
  const int64_t *end = shape_ + ndim_, *other_end = other.shape_ + other.ndim_;
  const int64_t *own = next(shape_, end), *theirs = next(other.shape_, other_end);
  while (own != end && theirs != other_end && *own == *theirs) {
    own = next(own + 1, end);
    theirs = next(theirs + 1, other_end);
  }
  return own == end && theirs == other_end;
}

void Array::release_owner() {
  if (ndim_ > 1) shape_copy_.assign(shape_, shape_ + ndim_);
  shape_ = shape_copy_.data();
  owner_.reset();
}

std::string Array::shape() const { return tuple_text(shape_, ndim_); }

void require_same_device(const Array& array, const Array& params) {
  if (array.device() != params.device())
    throw std::runtime_error(text(array.name(), ": expected an array on ", params.device().name(), " like ",
                                  params.name(), ", got one on ", array.device().name()));
}

void require_same_size(const Array& array, const Array& params) {
  if (array.size() != params.size())
    throw py::value_error(
        text(array.name(), ": expected ", params.size(), " elements like ", params.name(), ", got ", array.size()));
  if (!array.has_shape_of(params))
    throw py::value_error(text(array.name(), ": expected shape ", params.shape(), " like ", params.name(),
                               ", or a flat array, got ", array.shape()));
}

void require_disjoint(const Array& array, const Array& written) {
  if (array.overlaps(written))
    throw py::value_error(text(array.name(), ": shares memory with ", written.name(),
                               ", which the step writes to; pass an array with its own memory"));
}

}  // namespace lrcore
