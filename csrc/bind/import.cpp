#include "import.h"

#include <pybind11/numpy.h>

#include <atomic>

namespace lrcore {
namespace {

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

bool is_refusal(const py::error_already_set& error) {
  return error.matches(PyExc_Exception) && !error.matches(PyExc_MemoryError);
}

/// The objects that imports look up, created once and never released.
struct Known {
  py::handle device = PyUnicode_InternFromString("__dlpack_device__");
  py::handle dlpack = PyUnicode_InternFromString("__dlpack__");
  py::handle exchange_api = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
  py::handle requires_grad = PyUnicode_InternFromString("requires_grad");
  py::handle is_neg = PyUnicode_InternFromString("is_neg");
  py::handle torch = PyUnicode_InternFromString("torch");
  py::handle untyped_storage = PyUnicode_InternFromString("untyped_storage");
  py::handle nbytes = PyUnicode_InternFromString("nbytes");
  py::handle storage_offset = PyUnicode_InternFromString("storage_offset");
  py::handle dispatch = PyUnicode_InternFromString("__torch_dispatch__");
  py::handle no_keywords = py::tuple().release();
  py::handle stream_keyword = py::make_tuple("stream").release();
  py::handle version_keyword = py::make_tuple("max_version").release();
  py::handle both_keywords = py::make_tuple("max_version", "stream").release();
  py::handle version = py::make_tuple(DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION).release();
  py::handle generic = py::object(py::module_::import("numpy").attr("generic")).release();
  py::handle ndarray = py::object(py::module_::import("numpy").attr("ndarray")).release();
  py::handle float32 = py::dtype::of<float>().release();
};
const Known* known = nullptr;

/// Throws TypeError for an array that its exporter refused to export, chained to the exporter's exception.
[[noreturn]] void refuse_export(py::error_already_set& cause, py::handle object, const std::string& name) {
  std::string message = text(name, ": expected a float32 array, but this ", type_name(object), " cannot be exported");
  if (py::hasattr(object, "dtype")) message += text(" (dtype ", py::str(object.attr("dtype")).cast<std::string>(), ")");
  message += text(": ", py::str(cause.value()).cast<std::string>());
  if (requires_grad(object)) message += "; pass tensor.detach()";
  py::raise_from(cause, PyExc_TypeError, message.c_str());
  throw py::error_already_set();
}

/// Calls a method of `object` with keyword arguments.
template <class... Value>
py::object call(py::handle object, py::handle method, py::handle keywords, Value... values) {
  PyObject* arguments[] = {object.ptr(), values.ptr()...};
  PyObject* result = PyObject_VectorcallMethod(method.ptr(), arguments, 1, keywords.ptr());
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

/// Returns a versioned capsule, or a legacy capsule if the exporter supports no other. `stream` is null for CPU arrays,
/// which have no stream.
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

/// Makes the device current, as exporters require, and returns a capsule.
py::object export_from(Device device, py::handle object, const std::string& name, int64_t stream) {
  if (device.on_cpu()) return export_capsule(object, name, {});
  std::optional<CurrentDevice> current;
  try {
    current.emplace(cuda_api(), device);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(text(name, ": the array is on ", device.name(), ", but ", error.what()));
  }
  const CurrentInLibrary in_library(object, device);
  return export_capsule(object, name, py::int_(stream));
}

/// Takes the managed tensor from a capsule called `name`, and marks the capsule as used.
template <class Managed>
Managed* take(py::handle capsule, const char* name, const char* used) {
  void* managed = PyCapsule_GetPointer(capsule.ptr(), name);
  if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  return static_cast<Managed*>(managed);
}

template <class Managed>
Owner own(Managed* managed) {
  return Owner(managed, [](void* owned) {
    auto* tensor = static_cast<Managed*>(owned);
    if (tensor->deleter != nullptr) tensor->deleter(tensor);
  });
}

bool is_writable(const DLManagedTensorVersioned& managed) {
  return (managed.flags & DLPACK_FLAG_BITMASK_READ_ONLY) == 0;
}

Import take(Device device, py::handle capsule, const std::string& name) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    auto* managed = take<DLManagedTensorVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned");
    Owner owner = own(managed);
    if (managed->version.major != DLPACK_MAJOR_VERSION)
      throw py::type_error(text(name, ": expected DLPack version ", DLPACK_MAJOR_VERSION, ", got version ",
                                managed->version.major, "; update the array's library or lrcore"));
    return {device, managed->dl_tensor, is_writable(*managed), std::move(owner)};
  }
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    auto* managed = take<DLManagedTensor>(capsule, "dltensor", "used_dltensor");
    return {device, managed->dl_tensor, std::nullopt, own(managed)};
  }
  throw py::type_error(text(name, ": __dlpack__ did not return an unused DLPack capsule"));
}

/// Converts a DLPack device; returns nullopt for a device that lrcore does not support.
std::optional<Device> to_device(long type, long id) {
  if (type == kDLCPU || type == kDLCUDAHost || type == kDLROCMHost) return Device{};
  if ((type == kDLCUDA || type == kDLCUDAManaged) && id >= 0) return Device{static_cast<int>(id)};
  return {};
}

/// Throws RuntimeError if `__dlpack_device__` and the tensor name different devices: the step would run on the device
/// that `__dlpack_device__` named.
void require_consistent_device(const Import& import, const std::string& name) {
  if (to_device(import.tensor.device.device_type, import.tensor.device.device_id) != import.device)
    throw std::runtime_error(
        text(name, ": __dlpack_device__ and __dlpack__ of this array name different devices; fix its exporter"));
}

bool is_numpy_scalar(py::handle object) { return PyObject_IsInstance(object.ptr(), known->generic.ptr()) == 1; }

/// Returns whether an object is a container of arrays in plain Python.
bool holds_several(py::handle object) {
  PyObject* p = object.ptr();
  return PyList_Check(p) || PyTuple_Check(p) || PyDict_Check(p) || PyGen_Check(p);
}

/// Returns the device of an array before anything is exported.
Device device_of(py::handle object, const std::string& name) {
  py::object pair;
  long type = 0, id = 0;
  try {
    pair = call(object, known->device, known->no_keywords);
    if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2)
      throw py::type_error(text(name, ": __dlpack_device__ did not return a pair of integers"));
    type = PyLong_AsLong(PyTuple_GET_ITEM(pair.ptr(), 0));
    if (PyErr_Occurred() == nullptr) id = PyLong_AsLong(PyTuple_GET_ITEM(pair.ptr(), 1));
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
  } catch (py::error_already_set& error) {
    if (!is_refusal(error)) throw;
    if (!error.matches(PyExc_AttributeError)) refuse_export(error, object, name);
    throw py::type_error(text(
        name, ": expected a float32 array that supports DLPack (NumPy, CuPy, torch, JAX, ...), got ", type_name(object),
        is_numpy_scalar(object)                     ? "; scalars cannot be updated in place: pass an array"
        : py::hasattr(py::type::of(object), "flat") ? "; pass its .flat"
        : holds_several(object) ? "; put several arrays into a lrcore.Pack, or a module's parameters into a "
                                  "lrcore.torch.FusedOptimizer"
                                : ""));
  }
  if (const std::optional<Device> device = to_device(type, id)) return *device;
  throw std::runtime_error(text(name, ": the array is on ", device_name(type, id),
                                ", but lrcore supports only the CPU and CUDA devices; move it to one of them"));
}

/// Throws ValueError for a lazily negated torch view: its memory holds the values with opposite signs, and its exporter
/// does not report this.
void refuse_negated(py::handle object, const std::string& name) {
  try {
    const auto method = py::getattr(object, known->is_neg, py::none());
    if (method.is_none() || !method().is(py::handle(Py_True))) return;
  } catch (py::error_already_set& error) {  // for example, from an uninitialized tensor
    if (!is_refusal(error)) throw;
    refuse_export(error, object, name);
  }
  throw py::value_error(text(name, ": this tensor is a negated view of its memory; pass tensor.resolve_neg()"));
}

/// Imports a CPU array with DLPack's C functions, because torch's methods take ten times as long. Returns nullopt if
/// these functions cannot be used; the methods then report the reason.
std::optional<Import> import_in_c(py::handle object) {
  const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(object));
  if (api == nullptr || requires_grad(object)) return {};  // torch's function does not check requires_grad
  DLManagedTensorVersioned* managed = nullptr;
  if (api->managed_tensor_from_py_object_no_sync(object.ptr(), &managed) != 0) {
    PyErr_Clear();
    return {};
  }
  Owner owner = own(managed);
  if (managed->dl_tensor.device.device_type != kDLCPU) return {};
  return Import{{}, managed->dl_tensor, is_writable(*managed), std::move(owner)};
}

/// Imports a flat float32 NumPy array without calling its exporter, which would take half as long as a small step.
/// Returns nullopt for any other array.
std::optional<Import> import_flat(const py::array& array) {
  constexpr int contiguous = py::array::c_style, aligned = 0x100, writable = 0x400,
                warns_of_writes = 1 << 31;  // NumPy's flags
  const int flags = array.flags();
  if (array.ndim() != 1 || !array.dtype().is(known->float32)) return {};
  if ((flags & (contiguous | aligned | warns_of_writes)) != (contiguous | aligned)) return {};
  return Import{.device = {},
                .tensor = {.data = const_cast<void*>(array.data()),
                           .device = {kDLCPU, 0},
                           .ndim = 1,
                           .dtype = {kDLFloat, 32, 1},
                           .shape = reinterpret_cast<int64_t*>(const_cast<py::ssize_t*>(array.shape())),
                           .strides = nullptr,
                           .byte_offset = 0},
                .writable = (flags & writable) != 0,
                .owner = Owner(array.inc_ref().ptr(), [](void* owned) { Py_DECREF(static_cast<PyObject*>(owned)); })};
}

}  // namespace

bool requires_grad(py::handle object) { return py::bool_(py::getattr(object, known->requires_grad, py::bool_(false))); }

void prepare_imports() { known = new Known; }

bool is_numpy(py::handle object) {
  return PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(known->ndarray.ptr())) != 0;
}

Root hold_root(py::handle array, const std::string& name) {
  PyObject* root = py::detail::array_proxy(array.ptr())->base;
  while (root != nullptr && is_numpy(root)) root = py::detail::array_proxy(root)->base;
  if (root == nullptr || PyObject_CheckBuffer(root) == 0) return {};
  auto buffer = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(root, buffer.get(), PyBUF_FULL_RO) != 0) {
    py::error_already_set cause;
    py::raise_from(cause, PyExc_ValueError,
                   text(name, ": the memory of this array belongs to an object of type ", type_name(root),
                        ", which no longer exports it: ", py::str(cause.value()).cast<std::string>())
                       .c_str());
    throw py::error_already_set();
  }
  return Root(buffer.release());
}

py::handle torch_type_of(py::handle object) {
  static std::atomic<PyObject*> found{nullptr};  // kept forever once torch is imported
  PyObject* tensor = found.load(std::memory_order_acquire);
  if (tensor == nullptr) {
    const auto torch = py::reinterpret_steal<py::object>(PyImport_GetModule(known->torch.ptr()));
    if (!torch) {
      PyErr_Clear();
      return {};
    }
    py::object type = py::getattr(torch, "Tensor", py::none());
    if (!PyType_Check(type.ptr())) return {};  // torch is being imported, or another module has its name
    tensor = type.release().ptr();
    found.store(tensor, std::memory_order_release);
  }
  const bool is_tensor = PyType_IsSubtype(Py_TYPE(object.ptr()), reinterpret_cast<PyTypeObject*>(tensor)) != 0;
  return is_tensor ? py::handle(tensor) : py::handle();
}

const DLPackExchangeAPI* exchange_api(py::handle type) {
  const auto capsule = py::getattr(type, known->exchange_api, py::none());
  if (!PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) return nullptr;
  const auto* header =
      static_cast<const DLPackExchangeAPIHeader*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  while (header != nullptr && header->version.major != DLPACK_MAJOR_VERSION) header = header->prev_api;
  return reinterpret_cast<const DLPackExchangeAPI*>(header);
}

void refuse_disguises(py::handle object, const std::string& name) {
  if (is_numpy(object)) {
    const auto numpy_ma = py::reinterpret_steal<py::object>(PyImport_GetModule(py::str("numpy.ma").ptr()));
    PyErr_Clear();
    if (numpy_ma && py::isinstance(object, numpy_ma.attr("MaskedArray")))
      throw py::type_error(text(name, ": expected a plain array, got ", type_name(object),
                                ", whose mask a step would ignore; pass its filled(0) or its data"));
    return;
  }
  const py::handle tensor = torch_type_of(object);
  const py::handle type = py::type::handle_of(object);
  if (!tensor || type.is(tensor)) return;
  if (!py::getattr(type, known->dispatch, py::none()).is(py::getattr(tensor, known->dispatch, py::none())))
    throw py::type_error(text(name, ": expected a plain tensor, got ", type_name(object),
                              ", which overrides dispatch; pass the plain tensor of its values, such as a DTensor's "
                              "to_local()"));
}

void require_storage(py::handle object, int64_t size, const std::string& name) {
  if (!torch_type_of(object)) return;
  const auto get = [](py::handle self, py::handle method) { return call(self, method, known->no_keywords); };
  const auto begin = get(object, known->storage_offset).cast<int64_t>();
  const auto bytes = get(get(object, known->untyped_storage), known->nbytes).cast<int64_t>();
  if (bytes / static_cast<int64_t>(sizeof(float)) < begin + size)
    throw py::value_error(
        text(name, ": expected a tensor that fits in its storage, which was resized to ", bytes, " bytes"));
}

void refuse_null(py::handle object, const std::string& name) {
  if (torch_type_of(object) && py::bool_(object.attr("_is_zerotensor")()))
    throw py::type_error(
        text(name, ": expected a tensor with memory, got a zero tensor, which has none; pass tensor.clone()"));
  throw py::value_error(text(name,
                             ": expected an array with memory, got a null pointer; its storage was freed or resized "
                             "to 0"));
}

Import import_array(py::handle object, const std::string& name, int64_t stream) {
  Device device;
  if (py::type::handle_of(object).ptr() == known->ndarray.ptr()) {  // on the CPU, and its memory represents its values
    if (std::optional<Import> import = import_flat(py::reinterpret_borrow<py::array>(object)))
      return std::move(*import);
  } else {
    refuse_disguises(object, name);
    refuse_negated(object, name);
    if (std::optional<Import> import = import_in_c(object)) return std::move(*import);
    device = device_of(object, name);
  }
  Import import = take(device, export_from(device, object, name, stream), name);
  require_consistent_device(import, name);
  return import;
}

}  // namespace lrcore
