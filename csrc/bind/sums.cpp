#include "sums.h"

#include <span>

#include "../cpu/sums.h"
#include "../dispatch.h"
#include "gil.h"

namespace lrcore {
namespace {

/// Writes the sums of the leaves, with a launch for each unit.
void sum_leaves_on_device(std::span<const cpu::Terms> terms, int64_t leaves, Device device, const CudaStream& stream,
                          double* leaf_sums) {
  const cuda::Api& api = cuda_api();
  const auto bytes = leaves * static_cast<int64_t>(sizeof(double));
  const DeviceMemory memory(api, device, bytes);
  const GilRelease unlocked;
  const CurrentDevice current(api, device);
  int capturing = 0;
  check_cuda(api, api.is_capturing(stream.handle, &capturing), "querying the stream");
  if (capturing != 0) throw std::runtime_error("the stream is being captured, but a sum waits for its result");
  auto* at = static_cast<double*>(memory.data());
  for (const auto& [x, y, elements, _] : terms) {
    const int64_t begin = elements.begin, n = elements.size();
    check_cuda(api, api.leaf_sums(x + begin, y + begin, n, at, stream.handle), "launching the sum");
    at += sums::leaves_of(n);
  }
  if (bytes > 0) check_cuda(api, api.copy(leaf_sums, memory.data(), bytes), "copying the sum");
}

/// Returns the sum of each of the terms.
std::vector<double> sum(std::span<const cpu::Terms> terms, Device device, const CudaStream& stream) {
  std::vector<sums::Elements> elements;
  for (const cpu::Terms& each : terms) elements.push_back(each.elements);
  const sums::Units units(std::move(elements));
  std::vector<double> leaf_sums(static_cast<size_t>(units.leaves())), totals(terms.size());
  if (!device.on_cpu()) sum_leaves_on_device(terms, units.leaves(), device, stream, leaf_sums.data());
  const GilRelease unlocked;
  if (device.on_cpu()) cpu::sum_leaves(*active_backend().table, units, terms, leaf_sums.data());
  cpu::add_up(units, leaf_sums.data(), totals.data());
  return totals;
}

/// Returns the terms of an array of n elements, which come after `before` elements of other arrays.
cpu::Terms terms_of(const float* x, const float* y, int64_t n, int64_t before) {
  const auto from_zero = [=](const float* array) {
    const Stream part{.data = const_cast<float*>(array), .format = Format::float32};
    return elements<const float>(shifted(part, before));
  };
  return {.x = from_zero(x), .y = from_zero(y), .elements = {.begin = before, .end = before + n}};
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
  const cpu::Terms terms = terms_of(x.data(), y.data(), x.size(), 0);
  return sum({&terms, 1}, x.device(), stream).front();
}

double norm(py::handle object) {
  const Array x = Array::import(object, "x", Access::read);
  const cpu::Terms terms = terms_of(x.data(), x.data(), x.size(), 0);
  std::vector<double> squares = sum({&terms, 1}, x.device(), stream_of(x, object, object));
  return cpu::norm(squares);
}

std::vector<double> norms(const py::sequence& objects) {
  std::vector<Array> arrays;
  std::vector<cpu::Terms> terms;
  int64_t before = 0;
  for (const auto& object : objects) {
    const Array& x = arrays.emplace_back(Array::import(object, text("arrays[", arrays.size(), "]"), Access::read));
    require_same_device(x, arrays.front());
    terms.push_back(terms_of(x.data(), x.data(), x.size(), before));
    before += x.size();
  }
  if (arrays.empty()) return {};
  const py::object first(objects[0]);
  std::vector<double> found = sum(terms, arrays.front().device(), stream_of(arrays.front(), first, first));
  for (double& each : found) each = cpu::norm({&each, 1});
  return found;
}

}  // namespace lrcore
