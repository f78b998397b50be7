// Arrays as callers pass them -> checked flat float32 views. Every refusal of an array is worded here.
#pragma once

#include <memory>
#include <string>

#include "arguments.h"

namespace lrcore {

enum class Access { read, write };

/// A managed tensor, and how to let go of it.
using Hold = std::unique_ptr<void, void (*)(void*)>;

/// Prepares what every import needs; called once when the module is made.
void prepare_imports();

/// A flat view of `size` floats, and the hold that keeps their memory alive.
class Array {
 public:
  /// Imports `object` through DLPack without copying. `name` is the argument's, for messages.
  ///
  /// Throws TypeError for what is no float32 array, ValueError for a layout, an alignment or a read-only buffer that
  /// cannot be used as `access` asks, RuntimeError for a device without a backend.
  static Array import(py::handle object, std::string name, Access access);

  const std::string& name() const { return name_; }
  float* data() const { return data_; }
  int64_t size() const { return size_; }
  bool overlaps(const Array& other) const;

 private:
  Array(std::string name, Hold hold) : name_(std::move(name)), hold_(std::move(hold)) {}

  std::string name_;
  Hold hold_;
  float* data_ = nullptr;
  int64_t size_ = 0;
};

/// ValueError unless both have one length.
void require_same_size(const Array& array, const Array& params);

/// ValueError if the two share memory.
void require_disjoint(const Array& array, const Array& written);

}  // namespace lrcore
