#include "sums.h"

#include <span>

#include "../cpu/sums.h"
#include "../dispatch.h"
#include "../sums/tree.h"
#include "gil.h"

namespace lrcore {
namespace {

/// Returns the sums of units on a device. A launch per unit writes the sums of its leaves, which the host then adds.
std::vector<double> sum_on_device(std::span<const cpu::Unit> units, Device device, const CudaStream& stream) {
  const cuda::Api& api = cuda_api();
  int64_t leaves = 0;
  for (const cpu::Unit& unit : units) leaves += sums::leaves_of(unit.n);
  std::vector<double> of_leaves(static_cast<size_t>(leaves)), totals;
  const auto bytes = leaves * static_cast<int64_t>(sizeof(double));
  const DeviceMemory memory(api, device, bytes);
  const GilRelease unlocked;
  {
    const CurrentDevice current(api, device);
    int capturing = 0;
    check_cuda(api, api.is_capturing(stream.handle, &capturing), "querying the stream");
    if (capturing != 0) throw std::runtime_error("the stream is being captured, but a sum waits for its result");
    auto* at = static_cast<double*>(memory.data());
    for (const cpu::Unit& unit : units) {
      check_cuda(api, api.leaf_sums(unit.x, unit.y, unit.n, at, stream.handle), "launching the sum");
      at += sums::leaves_of(unit.n);
    }
    if (bytes > 0) check_cuda(api, api.copy(of_leaves.data(), memory.data(), bytes), "copying the sum");
  }
  double* at = of_leaves.data();
  for (const cpu::Unit& unit : units) {
    totals.push_back(sums::add_leaves(at, sums::leaves_of(unit.n)));
    at += sums::leaves_of(unit.n);
  }
  return totals;
}

std::vector<double> sum(std::span<const cpu::Unit> units, Device device, const CudaStream& stream) {
  if (!device.on_cpu()) return sum_on_device(units, device, stream);
  std::vector<double> totals(units.size());
  const GilRelease unlocked;
  cpu::sum_units(active_backend().table->leaf_sums, units, totals.data());
  return totals;
}

CudaStream stream_of(const Array& x, py::handle object, py::handle other) {
  if (x.device().on_cpu()) return {};
  return resolve_stream(x.device(), library_of(object), py::none(), other);
}

}  // namespace

double dot(py::handle x_object, py::handle y_object) {
  const Array x = Array::import(x_object, "x", Access::read);
  const CudaStream stream = stream_of(x, x_object, y_object);
  const Array y = Array::import(y_object, "y", Access::read, stream.dlpack_stream);
  require_same_device(y, x);
  require_same_size(y, x);
  const cpu::Unit unit{.x = x.data(), .y = y.data(), .n = x.size()};
  return sum({&unit, 1}, x.device(), stream).front();
}

std::vector<double> sums_of_squares(const py::sequence& objects) {
  std::vector<Array> arrays;
  std::vector<cpu::Unit> units;
  for (const auto& object : objects) {
    const Array& x = arrays.emplace_back(Array::import(object, text("arrays[", arrays.size(), "]"), Access::read));
    require_same_device(x, arrays.front());
    units.push_back({.x = x.data(), .y = x.data(), .n = x.size()});
  }
  if (arrays.empty()) return {};
  const py::object first(objects[0]);
  return sum(units, arrays.front().device(), stream_of(arrays.front(), first, first));
}

}  // namespace lrcore
