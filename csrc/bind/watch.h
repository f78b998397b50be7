// Checks that the memory of bound arrays has not been replaced, and keeps it alive.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "array.h"

namespace lrcore {

/// Throws RuntimeError if the memory of a NumPy or torch array is no longer the memory that was imported in this call:
/// a schedule, an exporter or another thread may have replaced it. Requires the GIL and runs no Python code.
void require_in_place(py::handle object, const Array& array);
/// The same check for several arrays.
void require_in_place(const py::sequence& objects, const std::vector<Array>& arrays);

/// Compares bound arrays with their original state. NumPy and torch can replace the memory of an existing array
/// (`ndarray.resize`, `tensor.data = ...`, `set_`, `share_memory_`); a step would then write to freed memory.
///
/// Watched arrays are held as Python objects, which the garbage collector can traverse: an array may refer to the
/// optimizer that holds it.
class Watch {
 public:
  Watch() = default;
  /// Releases the arrays. Requires the GIL.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// Watches an array of any dtype and layout if it is a NumPy or torch array; returns whether it is. If `written` is
  /// true, a NumPy array must stay writable.
  bool add(py::handle object, std::string name, bool written);
  /// Watches the array that was imported from `object`, if it is a NumPy or torch array. The watch then keeps the
  /// memory alive, and the array's owner is released.
  void add(py::handle object, Array& array, bool written);

  /// Throws if an array has changed: RuntimeError with the message "name: why" if its memory, size, dtype or layout
  /// differs, and ValueError if a written array has become read-only. Requires the GIL. Runs no Python code and
  /// allocates nothing unless it throws.
  void check(const char* why) const {
    for (const NumpyEntry& entry : numpy_)
      if (!is_unchanged(entry)) refuse(entry, why);
    for (const TorchEntry& entry : torch_)
      if (!is_unchanged(entry)) refuse_moved(entry.name, why);
    if (is_cleared_) refuse_moved("params", why);
  }
  /// Returns whether an array of this name is a NumPy array; throws ValueError if it is read-only at present.
  bool require_writable(std::string_view name) const;
  /// For the garbage collector.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  struct NumpyEntry {
    std::string name;
    py::object array;
    py::object dtype;
    const void* data;
    int64_t size;
    int flags;  // the flags that must stay set
  };
  struct TorchEntry {
    std::string name;
    py::object tensor;
    const DLPackExchangeAPI* api;
    py::object storage;  // a step without the GIL may outlast the tensor's own reference to it
    DLDataType dtype;
    const void* data;
    std::vector<int64_t> layout;  // extents and strides
  };

  static bool is_unchanged(const NumpyEntry& entry);
  static bool is_unchanged(const TorchEntry& entry);
  [[noreturn]] static void refuse(const NumpyEntry& entry, const char* why);
  [[noreturn]] static void refuse_moved(const std::string& name, const char* why);
  void add_numpy(py::handle object, std::string name, bool written);
  bool add_torch(py::handle object, std::string name);

  std::vector<NumpyEntry> numpy_;
  std::vector<TorchEntry> torch_;
  bool is_cleared_ = false;
};

}  // namespace lrcore
