// Converts callers' arrays to checked flat float32 views, and throws for arrays that a step cannot use.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "import.h"

namespace lrcore {

enum class Access { read, write };

/// A flat view of `size` floats, and the owner that keeps its memory alive.
class Array {
 public:
  /// Imports `object` through DLPack without copying. `name` is the name of the argument, for messages. The exporter of
  /// a device array must make the array safe to use on `stream`, unless `stream` is -1.
  ///
  /// Throws the exceptions of `import_array`; TypeError if `object` is not a float32 array, if it is a zero tensor of
  /// torch, or if `access` is `write` and the exporter does not declare `object` writable; and ValueError if its layout
  /// or alignment is wrong, if it has no memory for another reason, or if it is read-only and `access` is `write`.
  static Array import(py::handle object, std::string name, Access access, int64_t stream = -1);

  const std::string& name() const { return name_; }
  float* data() const { return data_; }
  int64_t size() const { return size_; }
  Device device() const { return device_; }
  /// Throws the exceptions of an import with `Access::write` if the array was not writable when it was imported.
  void require_writable() const;
  bool overlaps(const Array& other) const;
  /// Whether the shapes are equal, ignoring dimensions of size 1, or one of the arrays is flat.
  bool has_shape_of(const Array& other) const;
  /// Returns the shape as Python prints it.
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
  std::optional<bool> writable_;    // no value if the exporter did not declare it
  const int64_t* shape_ = nullptr;  // valid if ndim_ > 1; points into the owner or shape_copy_
  int ndim_ = 0;
  std::vector<int64_t> shape_copy_;
};

/// Throws RuntimeError unless both arrays are on the same device.
void require_same_device(const Array& array, const Array& params);

/// Throws ValueError unless both arrays have the same number of elements, and the same shape if neither is flat.
void require_same_size(const Array& array, const Array& params);

/// Throws ValueError if the arrays share memory.
void require_disjoint(const Array& array, const Array& written);

}  // namespace lrcore
