// The Stepper: what an optimizer owns beside its Python face. Views, step count, learning rate, hyperparameters, lock.
#pragma once

#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "../constants.h"
#include "array.h"

namespace lrcore {

/// Step numbers are exact as doubles up to here.
inline constexpr int64_t max_step = (int64_t{1} << 53) - 1;

/// A rule with its numbers.
struct Recipe {
  int rule;
  std::array<double, max_hypers> hypers;
  double weight_decay;
  bool decoupled;
  bool maximize;

  /// `hypers` in the order of the rule's names.
  Recipe(const std::string& rule_name, const std::vector<double>& hypers, double weight_decay, bool decoupled,
         bool maximize);

  const RuleInfo& info() const { return rule_infos()[static_cast<size_t>(rule)]; }
  void set_hypers(const std::vector<double>& values);

  /// The step's constants, folded in the default floating-point mode.
  void fold(Step& step, const Clock& now, Memo& memo, double grad_scale) const;
  /// Runs the folded step over n elements.
  void sweep(const Step& step, int64_t n) const;
};

/// The arrays of one step, checked against each other.
struct Operands {
  Array params;
  std::vector<Array> states;

  Operands(py::handle params, const py::sequence& states, const Names& names);
  /// ValueError unless `grads` fits.
  void require_fit(const Array& grads) const;
  Step step(const Array& grads) const;
};

/// ValueError unless `lr` is finite and not negative, in float32 too. `asked_at` is the t that a schedule was asked at.
double checked_rate(double lr, std::optional<int64_t> asked_at = std::nullopt);
/// ValueError unless `grad_scale` is finite in float32.
double checked_grad_scale(double grad_scale);

class Stepper {
 public:
  Stepper(py::handle params, const py::sequence& states, py::handle grads, Recipe recipe, py::object lr);

  /// Takes one step with `grads`, or with the bound ones when it is None.
  void step(py::handle grads, double grad_scale, py::handle stream);

  /// Takes step number `t` with this optimizer's rule and numbers on arrays that the caller keeps.
  void apply(py::handle params, py::handle grads, const py::sequence& states, int64_t t, double lr,
             double grad_scale) const;

  int64_t step_count() const { return count_.load(std::memory_order_acquire); }
  void set_step_count(int64_t count);
  void set_hypers(const std::vector<double>& hypers, double weight_decay);
  /// A number, or a callable that is asked with the number of steps taken before.
  void set_lr(py::object lr);
  py::object lr() const { return lr_; }

  /// Copies the states into `states` and gives the step count that goes with them.
  int64_t snapshot(const py::sequence& states);
  /// Replaces states, step count, hyperparameters and rate together.
  void restore(const py::sequence& states, int64_t count, const std::vector<double>& hypers, double weight_decay,
               py::object lr);

  int64_t size() const { return operands_.params.size(); }
  const char* rule() const { return recipe_.info().name; }

 private:
  class Turn;

  double rate(int64_t count) const;
  std::vector<Array> import_states(const py::sequence& states, Access access) const;

  Operands operands_;
  std::optional<Array> grads_;
  Recipe recipe_;
  py::object lr_;
  Memo memo_;
  std::atomic<int64_t> count_{0};
  std::mutex mutex_;
  std::atomic<const void*> owner_{nullptr};
};

}  // namespace lrcore
