// The arrays of one step together, and the step on them.
#pragma once

#include <span>
#include <vector>

#include "array.h"
#include "rule_config.h"

namespace lrcore {

/// The arrays of one step, checked against each other, and their device.
struct Operands {
  Array params;
  std::vector<Array> states;
  py::object library;    // of the parameters, for its current stream
  const cuda::Api* api;  // null on the CPU

  Operands(py::handle params, const py::sequence& states, const Names& names);
  Device device() const { return params.device(); }
  /// Returns the stream of a step with `grads`: `requested` or the current one.
  Stream stream(py::handle requested, py::handle grads) const;
  /// Whether the stream is recording a CUDA graph.
  bool is_capturing(const Stream& stream) const;
  /// Throws RuntimeError if it is.
  void refuse_capture(const Stream& stream) const;
  /// The gradients as an array that fits, safe to read on `stream`.
  Array gradients(py::handle grads, const Stream& stream) const;
  Step step(const Array& grads) const;
  /// Runs the step, on the CPU at once or as a launch on `stream`. Does not require the GIL.
  void run_step(const RuleConfig& config, const Step& step, const Stream& stream, const cuda::Table& table = {}) const;
};

/// Imports the states that `names` lists, of as many elements as `params`.
std::vector<Array> import_states(const py::sequence& states, const Names& names, const Array& params, Access access);

/// ValueError where an array shares memory with another's counterpart.
void require_uncrossed(const std::vector<Array>& arrays, const std::vector<Array>& written);

/// Copies each array to its counterpart, between the CPU and any device; waits for its end.
void copy_all(std::span<const Array> from, std::span<const Array> to);

/// Returns those of the arrays that are tensors of torch, as a list; null if there are none.
py::object tensors_among(py::handle params, const py::sequence& states);

/// Raises autograd's version of a list of tensors, or of none.
void raise_versions_of(const py::object& tensors);

}  // namespace lrcore
