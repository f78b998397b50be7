// Arrays that stay bound: whether their memory is still what it was, and the owners that keep it alive.
#pragma once

#include <string>
#include <vector>

#include "array.h"

namespace lrcore {

/// RuntimeError if the memory of an array of NumPy or torch is no longer that which was imported from it in this call:
/// a schedule, an exporter or another thread may have replaced it since. Needs the GIL and runs no Python code.
void require_in_place(py::handle object, const Array& array);
/// Likewise of several arrays.
void require_in_place(const py::sequence& objects, const std::vector<Array>& arrays);

/// Compares bound arrays with what they were. NumPy and torch may put other memory under an array that somebody holds
/// (`ndarray.resize`, `tensor.data = ...`, `set_`, `share_memory_`), and a step would write to memory that is freed.
///
/// What is watched is held as a Python object, which the garbage collector sees into: an array may hold the optimizer
/// that holds it.
class Watch {
 public:
  Watch() = default;
  /// Lets go of what it holds. Needs the GIL.
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// Watches an array of any dtype and layout, if it is one of NumPy or torch; returns whether it is. `written` arrays
  /// have to stay writable.
  bool add(py::handle object, std::string name, bool written);
  /// Watches the array that was imported from `object`, and takes over from its owner: releases that.
  void add(py::handle object, Array& array, bool written);

  /// Throws unless all is as it was: RuntimeError `name`: `why` where memory, size or layout differ, ValueError where a
  /// written array has become read-only. Needs the GIL, runs no Python code and allocates nothing unless it throws.
  void check(const char* why) const {
    for (const NumpyEntry& entry : numpy_)
      if (!is_unchanged(entry)) refuse(entry, why);
    for (const TorchEntry& entry : torch_)
      if (!is_unchanged(entry)) refuse_moved(entry.name, why);
    if (is_cleared_) refuse_moved("params", why);
  }
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
    int flags;  // those that must stay
  };
  struct TorchEntry {
    std::string name;
    py::object tensor;
    const DLPackExchangeAPI* api;
    py::object storage;  // a step without the GIL may outlast the tensor's own hold on it
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
