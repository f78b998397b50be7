#include "array.h"

#include <optional>

#include "dlpack.h"

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

std::string device_name(long type, long id) {
  switch (type) {
    case kDLROCM:
      return text("rocm:", id);
    case kDLMetal:
      return text("metal:", id);
    default:
      return text("DLPack device type ", type);
  }
}

std::string tuple_text(const int64_t* values, int count) {
  std::string out = "(";
  for (int i = 0; i < count; ++i) out += text(i ? ", " : "", values[i]);
  return out + (count == 1 ? ",)" : ")");
}

/// Raises TypeError for what the exporter refused, with the exporter's own exception chained.
[[noreturn]] void refuse_export(py::error_already_set& cause, py::handle object, const std::string& name) {
  std::string message = text(name, ": expected a float32 array, but this ", type_name(object), " cannot be exported");
  if (py::hasattr(object, "dtype")) message += text(" (dtype ", py::str(object.attr("dtype")).cast<std::string>(), ")");
  message += text(": ", py::str(cause.value()).cast<std::string>());
  if (py::bool_(py::getattr(object, "requires_grad", py::bool_(false)))) message += "; pass the tensor's detach()";
  py::raise_from(cause, PyExc_TypeError, message.c_str());
  throw py::error_already_set();
}

bool is_refusal(const py::error_already_set& error) {
  return error.matches(PyExc_Exception) && !error.matches(PyExc_MemoryError);
}

/// What imports look up, made once and never let go.
struct Known {
  py::handle device = PyUnicode_InternFromString("__dlpack_device__");
  py::handle dlpack = PyUnicode_InternFromString("__dlpack__");
  py::handle no_keywords = py::tuple().release();
  py::handle stream_keyword = py::make_tuple("stream").release();
  py::handle version_keyword = py::make_tuple("max_version").release();
  py::handle both_keywords = py::make_tuple("max_version", "stream").release();
  py::handle version = py::make_tuple(DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION).release();
  py::handle ndarray = py::object(py::module_::import("numpy").attr("ndarray")).release();
};
const Known* known = nullptr;

/// Calls a method of `object` with the values of these keywords.
template <class... Value>
py::object call(py::handle object, py::handle method, py::handle keywords, Value... values) {
  PyObject* arguments[] = {object.ptr(), values.ptr()...};
  PyObject* result = PyObject_VectorcallMethod(method.ptr(), arguments, 1, keywords.ptr());
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

/// Asks for a versioned capsule, and for a legacy one where the exporter knows no other. `stream` is null for arrays on
/// the CPU, which have none.
py::object export_capsule(py::handle object, const std::string& name, py::handle stream) {
  try {
    return stream ? call(object, known->dlpack, known->both_keywords, known->version, stream)
                  : call(object, known->dlpack, known->version_keyword, known->version);
  } catch (py::error_already_set& error) {
    if (!is_refusal(error)) throw;
    if (!error.matches(PyExc_TypeError)) refuse_export(error, object, name);
  }
  try {
    return stream ? call(object, known->dlpack, known->stream_keyword, stream)
                  : call(object, known->dlpack, known->no_keywords);
  } catch (py::error_already_set& error) {
    if (!is_refusal(error)) throw;
    refuse_export(error, object, name);
  }
}

/// Makes the device current, as exporters need it to be, and asks for a capsule.
py::object export_from(Place place, py::handle object, const std::string& name, int64_t stream) {
  if (place.on_cpu()) return export_capsule(object, name, {});
  std::optional<CurrentDevice> current;
  try {
    current.emplace(cuda_api(), place);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(text(name, ": the array is on ", place.name(), ", and ", error.what()));
  }
  const CurrentInLibrary in_library(object, place);
  return export_capsule(object, name, py::int_(stream));
}

/// A tensor taken out of its capsule. `writable` is what the exporter says; a legacy capsule cannot say.
struct Import {
  const DLTensor* tensor;
  std::optional<bool> writable;
  Hold hold;
};

/// Takes the managed tensor of a capsule called `name` and marks the capsule as used.
template <class Managed>
Managed* take(py::handle capsule, const char* name, const char* used) {
  void* managed = PyCapsule_GetPointer(capsule.ptr(), name);
  if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  return static_cast<Managed*>(managed);
}

template <class Managed>
Hold hold(Managed* managed) {
  return Hold(managed, [](void* held) {
    auto* tensor = static_cast<Managed*>(held);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
}

Import take(py::handle capsule, const std::string& name) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* managed = take<DLManagedTensorVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned");
    Hold held = hold(managed);
    if (managed->version.major != DLPACK_MAJOR_VERSION)
      throw py::type_error(text(name, ": expected DLPack version ", DLPACK_MAJOR_VERSION, ", got version ",
                                managed->version.major, "; update the array's library or lrcore"));
    const bool writable = (managed->flags & DLPACK_FLAG_BITMASK_READ_ONLY) == 0;
    return {&managed->dl_tensor, writable, std::move(held)};
  }
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    auto* managed = take<DLManagedTensor>(capsule, "dltensor", "used_dltensor");
    return {&managed->dl_tensor, std::nullopt, hold(managed)};
  }
  throw py::type_error(text(name, ": __dlpack__ returned no unused DLPack capsule"));
}

/// The device, asked before anything is exported.
Place place_of(py::handle object, const std::string& name) {
  py::object device;
  long type = 0, id = 0;
  try {
    device = call(object, known->device, known->no_keywords);
    if (!PyTuple_Check(device.ptr()) || PyTuple_GET_SIZE(device.ptr()) != 2)
      throw py::type_error(text(name, ": __dlpack_device__ returned no pair of numbers"));
    type = PyLong_AsLong(PyTuple_GET_ITEM(device.ptr(), 0));
    if (PyErr_Occurred() == nullptr) id = PyLong_AsLong(PyTuple_GET_ITEM(device.ptr(), 1));
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  } catch (py::error_already_set& error) {
    if (!is_refusal(error)) throw;
    if (!error.matches(PyExc_AttributeError)) refuse_export(error, object, name);
    throw py::type_error(text(name, ": expected a float32 array with DLPack (NumPy, CuPy, torch, JAX, ...), got ",
                              type_name(object), py::hasattr(object, "flat") ? "; pass its flat" : ""));
  }
  if (type == kDLCPU || type == kDLCUDAHost || type == kDLROCMHost) return {};
  if ((type == kDLCUDA || type == kDLCUDAManaged) && id >= 0) return {static_cast<int>(id)};
  throw std::runtime_error(text(name, ": the array is on ", device_name(type, id),
                                ", and lrcore steps arrays of the CPU and of CUDA devices; move it there"));
}

/// Refuses a torch tensor that is a lazily negated view: its memory holds the opposite, and its exporter does not say
/// so.
void require_plain(py::handle object, const std::string& name) {
  if (py::hasattr(object, "is_neg") && py::bool_(object.attr("is_neg")()))
    throw py::value_error(text(name, ": this tensor is a negated view of its memory; pass its resolve_neg()"));
}

void require_writable(std::optional<bool> writable, const std::string& name) {
  if (!writable.has_value())
    throw py::type_error(text(name,
                              ": a step writes this array in place, and its exporter does not say that it may be "
                              "written (it gives a legacy DLPack capsule, as JAX does for its immutable arrays); pass "
                              "an array of NumPy, CuPy or torch"));
  if (!*writable)
    throw py::value_error(text(name, ": the array is read-only, and a step writes it in place; pass a writable array"));
}

void require_float32(DLDataType dtype, const std::string& name) {
  if (dtype.code != kDLFloat || dtype.bits != 32 || dtype.lanes != 1)
    throw py::type_error(text(name, ": expected dtype float32, got ", dtype_name(dtype),
                              "; lrcore never converts: make a float32 array first"));
}

/// The number of elements of a C-contiguous tensor. Extents of 1 and empty tensors may have any strides.
int64_t contiguous_size(const DLTensor& tensor, const std::string& name) {
  int64_t size = 1;
  for (int i = 0; i < tensor.ndim; ++i) size *= tensor.shape[i];
  if (size == 0 || tensor.strides == nullptr) return size;
  int64_t expected = 1;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected)
      throw py::value_error(text(
          name, ": expected a C-contiguous array, got shape ", tuple_text(tensor.shape, tensor.ndim), " with strides ",
          tuple_text(tensor.strides, tensor.ndim), " in elements; lrcore never copies: pass contiguous memory"));
    expected *= tensor.shape[i];
  }
  return size;
}

}  // namespace

void prepare_imports() { known = new Known; }

Array Array::import(py::handle object, std::string name, Access access, int64_t stream) {
  // A NumPy array is on the CPU and means what it holds; of anything else both have to be asked.
  Place place;
  if (py::type::handle_of(object).ptr() != known->ndarray.ptr()) {
    place = place_of(object, name);
    require_plain(object, name);
  }
  Import import = take(export_from(place, object, name, stream), name);
  const DLTensor& tensor = *import.tensor;

  require_float32(tensor.dtype, name);
  if (access == Access::write) require_writable(import.writable, name);

  Array array(std::move(name), place, std::move(import.hold));
  array.size_ = contiguous_size(tensor, array.name_);
  array.shape_ = tensor.shape;
  array.ndim_ = tensor.ndim;
  const auto address = reinterpret_cast<uintptr_t>(tensor.data) + tensor.byte_offset;
  if (array.size_ != 0 && address % alignof(float) != 0)
    throw py::value_error(text(array.name_, ": expected data aligned to 4 bytes, got address 0x", std::hex, address,
                               "; copy it to aligned memory first"));
  array.data_ = reinterpret_cast<float*>(address);
  return array;
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

std::string Array::shape() const { return tuple_text(shape_, ndim_); }

void require_same_place(const Array& array, const Array& params) {
  if (array.place() != params.place())
    throw std::runtime_error(text(array.name(), ": expected an array on ", params.place().name(), " like ",
                                  params.name(), ", got one on ", array.place().name()));
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
                               ", which the step writes; pass an array with memory of its own"));
}

}  // namespace lrcore
