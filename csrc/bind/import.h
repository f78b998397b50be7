// Converts callers' arrays to tensors, through DLPack or, for flat float32 NumPy arrays, directly. Exporters and their
// errors are handled here; array.h checks whether a step can use the tensor.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "device.h"
#include "dlpack.h"

namespace lrcore {

/// A managed tensor or a NumPy array, and its deleter.
using Owner = std::unique_ptr<void, void (*)(void*)>;

/// A tensor, valid for as long as its owner exists; the shape of a flat tensor may become invalid sooner. `writable`
/// has no value if the tensor comes from a legacy capsule, which cannot declare it.
struct Import {
  Device device;
  DLTensor tensor;
  std::optional<bool> writable;
  Owner owner;
};

struct ReleaseBuffer {
  void operator()(Py_buffer* buffer) const {
    PyBuffer_Release(buffer);
    delete buffer;
  }
};
/// The buffer of the object that owns an array's memory. Releasing it requires the GIL.
using Root = std::unique_ptr<Py_buffer, ReleaseBuffer>;

/// Prepares the objects that every import needs; called once when the module is created.
void prepare_imports();

/// Whether `object` is a NumPy array, including subclasses.
bool is_numpy(py::handle object);

/// Holds the buffer of the object that ultimately owns the memory of a NumPy array, such as an mmap. That object then
/// cannot be closed or resized: its close() raises BufferError. Returns null if NumPy owns the memory or the owner
/// provides no buffer. Throws ValueError if the owner has been closed already.
Root hold_root(py::handle array, const std::string& name);

/// Returns an object's attribute `requires_grad`, False if it has none.
bool requires_grad(py::handle object);

/// Returns torch.Tensor if `object` is a tensor, else null.
py::handle torch_type_of(py::handle object);

/// Returns the table of DLPack's C functions, which a type may provide in addition to its methods, or null if the type
/// has no table of this DLPack version.
const DLPackExchangeAPI* exchange_api(py::handle type);

/// Throws TypeError, naming the argument, for arrays whose memory does not represent their values: torch tensors that
/// override dispatch (DTensor, FakeTensor, MaskedTensor, wrapper subclasses), and arrays of numpy.ma.
void refuse_disguises(py::handle object, const std::string& name);

/// Throws ValueError if `object` is a contiguous torch tensor of `size` floats whose storage was resized and no longer
/// holds all of them.
void require_storage(py::handle object, int64_t size, const std::string& name);

/// Throws for an array that has elements but no memory: TypeError if it is a zero tensor of torch, else ValueError.
[[noreturn]] void refuse_null(py::handle object, const std::string& name);

/// Imports `object` without copying. `name` is the name of the argument, for messages. The exporter of a device array
/// must make the array safe to use on `stream`, unless `stream` is -1.
///
/// Throws TypeError if `object` cannot be exported or its memory does not represent its values, ValueError if it is a
/// negated view of its memory, and RuntimeError if its device cannot be used.
Import import_array(py::handle object, const std::string& name, int64_t stream);

}  // namespace lrcore
