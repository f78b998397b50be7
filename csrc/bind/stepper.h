// The Stepper, the compiled part of an optimizer: views, step count, learning rate, hyperparameters and lock.
#pragma once

#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "clock.h"
#include "operands.h"
#include "pending_reads.h"
#include "rate.h"
#include "step_lock.h"
#include "watch.h"

namespace lrcore {

class Stepper;

/// A change to an optimizer: the values that are present replace the optimizer's.
struct Change {
  Stepper* stepper;
  std::optional<py::sequence> states;
  py::object step_count;
  std::optional<Hyperparameters> hyperparameters;
  std::optional<Rate> rate;
  py::object params;
};

/// An object, the name of an attribute, and its new value.
using Assignment = std::tuple<py::object, py::object, py::object>;

/// A dictionary, and the new entries for it.
using NewEntries = std::tuple<py::dict, py::dict>;

/// A mutex in free-threaded Python; otherwise the GIL is the lock.
#ifdef Py_GIL_DISABLED
using GilOrMutex = std::mutex;
#else
struct GilOrMutex {
  void lock() {}
  void unlock() {}
};
#endif

class Stepper {
 public:
  /// The error message for an object created by `__new__` alone.
  static constexpr char uninitialized[] = "Optimizer.__init__ has not been called";

  /// `max_steps` is for CUDA graphs: the constants of that many steps, and the step count, are stored on the device.
  Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads, bool decoupled,
          bool maximize, Hyperparameters hyperparameters, Rate rate, std::optional<int64_t> max_steps);

  /// Takes one step with `grads`, or with the bound gradients if it is None. If `grad_scale` is null, the scale is 1.
  void step(py::handle grads, py::handle grad_scale, py::handle stream);
  /// Takes one step of each stepper, with its bound gradients and the rate of the first stepper that is not capturable.
  /// If a check fails, none of them steps.
  static void step_together(std::span<Stepper* const> steppers, py::handle grad_scale);

  int64_t step_count() const;
  void set_step_count(py::handle count);

  py::object hyperparameters() const;
  /// Replaces the hyperparameters if their dictionary is still `expected`; otherwise returns false.
  bool replace_hyperparameters(py::handle expected, Hyperparameters hyperparameters);

  py::object schedule() const;
  void set_rate(Rate rate);

  /// Copies the states into `states`; returns the step count, the hyperparameters and the schedule that belong to them.
  py::tuple snapshot(const py::sequence& states);
  /// Makes either all changes or none; then assigns attributes and updates dictionaries, before any Python code runs.
  static void commit(std::span<Change> changes, const std::vector<Assignment>& attributes,
                     const std::vector<NewEntries>& updates);

  int64_t size() const { return operands_.params.size(); }
  const char* rule() const { return config_.info().name; }
  std::string device() const { return operands_.device().name(); }

  /// For the garbage collector.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  static constexpr char moved[] =
      "its memory has moved, or its size, dtype or layout has changed, since the optimizer was made, for example by "
      ".data =, resize_() or .to(); make the optimizer again";

  struct Prepared;
  Prepared prepare(Change& change) const;
  void require_free(const Prepared& prepared) const;
  void make(Prepared& prepared);
  /// A rate that was computed before the step took the lock, and the schedule and step count that it was computed from.
  struct ScheduledRate {
    py::object schedule;
    int64_t count;
    double lr;
  };
  Array fitting_gradients(py::handle grads, const Stream& stream) const;
  ScheduledRate next_rate() const;
  bool is_current(const ScheduledRate& rate, const Tries& tries) const;
  void require_unmoved(const Stream& stream) const;
  void advance(Step step, const ScheduledRate& rate, double grad_scale, const Stream& stream);
  void raise_versions(bool of_params = true) const;
  static std::vector<Constants> rows(const RuleConfig& config, const Rate& rate, int64_t steps);
  void refuse_where_captured(const char* what) const;
  void use(Hyperparameters& hyperparameters);
  void use(Rate& rate);

  Operands operands_;
  std::optional<Array> grads_;
  Watch watch_;  // parameters and bound gradients
  Watch states_watch_;
  py::object written_;  // a list of the torch tensors that a step writes to, or null
  RuleConfig config_;
  py::object hyperparameters_;
  Rate rate_;
  Memo memo_;
  Clock clock_;
  bool captured_ = false;
  PendingReads pending_reads_;
  StepMutex step_mutex_;
  Tries::Patience patience_{0};
  /// Guards the references that are read without the step's lock. Held only for a copy or a swap.
  mutable GilOrMutex references_mutex_;
};

}  // namespace lrcore

/// Throws TypeError for an object created by `__new__` alone. Otherwise pybind11 would allocate memory for its Stepper
/// and use it without constructing the Stepper.
template <>
struct pybind11::detail::type_caster<lrcore::Stepper> : type_caster_base<lrcore::Stepper> {
  bool load(handle object, bool convert) { return load_impl<type_caster>(object, convert); }
  void load_value(value_and_holder&& stepper) {
    value = stepper.value_ptr();
    if (value == nullptr) throw type_error(lrcore::Stepper::uninitialized);
  }
};
