// Arrays as callers pass them -> tensors, by DLPack or what is faster. What an exporter gives and refuses is dealt with
// here; whether a step can use it, in array.h.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "device.h"
#include "dlpack.h"

namespace lrcore {

/// A managed tensor, and how to let go of it.
using Hold = std::unique_ptr<void, void (*)(void*)>;

/// A tensor, as long as it is held; the extents of one that is flat need not live so long. `writable` is what the
/// exporter says; a legacy capsule cannot say.
struct Import {
  Place place;
  DLTensor tensor;
  std::optional<bool> writable;
  Hold hold;
};

/// Prepares what every import needs; called once when the module is made.
void prepare_imports();

/// Asks `object`, without copying; `name` is the argument's, for messages. The exporter of a device array is asked to
/// make it safe for `stream`, -1 for none.
///
/// Throws TypeError for what cannot be exported, RuntimeError for a device that cannot be used, ValueError for what
/// means something else than its memory holds.
Import import_array(py::handle object, const std::string& name, int64_t stream);

}  // namespace lrcore
