#include "device_array.h"

#include "dlpack.h"
#include "gil.h"

namespace lrcore {
namespace {

/// The contents of a capsule: the managed tensor, and the data it points to.
template <class Managed>
struct Export {
  Managed managed{};
  std::shared_ptr<DeviceMemory> memory;
  int64_t size;
  int64_t stride = 1;
};

/// The name of a capsule for each type of tensor.
template <class Managed>
constexpr const char* capsule_name = "dltensor";
template <>
constexpr const char* capsule_name<DLManagedTensorVersioned> = "dltensor_versioned";

template <class Managed>
py::capsule make_capsule(const std::shared_ptr<DeviceMemory>& memory, float* data, int64_t size) {
  auto exported = std::make_unique<Export<Managed>>();
  exported->memory = memory;
  exported->size = size;
  Managed& managed = exported->managed;
  if constexpr (std::is_same_v<Managed, DLManagedTensorVersioned>)
    managed.version = {DLPACK_MAJOR_VERSION, DLPACK_MINOR_VERSION};
  managed.dl_tensor = {.data = data,
                       .device = {kDLCUDA, memory->device().cuda},
                       .ndim = 1,
                       .dtype = {kDLFloat, 32, 1},
                       .shape = &exported->size,
                       .strides = &exported->stride,
                       .byte_offset = 0};
  managed.manager_ctx = exported.get();
  managed.deleter = [](Managed* used) { delete static_cast<Export<Managed>*>(used->manager_ctx); };

  py::capsule capsule(&managed, capsule_name<Managed>, [](PyObject* unused) {
    if (!PyCapsule_IsValid(unused, capsule_name<Managed>)) return;  // a consumer has taken the tensor
    auto* left = static_cast<Managed*>(PyCapsule_GetPointer(unused, capsule_name<Managed>));
    left->deleter(left);
  });
  exported.release();
  return capsule;
}

}  // namespace

DeviceArray::DeviceArray(int device, int64_t size, int64_t offset, float value)
    : memory_(std::make_shared<DeviceMemory>(cuda_api(), Device{device}, size == 0 ? 0 : size * 4 + offset)),
      data_(reinterpret_cast<float*>(static_cast<char*>(memory_->data()) + (size == 0 ? 0 : offset))),
      size_(size) {
  if (size_ == 0) return;
  const cuda::Api& api = cuda_api();
  const GilRelease unlocked;
  const CurrentDevice current(api, memory_->device());
  check_cuda(api, api.fill(data_, value, size_), "filling the state");
}

py::tuple DeviceArray::dlpack_device() const { return py::make_tuple(int{kDLCUDA}, memory_->device().cuda); }

py::capsule DeviceArray::dlpack(py::handle max_version, py::handle dl_device, py::handle copy) const {
  if (!dl_device.is_none() && !dlpack_device().equal(dl_device))
    throw py::buffer_error("dl_device: the array cannot be moved to another device");
  if (!copy.is_none() && py::bool_(py::reinterpret_borrow<py::object>(copy)))
    throw py::buffer_error("copy: the array cannot be copied when it is exported");
  const bool versioned =
      !max_version.is_none() &&
      py::tuple(py::reinterpret_borrow<py::object>(max_version))[0].cast<int64_t>() >= DLPACK_MAJOR_VERSION;
  return versioned ? make_capsule<DLManagedTensorVersioned>(memory_, data_, size_)
                   : make_capsule<DLManagedTensor>(memory_, data_, size_);
}

}  // namespace lrcore
