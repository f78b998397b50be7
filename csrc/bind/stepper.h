// The Stepper: what an optimizer owns beside its Python face. Views, step count, learning rate, numbers, lock.
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

  Recipe(const std::string& rule_name, bool decoupled, bool maximize);

  const RuleInfo& info() const { return rule_infos()[static_cast<size_t>(rule)]; }
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

/// The numeric arguments: as the optimizer shows them, and as its rule takes them, in the order of its names.
struct Numbers {
  py::object shown;
  std::vector<double> hypers;
  double weight_decay;
};

/// The learning rate: the schedule as the optimizer shows it, and what is asked for a step's rate, a float or a
/// callable that takes the number of steps taken before.
struct Rate {
  py::object schedule;
  py::object asked;
};

class Stepper {
 public:
  Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads, bool decoupled,
          bool maximize, Numbers numbers, Rate rate);

  /// Takes one step with `grads`, or with the bound ones when it is None.
  void step(py::handle grads, py::handle grad_scale, py::handle stream);
  /// Takes step number `t` with this optimizer's rule and numbers on arrays that the caller keeps.
  void apply(py::handle params, py::handle grads, const py::sequence& states, py::handle t, py::handle lr,
             py::handle grad_scale);

  int64_t step_count() const { return count_.load(std::memory_order_acquire); }
  void set_step_count(py::handle count);

  py::object numbers() const;
  /// Replaces the numbers that are shown as `expected`; false when others have taken their place.
  bool replace_numbers(py::handle expected, Numbers numbers);

  py::object schedule() const;
  void set_rate(Rate rate);

  /// Copies the states into `states`; gives the step count, the numbers and the schedule that go with them.
  py::tuple snapshot(const py::sequence& states);
  /// Replaces states, step count, numbers and rate together.
  void restore(const py::sequence& states, py::handle count, Numbers numbers, Rate rate);

  int64_t size() const { return operands_.params.size(); }
  const char* rule() const { return recipe_.info().name; }

  /// For the garbage collector.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  class Turn;

  double lr(int64_t count) const;
  void use(Numbers& numbers);
  void use(Rate& rate);

  Operands operands_;
  std::optional<Array> grads_;
  Recipe recipe_;
  py::object numbers_;
  Rate rate_;
  Memo memo_;
  std::atomic<int64_t> count_{0};
  std::mutex mutex_;
  /// Guards the references that are read without a turn, where no GIL does. Held for a copy or a swap alone.
  mutable std::mutex shown_;
  std::atomic<const void*> owner_{nullptr};
  std::atomic<int> owner_generation_{0};
};

}  // namespace lrcore
