// Arrays as callers pass them -> checked flat float32 views. Every refusal of an array is worded here.
#pragma once

#include <string>
#include <vector>

#include "import.h"

namespace lrcore {

enum class Access { read, write };

/// A flat view of `size` floats, and the owner that keeps their memory alive.
class Array {
 public:
  /// Imports `object` through DLPack without copying. `name` is the argument's, for messages. The exporter of a device
  /// array is asked to make it safe for `stream`, -1 for none.
  ///
  /// Throws TypeError if `object` is not a float32 array, ValueError for a layout, an alignment, missing memory or a
  /// read-only buffer that cannot be used as `access` asks, RuntimeError for a device that cannot be used.
  static Array import(py::handle object, std::string name, Access access, int64_t stream = -1);

  const std::string& name() const { return name_; }
  float* data() const { return data_; }
  int64_t size() const { return size_; }
  Device device() const { return device_; }
  bool overlaps(const Array& other) const;
  /// Whether both have the same extents beside those of 1, or one of them is flat.
  bool has_shape_of(const Array& other) const;
  /// The shape as Python prints it.
  std::string shape() const;
  /// Releases the owner, but not the root: the caller keeps the array itself alive from now on.
  void release_owner();

 private:
  Array(std::string name, Device device, Owner owner)
      : name_(std::move(name)), device_(device), owner_(std::move(owner)) {}

  std::string name_;
  Device device_;
  Owner owner_;
  Root root_;
  float* data_ = nullptr;
  int64_t size_ = 0;
  const int64_t* shape_ = nullptr;  // of more than one dimension; the owner's, or the copy
  int ndim_ = 0;
  std::vector<int64_t> shape_copy_;
};

/// RuntimeError unless both are on the same device.
void require_same_device(const Array& array, const Array& params);

/// ValueError unless both have as many elements, and the same shape where neither is flat.
void require_same_size(const Array& array, const Array& params);

/// ValueError if the two share memory.
void require_disjoint(const Array& array, const Array& written);

}  // namespace lrcore
