// Imports and checks the arrays of one step, and runs the step.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "array.h"
#include "device_segments.h"
#include "rule_config.h"

namespace lrcore {

/// The arrays of one step, checked against each other, and their device.
struct Operands {
  Array params;
  bool has_average;
  Names state_names;  // those of the rule, followed by "ema" if the parameters are averaged
  std::vector<Array> states;
  py::object library;    // of the parameters; steps use its current stream
  const cuda::Api* api;  // null on the CPU

  /// The states are those listed in `of_rule`, followed by the average of the parameters if there is one.
  Operands(py::handle params, const py::sequence& states, const Names& of_rule, bool has_average = false);
  Device device() const { return params.device(); }
  int states_of_rule() const { return state_names.count - (has_average ? 1 : 0); }
  /// Returns the stream of a step with `grads`: `requested` if it is not None, else the current stream.
  CudaStream stream(py::handle requested, py::handle grads) const {
    if (api == nullptr && requested.is_none()) return {};
    return resolve_stream(device(), library, requested, grads);
  }
  /// Whether the stream is recording a CUDA graph.
  bool is_capturing(const CudaStream& stream) const;
  /// Throws RuntimeError if the stream is recording a CUDA graph.
  void refuse_capture(const CudaStream& stream) const;
  /// Imports gradients, which must match the other arrays. They are safe to read on `stream`. `name` is for messages.
  Array gradients(py::handle grads, const CudaStream& stream, const char* name = "grads",
                  Access access = Access::read) const;
  /// Returns the arrays of a step, with `Step::averaging` 0.
  Step step(const Array& grads, bool zeroes_grads = false) const;
  /// Runs a step of a rule, either immediately on the CPU or as a launch on `stream`. Does not require the GIL.
  ///
  /// On a device, the constants of the step are in `table` if it has rows; then the rows of the plan have only gscale.
  /// A plan with several segments requires `on_device`, which holds them.
  void run(int rule, const Plan& plan, const CudaStream& stream, const cuda::Table& table = {},
           const DeviceSegments* on_device = nullptr) const;

  /// Returns the number of elements in each chunk of a step on a device, one if the plan adds gradients.
  int chunk_width(const Plan& plan) const;
  /// Returns the job of the same step on a device, which must be current, and queues what the job reads on `stream`. It
  /// has no blocks if the plan has no segments.
  cuda::Job job(const Plan& plan, const CudaStream& stream, const cuda::Table& table,
                const DeviceSegments* on_device) const;
  /// Queues a job on `stream`. The device must be current.
  void launch(int rule, const cuda::Job& job, const CudaStream& stream) const;
  /// Zeroes the gradients that a step would read, either immediately on the CPU or as a launch on `stream`. Does not
  /// require the GIL.
  void zero_gradients(int rule, const Plan& plan, const CudaStream& stream, const DeviceSegments* on_device) const;
};

/// The list of gradients that a job adds, in the memory of the current device while this object exists.
class GradientList {
 public:
  /// Queues a copy of the list on `stream`, and enters it into the job. Does nothing if the list is empty.
  GradientList(const cuda::Api& api, std::span<const Stream> gradients, const CudaStream& stream, cuda::Job& job);

 private:
  std::optional<StreamMemory> memory_;
};

/// Whether the gradients of a step are a list or a tuple of gradients, which are added.
inline bool are_several(py::handle grads) { return PyList_Check(grads.ptr()) || PyTuple_Check(grads.ptr()); }

/// Returns a copy of a list of gradients to be added, because Python code that imports one of them can change the list.
/// Throws ValueError if it is empty.
py::tuple checked_list(py::handle grads);

/// Returns the gradients that a step adds; none if there is only one array.
std::vector<Stream> streams_of(const std::vector<Array>& gradients);

/// Throws ValueError if two arrays share memory and are not the same array.
void require_same_or_disjoint(const std::vector<Array>& arrays);

/// Imports the states listed in `names`. Each must have as many elements as `params`.
std::vector<Array> import_states(const py::sequence& states, const Names& names, const Array& params, Access access);

/// Throws ValueError if an array shares memory with the counterpart of another array.
void require_uncrossed(const std::vector<Array>& arrays, const std::vector<Array>& written);

/// Copies each array to its counterpart, on the CPU or any device, and waits for completion.
void copy_all(std::span<const Array> from, std::span<const Array> to);

/// Returns a list of `params` and the torch tensors among `states`; null if `params` is not a torch tensor.
py::object tensors_among(py::handle params, const py::sequence& states);

/// Increments the autograd versions of the tensors in a list; no-op if the list is null.
void raise_versions_of(const py::object& tensors);

}  // namespace lrcore
