// The Stepper, the compiled part of an optimizer: views, step count, learning rate, hyperparameters and lock.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "clock.h"
#include "device_decision.h"
#include "gradient_norm.h"
#include "operands.h"
#include "partition.h"
#include "pending_reads.h"
#include "settings.h"
#include "step_lock.h"
#include "tensors.h"
#include "watch.h"

namespace lrcore {

class Stepper;

/// A change to an optimizer: the values that are present replace the optimizer's.
struct Change {
  Stepper* stepper;
  std::optional<py::sequence> states;
  std::optional<int64_t> step_count;
  std::vector<CountedRange> counts;  // of the elements that have taken fewer than `step_count` steps, in order
  std::optional<NewSettings> settings;
  std::optional<NewRate> rate;
  py::object params;
  std::optional<int64_t> skipped_steps;
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

  /// The settings are those of all groups; each group after the first has the elements of its ranges, and the first one
  /// has the rest. `max_steps` is for CUDA graphs: the constants of that many steps, and the step count, are stored on
  /// the device. If `flat_gradients` is not None, steps call it with gradients that are not a NumPy array and with
  /// their name for messages, and use the array that it returns. If `tensors` is not null, steps read the gradients of
  /// these tensors, and skip the tensors that have none. The units of the norm are `units`, or the tensors; without
  /// either, all elements are one unit.
  Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads, Decay decay,
          const std::vector<std::vector<Range>>& ranges, NewSettings settings, NewRate rate,
          std::optional<int64_t> max_steps, const py::object& flat_gradients, std::unique_ptr<Tensors> tensors,
          std::optional<std::vector<sums::Elements>> units);

  /// Takes one step with `grads`, with the sum of the arrays in it if it is a list or a tuple, or with the bound
  /// gradients if it is None. If `grad_scale` is null, the scale is 1. The gradients of the segments are zeroed if
  /// `zeroes_grads` is true, also if the step is skipped.
  void step(py::handle grads, py::handle grad_scale, bool zeroes_grads, py::handle stream);
  /// Takes one step of each stepper, with its bound gradients or those of its tensors, and with the numbers of the
  /// first stepper that is not capturable. The steppers must have equally many groups. If a check fails, none of them
  /// steps.
  ///
  /// A single stepper on a device can take the scale from a loss scaler: an array whose number divides `grad_scale`,
  /// and one whose number skips the step unless it is 0. Each is on that device, or None.
  static void step_together(std::span<Stepper* const> steppers, py::handle grad_scale, py::handle loss_scale,
                            py::handle found_inf, bool zeroes_grads);

  /// Counts a skipped step of each stepper.
  static void skip_together(std::span<Stepper* const> steppers);

  // These wait for the last step if only a device knows the answer. They throw FloatingPointError if that step was
  // one too many that was skipped.
  std::optional<double> grad_norm();
  int64_t skipped_steps();
  int64_t step_count();
  /// Returns the number of steps that were started, including one that a device may yet skip; no value if the count is
  /// on the device. Never waits.
  std::optional<int64_t> started_steps() const;
  void set_step_count(py::handle count);
  /// Returns the number of steps that the elements of a group have taken, or no value if they differ.
  std::optional<int64_t> step_count_of(size_t group);

  /// Returns the step count, and the elements that have taken another number of steps.
  py::tuple counts();

  /// Returns the settings and the schedule, as they were passed for Python.
  py::object settings() const;
  py::object schedule() const;

  /// Copies the states into `states`; returns the step count, the counts of elements that have taken fewer steps, the
  /// settings and the schedule that belong to them.
  py::tuple snapshot(const py::sequence& states);
  /// Copies the average of the parameters into an array. Throws ValueError if there is none.
  void copy_average(py::handle out);
  /// Makes either all changes or none; then assigns attributes and updates dictionaries, before any Python code runs.
  /// Returns false without changing anything if the settings that a change expects have been replaced.
  static bool commit(std::span<Change> changes, const std::vector<Assignment>& attributes,
                     const std::vector<NewEntries>& updates);

  int64_t size() const { return operands_.params.size(); }
  const char* rule() const { return rule_.info().name; }
  std::string device() const { return operands_.device().name(); }

  /// For the garbage collector.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  static constexpr char moved[] =
      "its memory has moved, or its size, dtype or layout has changed, since the optimizer was made, for example by "
      ".data =, resize_() or .to(); make the optimizer again";

  static constexpr char moved_tensor[] =
      "its storage has moved since the optimizer was made, for example by .to(), .share_memory() or sending it to "
      "another "
      "process; make a new FusedOptimizer after that, or send clones: {k: v.clone() for k, v in "
      "module.state_dict().items()}";

  struct Prepared;
  Prepared prepare(Change& change);
  void prepare_table(Prepared& prepared);
  void complete(Prepared& prepared);
  void make(Prepared& prepared);
  /// Numbers that were computed before the step took the lock, and the version of their sources and the step count that
  /// they were computed from.
  struct NextNumbers : StepNumbers {
    uint64_t version = 0;
    int64_t count = 0;
  };
  /// Gradients that were passed to one step: the arrays, and the objects that they were imported from. There are none
  /// if the step reads the bound gradients.
  struct Passed {
    std::span<Array> arrays;
    std::span<const py::handle> objects;
    bool are_zeroed;  // also said of the bound gradients
  };
  /// What becomes of a step that depends on the norm of its gradients.
  struct Verdict {
    std::optional<double> grad_scale;  // no value if the step is skipped
    int64_t in_a_row = 0;              // the number of skipped steps
    int64_t since = 0;                 // the step count when the first of them was skipped
  };
  /// The arrays of a loss scaler, by which a device decides about a step.
  struct LossScaler {
    std::optional<Array> scale, found_inf;

    bool is_present() const { return scale || found_inf; }
  };
  /// A step of one stepper: its plan, where it runs, and the segments and sums on the device.
  struct Launch {
    Plan plan;
    CudaStream stream;
    const DeviceSegments* segments = nullptr;
    const DeviceSums* sums = nullptr;
  };
  Launch prepare_launch(const Plan& plan, const CudaStream& stream);
  static Verdict judge(std::span<Stepper* const> steppers, std::span<const Launch> launches, const NextNumbers& numbers,
                       double grad_scale);
  void measure(const Launch& launch) const;
  const std::vector<double>& sums_of(const Launch& launch);
  static Verdict skip(std::span<Stepper* const> steppers);
  void require_patience(const Verdict& verdict) const;
  enum class Of { count, record };
  void settle(Of what = Of::count);
  void wait_for(Of what);
  int64_t count() const;
  void step_with(const Array& gradients, const Passed& passed, std::span<const Stream> added, double grad_scale,
                 const CudaStream& stream);
  void step_with_sum(const py::sequence& grads, double grad_scale, bool zeroes_grads, py::handle requested);
  Array fitting_gradients(py::handle grads, const CudaStream& stream, bool are_zeroed,
                          const char* name = "grads") const;
  NextNumbers next_numbers() const;
  bool is_current(const NextNumbers& numbers, const Tries& tries) const;
  /// Whether the last step may yet be skipped. Requires the lock.
  bool is_undecided() const { return decision_ && decision_->may_skip(); }
  bool has_all(const StepNumbers& numbers) const;
  void require_unmoved(const CudaStream& stream) const;
  bool locate_gradients(const Tensors::Gradients& gradients, bool zeroes_grads);
  Plan plan(const Step& step) const;
  const DeviceSegments* on_device(const Plan& plan);
  float averaging_of(const StepNumbers& numbers) const;
  void prepare_guard(const Guard& guard);
  void write_constants(const NextNumbers& numbers, double grad_scale);
  void advance(const Launch& launch, const NextNumbers& numbers, double grad_scale);
  void advance_guarded(const Launch& launch, const NextNumbers& numbers, double grad_scale, const LossScaler& scaler);
  void zero_gradients(const Launch& launch) const;
  enum class Written { by_step, params_and_states, states };
  void raise_versions(Written written) const;
  StepTable table_of(std::vector<RuleConfig> configs, const NumberSources& sources, const Guard& guard,
                     std::optional<double> ema, const Partition& partition, int64_t steps) const;
  std::vector<RuleConfig> configs_with(const GroupSettings& groups) const;
  void use(NewSettings& settings, std::vector<RuleConfig> configs);
  void use(NewRate& rate);
  Partition partition_with(int64_t step_count, const std::vector<CountedRange>& counts,
                           const std::vector<bool>& frozen) const;
  void use(Partition partition);

  Operands operands_;
  std::optional<Array> grads_;
  py::object bound_tensors_;  // a list of the bound gradients if they are a torch tensor, or null
  Watch watch_;               // parameters and bound gradients
  Watch states_watch_;
  std::unique_ptr<Tensors> tensors_;
  py::object flat_gradients_;  // returns the flat array of gradients in a pack; null for plain arrays
  py::object written_;         // a list of the torch tensors that a step writes to, or null
  const RuleConfig rule_;      // without numbers
  const size_t groups_;        // their number, including the rest
  // Those below are written with the lock; `references_mutex_` also guards the references and the version.
  std::vector<RuleConfig> configs_;  // by group
  std::vector<bool> frozen_;         // by group
  Guard guard_;
  std::optional<double> ema_;  // no value if there is no average
  Partition partition_;
  GradientSums sums_;
  SkipRecord record_;
  Verdict unreported_;                          // of the last step that was settled without raising an error
  std::vector<Constants> constants_;            // by row of the partition; those of the last step
  std::vector<Memo> memos_;                     // by row
  std::optional<DeviceSegments> on_device_[2];  // for each width of chunks, if it has been needed
  std::optional<DeviceDecision> decision_;      // of a device, if a step has needed it
  py::object settings_;
  py::object schedule_;
  NumberSources sources_;
  uint64_t version_ = 0;  // of the sources
  Clock clock_;
  PendingReads pending_reads_;
  StepMutex step_mutex_;
  Tries::Patience patience_{0};
  /// Guards the references that are read without the step's lock, and the version. Held only for a copy or a swap.
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
