// The torch tensors that make up an optimizer's parameters, and their gradients, which are read where they lie.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "../sums/units.h"
#include "operands.h"
#include "partition.h"

namespace lrcore {

/// Throws RuntimeError, naming the tensor, if its gradient cannot be zeroed, because PyTorch cannot detach it in place.
void require_detachable(py::handle gradient, const std::string& name);

/// Tensors that are views of the flat parameters, in the order of their elements.
class Tensors {
 public:
  struct Gradients {
    std::vector<py::object> of_tensors;  // the gradient of each tensor, a copy of it, or None
    /// Those that PyTorch has to zero, because the step reads a copy of them, or because they may belong to a graph.
    py::list for_torch;
  };

  /// `names` are for messages, and `views` are the parts of the flat parameters that the tensors must be at each step,
  /// from the elements `begins` on. If a step cannot read a gradient where it lies, `fitting` is called with the index
  /// of the tensor and the gradient; it returns a copy that a step can read, or raises the error. `zero` is called with
  /// a list of gradients to be zeroed. Throws TypeError for other arrays than torch tensors.
  Tensors(const std::vector<std::string>& names, const std::vector<py::object>& tensors,
          const std::vector<py::object>& views, const std::vector<int64_t>& begins, py::object fitting,
          py::object zero);

  /// Throws RuntimeError with the message "name: why" if a tensor is no longer its view. Runs no Python code.
  void check(const char* why) const;
  /// Returns the gradients that the tensors have, for a step that may zero them. May run Python code.
  Gradients read(bool zeroes_grads);
  /// Finds the memory of gradients, and returns whether a step can read all of them in place, or read and then zero
  /// them. Runs no Python code.
  bool locate(const Gradients& gradients, const Operands& operands, bool zeroes_grads);
  /// Replaces the gradients that cannot be read in place, according to `locate`, by copies. Runs Python code.
  void fit(Gradients& gradients);

  /// Whether other tensors have gradients than when the segments were split.
  bool has_changed() const { return has_gradient_ != used_; }
  /// Returns the elements of the tensors without a gradient, in order, each with the padding that follows the tensor.
  /// `size` is the number of parameters.
  std::vector<Range> idle(int64_t size) const;
  /// Returns the elements of each tensor that has some.
  std::vector<sums::Elements> units() const;
  /// Splits the segments of a step, so that each one is part of one tensor.
  void split(std::span<const Segment> segments);
  const std::vector<Segment>& segments() const { return segments_; }
  /// Returns the gradients of each segment.
  std::span<const Stream> gradients();

  /// Informs autograd that the tensors that took part in the last step, or all tensors, have changed. Runs Python code.
  void raise_versions(bool of_all) const;
  /// Completes the zeroing of gradients: zeroes those that PyTorch has to, and informs autograd about the others. Runs
  /// Python code.
  void finish_zeroing(const Gradients& gradients) const;

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  struct Tensor {
    std::string name;
    py::object object;
    const DLPackExchangeAPI* api;
    DLDevice device;
    const void* data;
    std::vector<int64_t> layout;  // extents and strides
    int64_t begin, end;
    const PyObject* last_gradient;  // its address in the last call of `read`
    py::object known_gradient;      // a weak reference to it, or null
    const void* known_data;         // the memory of the known gradient, or null before it was located

    const void* address_of(py::handle other) const;
    bool is_known(py::handle gradient);
  };

  bool are_disjoint();

  std::vector<Tensor> tensors_;
  py::object objects_;  // a list of the tensors
  py::object fitting_;
  py::object zero_;
  std::vector<const void*> addresses_;  // of the gradients; null for those that do not fit
  std::vector<bool> has_gradient_;
  std::vector<bool> used_;  // `has_gradient_` when the segments were split
  std::vector<Segment> segments_;
  std::vector<size_t> of_segment_;  // the tensor of each segment
  std::vector<Stream> gradients_;   // of each segment
};

}  // namespace lrcore
