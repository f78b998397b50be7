#include "operands.h"

#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <cstring>

#include "../cpu/run.h"
#include "../dispatch.h"
#include "gil.h"

namespace lrcore {
namespace {

Stream stream_of(const Array& array) { return {.data = array.data(), .format = Format::float32}; }

void copy(const Array& from, const Array& to, const cuda::Api* api) {
  const int64_t bytes = from.size() * static_cast<int64_t>(sizeof(float));
  if (bytes == 0) return;
  if (from.device().on_cpu() && to.device().on_cpu()) {
    std::memmove(to.data(), from.data(), static_cast<size_t>(bytes));
    return;
  }
  if (!from.device().on_cpu() && !to.device().on_cpu() && from.device() != to.device()) {
    const CurrentDevice source(*api, from.device());
    check_cuda(*api, api->synchronize(), "waiting for the state");
  }
  const CurrentDevice current(*api, to.device().on_cpu() ? from.device() : to.device());
  check_cuda(*api, api->copy(to.data(), from.data(), bytes), "copying the state");
}

}  // namespace

py::tuple checked_list(py::handle grads) {
  py::tuple list(py::reinterpret_borrow<py::sequence>(grads));
  if (list.empty()) throw py::value_error(text("grads: expected at least one array, got an empty ", type_name(grads)));
  return list;
}

std::vector<Stream> streams_of(const std::vector<Array>& gradients) {
  std::vector<Stream> streams;
  if (gradients.size() > 1)
    for (const Array& each : gradients) streams.push_back(stream_of(each));
  return streams;
}

std::vector<Array> import_states(const py::sequence& states, const Names& names, const Array& params, Access access) {
  if (static_cast<int>(states.size()) != names.count)
    throw py::type_error(text("states: expected ", names.count, " arrays", names.count ? " (" : "", joined(names),
                              names.count ? ")" : "", ", got ", states.size()));
  std::vector<Array> arrays;
  for (int i = 0; i < names.count; ++i) {
    arrays.push_back(Array::import(py::object(states[static_cast<size_t>(i)]), names.text[i], access));
    require_same_size(arrays.back(), params);
  }
  return arrays;
}

void require_uncrossed(const std::vector<Array>& arrays, const std::vector<Array>& written) {
  for (size_t i = 0; i < arrays.size(); ++i)
    for (size_t j = 0; j < written.size(); ++j)
      if (i != j) require_disjoint(arrays[i], written[j]);
}

void require_same_or_disjoint(const std::vector<Array>& arrays) {
  for (size_t i = 1; i < arrays.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (arrays[i].data() != arrays[j].data()) require_disjoint(arrays[i], arrays[j]);
}

void copy_all(std::span<const Array> from, std::span<const Array> to) {
  const auto on_device = [](const Array& array) { return !array.device().on_cpu(); };
  const bool any = std::ranges::any_of(from, on_device) || std::ranges::any_of(to, on_device);
  const cuda::Api* api = any ? &cuda_api() : nullptr;
  const GilRelease unlocked;
  for (size_t k = 0; k < from.size(); ++k) copy(from[k], to[k], api);
}

py::object tensors_among(py::handle params, const py::sequence& states) {
  if (!torch_type_of(params)) return {};
  py::list tensors;
  tensors.append(params);
  for (const auto& state : states)
    if (torch_type_of(state)) tensors.append(state);
  return tensors;
}

void raise_versions_of(const py::object& tensors) {
  if (!tensors) return;
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> increment;
  increment.call_once_and_store_result(
      [] { return py::object(py::module_::import("torch.autograd.graph").attr("increment_version")); });
  increment.get_stored()(tensors);
}

Operands::Operands(py::handle params_object, const py::sequence& state_objects, const Names& of_rule, bool averages)
    : params(Array::import(params_object, "params", Access::write)),
      has_average(averages),
      state_names(averages ? of_rule + Names("ema") : of_rule),
      states(import_states(state_objects, state_names, params, Access::write)),
      library(device().on_cpu() ? py::none() : library_of(params_object)),
      api(device().on_cpu() ? nullptr : &cuda_api()) {
  for (const Array& state : states) {
    require_same_device(state, params);
    require_disjoint(state, params);
  }
  require_uncrossed(states, states);
}

bool Operands::is_capturing(const CudaStream& stream) const {
  if (api == nullptr) return false;
  int capturing = 0;
  const CurrentDevice current(*api, device());
  return api->is_capturing(stream.handle, &capturing) == 0 && capturing != 0;
}

void Operands::refuse_capture(const CudaStream& stream) const {
  if (is_capturing(stream))
    throw std::runtime_error(
        "the stream is being captured, but a graph would repeat this step's learning rate and step number; make an "
        "optimizer with capturable=True");
}

Array Operands::gradients(py::handle object, const CudaStream& stream, const char* name, Access access) const {
  Array grads = Array::import(object, name, access, stream.dlpack_stream);
  require_same_device(grads, params);
  require_same_size(grads, params);
  require_disjoint(grads, params);
  for (const Array& state : states) require_disjoint(grads, state);
  return grads;
}

Step Operands::step(const Array& grads, bool zeroes_grads) const {
  Step step{.p = stream_of(params),
            .g = stream_of(grads),
            .states = {},
            .average = {},
            .origin = 0,
            .averaging = 0,
            .zeroes_grads = zeroes_grads};
  for (int k = 0; k < states_of_rule(); ++k) step.states[k] = stream_of(states[static_cast<size_t>(k)]);
  if (has_average) step.average = stream_of(states.back());
  return step;
}

void Operands::run(int rule, const Plan& plan, const CudaStream& stream, const cuda::Table& table,
                   const DeviceSegments* on_device) const {
  if (plan.segments.empty()) return;
  if (api == nullptr) return cpu::run(*active_backend().table, rule, plan);
  const CurrentDevice current(*api, device());
  cuda::Job job = this->job(plan, stream, table, on_device);
  const GradientList list(*api, plan.added, stream, job);
  launch(rule, job, stream);
}

cuda::Job Operands::job(const Plan& plan, const CudaStream& stream, const cuda::Table& table,
                        const DeviceSegments* on_device) const {
  if (plan.segments.empty()) return {};
  if (plan.segments.size() == 1) {
    const Segment& whole = plan.segments.front();
    const Constants& row = plan.rows[static_cast<size_t>(whole.row)];
    Step step = plan.step;
    if (!plan.gradients.empty()) step.g = plan.gradients.front();
    return cuda::make_job(step, chunk_width(plan), row, table, whole);
  }
  const bool has_gradients = !plan.gradients.empty();
  if (has_gradients) on_device->write_gradients(plan.gradients, stream.handle);
  if (table.rows != nullptr) return on_device->job(plan.step, plan.rows.front().stages.gscale, table, has_gradients);
  return on_device->job(plan.step, 1, on_device->write_rows(plan.rows, stream.handle), has_gradients);
}

int Operands::chunk_width(const Plan& plan) const {
  if (!plan.added.empty()) return cuda::Vec1::width;
  return cuda::chunk_width(plan.step, states_of_rule(), plan.gradients.data(), std::ssize(plan.gradients));
}

void Operands::launch(int rule, const cuda::Job& job, const CudaStream& stream) const {
  if (job.blocks > 0) check_cuda(*api, api->launch(rule, &job, stream.handle), "launching the step");
}

void Operands::zero_gradients(int rule, const Plan& plan, const CudaStream& stream,
                              const DeviceSegments* on_device) const {
  if (api == nullptr) return cpu::zero_gradients(plan);
  const CurrentDevice current(*api, device());
  cuda::Job job = this->job(plan, stream, {}, on_device);
  job.is_skipped = true;
  const GradientList list(*api, plan.added, stream, job);
  launch(rule, job, stream);
}

GradientList::GradientList(const cuda::Api& api, std::span<const Stream> gradients, const CudaStream& stream,
                           cuda::Job& job) {
  static_assert(sizeof(Stream) == 16);
  if (gradients.empty()) return;
  memory_.emplace(api, static_cast<int64_t>(gradients.size_bytes()), stream.handle);
  job.added = static_cast<const Stream*>(memory_->data());
  job.added_count = std::ssize(gradients);
  check_cuda(api, api.write(memory_->data(), gradients.data(), job.added_count, stream.handle),
             "writing the list of gradients");
}

}  // namespace lrcore
