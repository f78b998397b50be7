// Arrays as callers pass them -> tensors, by DLPack or what is faster. What an exporter gives and refuses is dealt with
// here; whether a step can use it, in array.h.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "device.h"
#include "dlpack.h"

namespace lrcore {

/// A managed tensor, and its deleter.
using Owner = std::unique_ptr<void, void (*)(void*)>;

/// A tensor, valid while its owner lives; the extents of a flat one may be gone sooner. `writable` is what the exporter
/// states; a legacy capsule cannot state it.
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
/// The buffer of what an array's memory belongs to. Needs the GIL to be let go.
using Root = std::unique_ptr<Py_buffer, ReleaseBuffer>;

/// Prepares what every import needs; called once when the module is made.
void prepare_imports();

/// Whether `object` is an array of NumPy, of a subclass too.
bool is_numpy(py::handle object);

/// Holds the buffer of what the memory of NumPy's array belongs to in the end, such as a map, which then cannot be
/// closed or resized: its close() raises BufferError. Null where the memory is NumPy's own, or no buffer is offered.
/// ValueError where it has been closed already.
Root hold_root(py::handle array, const std::string& name);

/// torch's type of tensors if `object` is one; null otherwise.
py::handle torch_type_of(py::handle object);

/// DLPack's functions in C, which a type may offer in addition to its methods; null if it offers none of this version.
const DLPackExchangeAPI* exchange_api(py::handle type);

/// TypeError that names the argument for arrays whose memory is not what they mean: tensors of torch that override
/// dispatch (DTensor, FakeTensor, MaskedTensor, wrapper subclasses), and arrays of numpy.ma.
void refuse_disguises(py::handle object, const std::string& name);

/// ValueError where `object` is a contiguous tensor of torch with so many floats whose storage was resized to less.
void require_storage(py::handle object, int64_t size, const std::string& name);

/// For elements without memory: TypeError if `object` is a zero tensor of torch, else ValueError.
[[noreturn]] void refuse_null(py::handle object, const std::string& name);

/// Asks `object`, without copying; `name` is the argument's, for messages. The exporter of a device array is asked to
/// make it safe for `stream`, -1 for none.
///
/// Throws TypeError for what cannot be exported, RuntimeError for a device that cannot be used, ValueError for what
/// means something else than its memory holds.
Import import_array(py::handle object, const std::string& name, int64_t stream);

}  // namespace lrcore
