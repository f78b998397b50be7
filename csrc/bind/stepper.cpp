#include "stepper.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "../cpu/fp_mode.h"
#include "../sums/clip.h"
#include "gil.h"

namespace lrcore {

namespace {

/// Writes the constants of the step after `count` steps for each row that is not frozen. A table also has
/// entries from before the first step of a row; they are not used, and equal those of the first step.
void write_rows(const std::vector<RuleConfig>& configs, const std::vector<Row>& rows, const StepNumbers& numbers,
                int64_t count, double grad_scale, std::vector<Memo>& memos, Constants* to) {
  const cpu::DefaultFpMode mode;
  Memo* memo = memos.data();
  for (const Row& row : rows) {
    const auto group = static_cast<size_t>(row.group);
    const int64_t t = std::max<int64_t>(1, count + 1 - row.steps);
    const Instant now{.t = static_cast<double>(t), .lr = numbers.of_group(group)};
    if (!row.is_frozen) configs[group].write_constants(now, *memo, grad_scale, *to);
    ++memo;
    ++to;
  }
}

/// Sets the hyperparameters that change from step to step.
void set_numbers(const ChangingNumbers& changing, std::vector<RuleConfig>& configs) {
  for (size_t i = 0; i < changing.values.size(); ++i)
    for (const NumberPlace& place : (*changing.sources)[i].places)
      if (!NumberPlace::is_of_all(place.index)) configs[place.group].number(place.index) = changing.values[i];
}

/// Returns a number that belongs to no group: the one that changes, if `changing` is not null and has it, else
/// `number`.
double number_of_all(int index, double number, const ChangingNumbers* changing) {
  if (changing != nullptr)
    for (size_t i = 0; i < changing->values.size(); ++i)
      for (const NumberPlace& place : (*changing->sources)[i].places)
        if (place.index == index) return changing->values[i];
  return number;
}

/// Returns the largest norm of the gradients of a step, infinity if they are not clipped. `changing` may be null.
double max_norm_of(const Guard& guard, const ChangingNumbers* changing) {
  if (!guard.max_norm) return std::numeric_limits<double>::infinity();
  return number_of_all(NumberPlace::max_norm, *guard.max_norm, changing);
}

/// Returns `Step::averaging` of a step. `changing` may be null.
float averaging_with(std::optional<double> ema, const ChangingNumbers* changing) {
  return ema ? static_cast<float>(1 - number_of_all(NumberPlace::ema, *ema, changing)) : 0;
}

/// Informs autograd that the torch tensors among these objects have changed.
void raise_versions_among(std::span<const py::handle> objects) {
  py::list tensors;
  for (const py::handle each : objects)
    if (torch_type_of(each)) tensors.append(each);
  if (!tensors.empty()) raise_versions_of(tensors);
}

py::list to_list(const std::vector<CountedRange>& counts) {
  py::list list;
  for (const CountedRange& each : counts) list.append(py::make_tuple(each.begin, each.end, each.count));
  return list;
}

}  // namespace

Stepper::Stepper(const std::string& rule, py::handle params, const py::sequence& states, py::handle grads, Decay decay,
                 const std::vector<std::vector<Range>>& ranges, NewSettings settings, NewRate rate,
                 std::optional<int64_t> max_steps, const py::object& flat_gradients, std::unique_ptr<Tensors> tensors,
                 std::optional<std::vector<sums::Elements>> units)
    : operands_(params, states, RuleConfig(rule, decay).info().states, settings.groups.ema.has_value()),
      tensors_(std::move(tensors)),
      flat_gradients_(flat_gradients.is_none() ? py::object() : flat_gradients),
      rule_(rule, decay),
      groups_(ranges.size() + 1),
      partition_(operands_.params.size(), ranges),
      sums_(units      ? std::move(*units)
            : tensors_ ? tensors_->units()
                       : std::vector{sums::Elements{0, size()}}) {
  use(settings, configs_with(settings.groups));
  use(rate);
  use(partition_with(0, {}, frozen_));
  watch_.add(params, operands_.params, true);
  written_ = tensors_among(params, states);
  if (!grads.is_none()) {
    grads_ = operands_.gradients(grads, {});
    watch_.add(grads, *grads_, false);
    if (torch_type_of(grads)) {
      bound_tensors_ = py::list();
      bound_tensors_.attr("append")(grads);
    }
  }
  for (size_t k = 0; k < operands_.states.size(); ++k)
    states_watch_.add(py::object(states[k]), operands_.states[k], true);
  if (operands_.api != nullptr) {
    const GilRelease unlocked;
    const CurrentDevice current(*operands_.api, operands_.device());
    check_cuda(*operands_.api, operands_.api->prepare(rule_.rule), "loading the kernels");
  }
  // Not in a step, because the allocation may fail while a stream is captured.
  const Step step = operands_.step(grads_ ? *grads_ : operands_.params);
  on_device({.step = step, .rows = constants_, .segments = plan(step).segments});
  if (guard_.is_on() || (max_steps && tensors_)) prepare_guard(guard_);
  if (!max_steps) return;
  if (operands_.api == nullptr)
    throw py::value_error("capturable: CPU arrays cannot be part of a CUDA graph; leave it out");
  if (!grads_ && !tensors_)
    throw py::value_error("grads: a capturable optimizer needs gradients bound at construction, got None");
  clock_.move_to_device(*operands_.api, operands_.device(), *max_steps,
                        table_of(configs_, sources_, guard_, ema_, partition_, *max_steps));
}

/// Returns the rule with the numbers of each group.
std::vector<RuleConfig> Stepper::configs_with(const GroupSettings& groups) const {
  if (groups.numbers.size() != groups_ || groups.frozen.size() != groups_ ||
      (!groups.rates.empty() && groups.rates.size() != groups_))
    throw py::value_error("settings: expected those of each group");
  std::vector<RuleConfig> configs;
  for (const Numbers& numbers : groups.numbers) configs.push_back(rule_.with(numbers));
  return configs;
}

/// Swaps in the settings. The caller must release the previous ones without holding the lock.
void Stepper::use(NewSettings& settings, std::vector<RuleConfig> configs) {
  configs_ = std::move(configs);
  frozen_ = settings.groups.frozen;
  if (guard_.patience != settings.groups.guard.patience) {
    record_.end_row();
    unreported_ = {};
  }
  guard_ = settings.groups.guard;
  ema_ = settings.groups.ema;
  const std::lock_guard lock(references_mutex_);
  std::swap(settings_, settings.shown);
  if (!are_same(sources_.numbers, settings.groups.changing) || sources_.of_groups != settings.groups.rates) ++version_;
  std::swap(sources_.of_groups, settings.groups.rates);
  std::swap(sources_.numbers, settings.groups.changing);
}

/// Swaps in the rate in the same way.
void Stepper::use(NewRate& rate) {
  const std::lock_guard lock(references_mutex_);
  std::swap(schedule_, rate.schedule);
  if (!is_same(sources_.of_optimizer, rate.source)) ++version_;
  std::swap(sources_.of_optimizer, rate.source);
}

/// Returns the partition with other counts. Tensors without a gradient are idle. Requires the lock.
Partition Stepper::partition_with(int64_t step_count, const std::vector<CountedRange>& counts,
                                  const std::vector<bool>& frozen) const {
  return partition_.with_counts(step_count, counts, frozen, tensors_ ? tensors_->idle(size()) : std::vector<Range>());
}

/// Replaces the partition, and forgets what was computed from the previous one. Captured graphs continue to use the
/// segments on the device, so these are kept if neither the segments nor the number of rows changes.
void Stepper::use(Partition partition) {
  if (!std::ranges::equal(partition.segments(), partition_.segments()) ||
      partition.rows().size() != partition_.rows().size()) {
    for (auto& each : on_device_) each.reset();
    sums_.forget_segments();
  }
  partition_ = std::move(partition);
  if (tensors_) tensors_->split(partition_.segments());
  constants_.assign(partition_.rows().size(), {});
  memos_.assign(partition_.rows().size(), {});
}

py::object Stepper::settings() const {
  const std::lock_guard lock(references_mutex_);
  return settings_;
}

py::object Stepper::schedule() const {
  const std::lock_guard lock(references_mutex_);
  return schedule_;
}

void Stepper::step(py::handle grads, py::handle scale, bool zeroes_grads, py::handle requested) {
  const double grad_scale = checked_grad_scale(scale);
  if (clock_.on_device() && !grads.is_none()) [[unlikely]]
    throw py::type_error(
        "grads: a capturable optimizer steps with the gradients that were bound at construction; write into them");
  if (tensors_) [[unlikely]] {
    if (!grads.is_none())
      throw py::type_error("grads: this optimizer reads the gradients of its tensors; leave it out");
    if (!requested.is_none()) throw py::type_error("stream: this optimizer steps on the current stream; leave it out");
    Stepper* self = this;
    return step_together({&self, 1}, scale, py::none(), py::none(), zeroes_grads);
  }
  if (are_several(grads)) [[unlikely]]
    return step_with_sum(checked_list(grads), grad_scale, zeroes_grads, requested);
  if (grads.is_none()) {
    const CudaStream stream = operands_.stream(requested, grads);
    if (!grads_)
      throw py::type_error("grads: expected an array, got None; pass the gradients, or bind them once with grads=");
    if (zeroes_grads && !watch_.require_writable(grads_->name())) grads_->require_writable();
    step_with(*grads_, {.arrays = {}, .objects = {}, .are_zeroed = zeroes_grads}, {}, grad_scale, stream);
  } else {
    py::object converted;
    if (flat_gradients_ && !is_numpy(grads)) [[unlikely]] {
      converted = flat_gradients_(grads, "grads");
      grads = converted;
    }
    const CudaStream stream = operands_.stream(requested, grads);
    Array passed = fitting_gradients(grads, stream, zeroes_grads);
    step_with(passed, {.arrays = {&passed, 1}, .objects = {&grads, 1}, .are_zeroed = zeroes_grads}, {}, grad_scale,
              stream);
  }
}

/// Takes one step with the sum of several gradients.
void Stepper::step_with_sum(const py::sequence& grads, double grad_scale, bool zeroes_grads, py::handle requested) {
  const CudaStream stream = operands_.stream(requested, py::none());
  std::vector<py::object> converted;
  std::vector<py::handle> objects;
  std::vector<Array> arrays;
  for (size_t i = 0; i < grads.size(); ++i) {
    const std::string name = text("grads[", i, "]");
    converted.emplace_back(grads[i]);
    if (flat_gradients_ && !is_numpy(converted.back())) converted.back() = flat_gradients_(converted.back(), name);
    objects.push_back(converted.back());
    arrays.push_back(fitting_gradients(objects.back(), stream, zeroes_grads, name.c_str()));
  }
  if (zeroes_grads) require_same_or_disjoint(arrays);
  const std::vector<Stream> added = streams_of(arrays);
  step_with(arrays.front(), {.arrays = arrays, .objects = objects, .are_zeroed = zeroes_grads}, added, grad_scale,
            stream);
}

/// Takes one step with `gradients`, or with the sum of the `added` gradients.
void Stepper::step_with(const Array& gradients, const Passed& passed, std::span<const Stream> added, double grad_scale,
                        const CudaStream& stream) {
  Step step = operands_.step(gradients, passed.are_zeroed);
  std::vector<Array> completed;  // destroyed after the lock is released
  Verdict verdict{.grad_scale = grad_scale};
  for (Tries tries(patience_);; tries.fail()) {
    tries.begin();
    if (!clock_.on_device()) wait_for(Of::count);
    const NextNumbers numbers = next_numbers();
    const StepLock lock(step_mutex_);
    if (!is_current(numbers, tries)) continue;
    require_unmoved(stream);
    for (size_t i = 0; i < passed.arrays.size(); ++i) require_in_place(passed.objects[i], passed.arrays[i]);
    step.averaging = averaging_of(numbers);
    Plan plan = this->plan(step);
    plan.added = added;
    const Launch launch = prepare_launch(plan, stream);
    completed = pending_reads_.remove_completed();

    const GilRelease unlocked;
    if (!guard_.is_on()) [[likely]] {
      advance(launch, numbers, grad_scale);
    } else if (operands_.api != nullptr) {
      advance_guarded(launch, numbers, grad_scale, {});
    } else {
      Stepper* self = this;
      verdict = judge({&self, 1}, {&launch, 1}, numbers, grad_scale);
      if (verdict.grad_scale)
        advance(launch, numbers, *verdict.grad_scale);
      else
        zero_gradients(launch);
    }
    for (Array& each : passed.arrays) pending_reads_.add(operands_.api, std::move(each), stream);
    break;
  }
  if (verdict.grad_scale) [[likely]]
    raise_versions(Written::by_step);
  if (passed.are_zeroed) [[unlikely]] {
    raise_versions_among(passed.objects);
    if (passed.objects.empty()) raise_versions_of(bound_tensors_);
  }
  if (!verdict.grad_scale) [[unlikely]]
    require_patience(verdict);
}

/// Zeroes the gradients of a step that is skipped, if it would zero them. Requires the lock, but not the GIL.
void Stepper::zero_gradients(const Launch& launch) const {
  if (launch.plan.step.zeroes_grads) operands_.zero_gradients(rule_.rule, launch.plan, launch.stream, launch.segments);
}

/// Measures the gradients of steppers that step together, and returns what becomes of the step. Waits for devices.
/// Requires the locks of all steppers, but not the GIL.
Stepper::Verdict Stepper::judge(std::span<Stepper* const> steppers, std::span<const Launch> launches,
                                const NextNumbers& numbers, double grad_scale) {
  std::vector<const std::vector<double>*> sums;
  for (size_t i = 0; i < steppers.size(); ++i) steppers[i]->measure(launches[i]);
  for (size_t i = 0; i < steppers.size(); ++i) sums.push_back(&steppers[i]->sums_of(launches[i]));
  const double unscaled = norm_of(sums);
  const cpu::DefaultFpMode mode;
  const double norm = unscaled * std::abs(grad_scale);
  for (Stepper* each : steppers) {
    each->record_.set_norm(norm);
    if (each->decision_) each->decision_->forget();  // that of a step of this optimizer alone
  }
  const Guard& guard = steppers.front()->guard_;
  if (guard.patience > 0 && !std::isfinite(unscaled)) return skip(steppers);
  for (Stepper* each : steppers) each->record_.end_row();
  return {.grad_scale = sums::clipped(grad_scale, norm, max_norm_of(guard, numbers.changing.get()))};
}

/// Queues the sums of the leaves if the gradients are on a device.
void Stepper::measure(const Launch& launch) const {
  if (operands_.api == nullptr) return;
  const CurrentDevice current(*operands_.api, operands_.device());
  launch.sums->measure(operands_.job(launch.plan, launch.stream, {}, launch.segments), launch.stream.handle);
}

/// Returns the sums of the squares of the gradients of each unit. Waits for the device that has measured them.
const std::vector<double>& Stepper::sums_of(const Launch& launch) {
  if (operands_.api == nullptr) return sums_.of_units(launch.plan);
  const CurrentDevice current(*operands_.api, operands_.device());
  return sums_.of_units_on_device();
}

/// Counts a skipped step. Requires the locks of all steppers.
Stepper::Verdict Stepper::skip(std::span<Stepper* const> steppers) {
  for (Stepper* each : steppers) each->record_.skip(each->clock_.count());
  const SkipRecord& record = steppers.front()->record_;
  return {.grad_scale = {}, .in_a_row = record.in_a_row(), .since = record.since()};
}

/// Raises FloatingPointError if too many steps in a row have been skipped.
void Stepper::require_patience(const Verdict& verdict) const {
  const int64_t patience = guard_.patience;
  if (patience == 0 || verdict.in_a_row < patience) return;
  const std::string message =
      text("skip_nonfinite: expected fewer than ", patience, " skipped steps in a row, got ", verdict.in_a_row,
           "; the gradients have not been finite since step_count ", verdict.since);
  PyErr_SetString(PyExc_FloatingPointError, message.c_str());
  throw py::error_already_set();
}

/// Finds out what has become of the last step, if only a device knows, and counts it accordingly. Waits for that step.
/// What is asked for is the step count or the record of norms and skipped steps. Requires the lock and the GIL.
void Stepper::settle(Of what) {
  if (!decision_) return;
  const bool of_record = what == Of::record;
  if (clock_.on_device()) {
    if (!of_record && guard_.patience == 0) return;
    const GilRelease unlocked;
    const int64_t before = record_.skipped();
    const cuda::Decision decision = decision_->read();
    record_.assign(decision);
    if (decision.skipped != before)
      unreported_ = {.grad_scale = {}, .in_a_row = decision.in_a_row, .since = decision.since};
    return;
  }
  if (of_record ? !decision_->is_expected() : !decision_->may_skip()) return;
  const GilRelease unlocked;
  const cuda::Decision decision = decision_->wait();
  record_.take_norm(decision);
  if (decision.is_skipped == 0) return record_.end_row();
  clock_.set_count(clock_.count() - 1);
  Stepper* self = this;
  unreported_ = skip({&self, 1});
}

/// Settles the last step, and throws FloatingPointError if it was one too many that was skipped.
void Stepper::wait_for(Of what) {
  if (operands_.api == nullptr) [[likely]]
    return;
  Verdict verdict;
  {
    const StepLock lock(step_mutex_);
    settle(what);
    verdict = std::exchange(unreported_, {});
  }
  require_patience(verdict);
}

std::optional<double> Stepper::grad_norm() {
  wait_for(Of::record);
  return record_.norm();
}

int64_t Stepper::skipped_steps() {
  wait_for(Of::record);
  return record_.skipped();
}

/// Returns the gradients of one step. If they do not match because bound arrays have moved, the error is about the
/// bound arrays.
Array Stepper::fitting_gradients(py::handle grads, const CudaStream& stream, bool are_zeroed, const char* name) const {
  try {
    return operands_.gradients(grads, stream, name, are_zeroed ? Access::write : Access::read);
  } catch (py::builtin_exception&) {
    watch_.check(moved);
    states_watch_.check(moved);
    throw;
  }
}

/// Computes the numbers of the next step before the step takes the lock, because schedules are Python code. Calls none
/// if the constants are on the device.
Stepper::NextNumbers Stepper::next_numbers() const {
  if (clock_.on_device()) [[unlikely]]
    return {};
  std::unique_lock lock(references_mutex_);
  const NumberSources sources = sources_;
  const uint64_t version = version_;
  lock.unlock();
  if (!sources.of_optimizer)
    throw std::runtime_error("the optimizer was cleared by the garbage collector; make a new one");
  const int64_t count = clock_.count();
  if (count >= max_step) throw std::overflow_error("step_count: the maximum of 2**53 - 1 steps has been reached");
  std::optional<ScheduleCall> call;
  if (calls_python(sources)) call.emplace(this);
  return {numbers_at(sources, count), version, count};
}

/// Whether the numbers are still those of the next step. If a schedule has been replaced in the meantime, returns false
/// so that the new schedule is called; but after ten failed tries, the new schedule takes effect only after this step.
/// Requires the lock.
bool Stepper::is_current(const NextNumbers& numbers, const Tries& tries) const {
  if (clock_.on_device()) [[unlikely]]
    return true;
  const bool has_same_count = !is_undecided() && clock_.count() == numbers.count;
  if (has_same_count && (version_ == numbers.version || (tries.failed() >= 10 && has_all(numbers)))) return true;
  if (tries.failed() >= 1000)
    throw std::runtime_error(
        text(has_same_count ? "frozen: groups were thawed" : "step_count: it was changed",
             " 1000 times while the schedule was called for the rate of one step; a schedule must not ",
             has_same_count ? "thaw groups" : "change the step count", " of the optimizer that is calling it"));
  return false;
}

/// Whether there is a rate for each group that is not frozen, and a number for each that changes. Requires the lock.
bool Stepper::has_all(const StepNumbers& numbers) const {
  if (!are_same(numbers.changing ? numbers.changing->sources : nullptr, sources_.numbers)) return false;
  for (size_t i = 0; i < groups_; ++i)
    if (!frozen_[i] && std::isnan(numbers.of_group(i))) return false;
  return true;
}

/// Throws if bound memory has changed, or if the stream is recording a CUDA graph although the step count is on the
/// host. Requires the lock.
void Stepper::require_unmoved(const CudaStream& stream) const {
  watch_.check(moved);
  states_watch_.check(moved);
  if (tensors_) tensors_->check(moved_tensor);
  if (operands_.api != nullptr && !clock_.on_device()) operands_.refuse_capture(stream);
}

/// Finds the memory of the tensors' gradients, and makes the tensors without one idle. Returns false, without changing
/// anything, if a gradient has to be replaced first. Requires the lock.
bool Stepper::locate_gradients(const Tensors::Gradients& gradients, bool zeroes_grads) {
  if (!tensors_->locate(gradients, operands_, zeroes_grads)) return false;
  if (!tensors_->has_changed()) return true;
  if (clock_.on_device())
    throw std::runtime_error("grads: a capturable optimizer needs a gradient for each parameter at each step");
  const int64_t count = clock_.count();
  use(partition_with(count, partition_.other_counts(count), frozen_));
  return true;
}

/// Returns the plan of a step. Requires the lock.
Plan Stepper::plan(const Step& step) const {
  if (!tensors_) return {.step = step, .rows = constants_, .segments = partition_.segments()};
  return {.step = step, .rows = constants_, .segments = tensors_->segments(), .gradients = tensors_->gradients()};
}

/// Returns the segments on the device, or null if a step needs none there. Requires the lock.
const DeviceSegments* Stepper::on_device(const Plan& plan) {
  if (operands_.api == nullptr || plan.segments.size() < 2) return nullptr;
  const int width = operands_.chunk_width(plan);
  auto& segments = on_device_[width == cuda::Vec4::width];
  if (!segments)
    segments.emplace(*operands_.api, operands_.device(), plan.step, width, plan.segments,
                     std::ssize(partition_.rows()));
  return &*segments;
}

/// Returns `Step::averaging` of a step with these numbers; not used if the numbers are on a device. Requires the lock.
float Stepper::averaging_of(const StepNumbers& numbers) const { return averaging_with(ema_, numbers.changing.get()); }

/// Makes what steps with this guard need on a device. Requires the GIL.
void Stepper::prepare_guard(const Guard& guard) {
  if (operands_.api == nullptr) return;
  if (guard.is_on()) {
    const std::vector<Segment>& segments = tensors_ ? tensors_->segments() : partition_.segments();
    sums_.on_device(*operands_.api, operands_.device(), segments);
  }
  if (!decision_) decision_.emplace(*operands_.api, operands_.device());
}

/// Returns the launch of a step. Requires the lock and the GIL.
Stepper::Launch Stepper::prepare_launch(const Plan& plan, const CudaStream& stream) {
  Launch launch{.plan = plan, .stream = stream, .segments = on_device(plan)};
  if (operands_.api != nullptr && guard_.is_on()) [[unlikely]]
    launch.sums = &sums_.on_device(*operands_.api, operands_.device(), plan.segments);
  return launch;
}

/// Computes the constants of the step. Requires the lock.
void Stepper::write_constants(const NextNumbers& numbers, double grad_scale) {
  if (clock_.on_device()) [[unlikely]] {
    const cpu::DefaultFpMode mode;
    for (Constants& row : constants_) row.stages.gscale = static_cast<float>(grad_scale);
    return;
  }
  if (numbers.changing) [[unlikely]]
    set_numbers(*numbers.changing, configs_);
  write_rows(configs_, partition_.rows(), numbers, clock_.count(), grad_scale, memos_, constants_.data());
}

/// Takes the step. Requires the lock, but not the GIL.
void Stepper::advance(const Launch& launch, const NextNumbers& numbers, double grad_scale) {
  write_constants(numbers, grad_scale);
  operands_.run(rule_.rule, launch.plan, launch.stream, clock_.table(), launch.segments);
  clock_.advance(launch.stream.handle);
}

/// Lets the device decide about the step, and take it. Requires the lock, but not the GIL.
void Stepper::advance_guarded(const Launch& launch, const NextNumbers& numbers, double grad_scale,
                              const LossScaler& scaler) {
  const cuda::Api& api = *operands_.api;
  const CudaStream& stream = launch.stream;
  write_constants(numbers, 1);
  const CurrentDevice current(api, operands_.device());
  cuda::Job job = operands_.job(launch.plan, stream, clock_.table(), launch.segments);
  const GradientList list(api, launch.plan.added, stream, job);

  cuda::Judgement judgement{};
  judgement.grad_scale = grad_scale;
  judgement.loss_scale = scaler.scale ? scaler.scale->data() : nullptr;
  judgement.found_inf = scaler.found_inf ? scaler.found_inf->data() : nullptr;
  judgement.max_norm = max_norm_of(guard_, numbers.changing.get());
  judgement.table = clock_.table();
  judgement.step_count = clock_.on_device() ? 0 : clock_.count();
  judgement.skips = guard_.patience > 0 ? 1 : 0;
  if (launch.sums != nullptr) {
    launch.sums->measure(job, stream.handle);
    launch.sums->enter(judgement);
  }
  decision_->queue(judgement, stream.handle, !clock_.on_device());
  job.decision = decision_->data();
  operands_.launch(rule_.rule, job, stream);
  clock_.advance(stream.handle, job.decision);
  if (!clock_.on_device()) decision_->expect(guard_.patience > 0 || scaler.found_inf);
}

/// Informs autograd about the torch tensors that were written to.
void Stepper::raise_versions(Written written) const {
  const bool are_params = written != Written::states;
  if (are_params && tensors_) tensors_->raise_versions(written == Written::params_and_states);
  if (written_) raise_versions_of(are_params ? written_ : written_[py::slice(1, std::nullopt, std::nullopt)]);
}

/// Returns the constants of the first `steps` steps, row by row of the partition.
StepTable Stepper::table_of(std::vector<RuleConfig> configs, const NumberSources& sources, const Guard& guard,
                            std::optional<double> ema, const Partition& partition, int64_t steps) const {
  const std::vector<Row>& rows = partition.rows();
  const auto most = std::numeric_limits<int64_t>::max() / static_cast<int64_t>(sizeof(Constants)) - 1;
  if (steps > most / std::max<int64_t>(1, std::ssize(rows))) throw std::bad_alloc();
  StepTable table;
  table.rows.resize(static_cast<size_t>(steps) * rows.size());
  std::vector<Memo> memos(rows.size());
  Constants* to = table.rows.data();
  for (int64_t count = 0; count < steps; ++count, to += rows.size()) {
    const StepNumbers numbers = numbers_at(sources, count);
    if (numbers.changing) set_numbers(*numbers.changing, configs);
    write_rows(configs, rows, numbers, count, 1, memos, to);
    if (guard.max_norm) table.max_norms.push_back(max_norm_of(guard, numbers.changing.get()));
    if (ema) table.averagings.push_back(averaging_with(ema, numbers.changing.get()));
  }
  return table;
}

int64_t Stepper::step_count() {
  wait_for(Of::count);
  return count();
}

/// Returns the step count. Waits for the device if it is there.
int64_t Stepper::count() const {
  if (!clock_.on_device()) return clock_.count();
  const GilRelease unlocked;
  return clock_.count();
}

std::optional<int64_t> Stepper::started_steps() const {
  if (clock_.on_device()) return std::nullopt;
  return clock_.count();
}

void Stepper::set_step_count(py::handle count) {
  const int64_t checked = to_integer(count, "step_count", 0, max_step);
  Change change{.stepper = this,
                .states = {},
                .step_count = checked,
                .counts = {},
                .settings = {},
                .rate = {},
                .params = py::none(),
                .skipped_steps = {}};
  commit({&change, 1}, {}, {});
}

std::optional<int64_t> Stepper::step_count_of(size_t group) {
  std::optional<int64_t> found;
  Verdict verdict;
  {
    const StepLock lock(step_mutex_);
    settle();
    verdict = std::exchange(unreported_, {});
    found = partition_.count_of(group, count());
  }
  require_patience(verdict);
  return found;
}

py::tuple Stepper::counts() {
  int64_t count = 0;
  std::vector<CountedRange> others;
  Verdict verdict;
  {
    const StepLock lock(step_mutex_);
    settle();
    verdict = std::exchange(unreported_, {});
    count = this->count();
    others = partition_.other_counts(count);
  }
  require_patience(verdict);
  return py::make_tuple(count, to_list(others));
}

py::tuple Stepper::snapshot(const py::sequence& states) {
  const std::vector<Array> to = import_states(states, operands_.state_names, operands_.params, Access::write);
  int64_t count = 0, skipped = 0;
  std::vector<CountedRange> others;
  py::object shown, schedule;
  Verdict verdict;
  {
    const StepLock lock(step_mutex_);
    settle(Of::record);
    verdict = std::exchange(unreported_, {});
    states_watch_.check(moved);
    require_in_place(states, to);
    copy_all(operands_.states, to);
    count = this->count();
    others = partition_.other_counts(count);
    shown = settings_;
    schedule = schedule_;
    skipped = record_.skipped();
  }
  require_patience(verdict);
  return py::make_tuple(count, to_list(others), shown, schedule, skipped);
}

void Stepper::copy_average(py::handle out) {
  if (!operands_.has_average)
    throw py::value_error("averaged: this optimizer keeps no average of the parameters; make it with ema=0.999");
  const Array to = Array::import(out, "out", Access::write);
  require_same_size(to, operands_.params);
  if (to.data() != operands_.params.data() && to.overlaps(operands_.params))
    throw py::value_error("out: shares a part of its memory with params; pass an array with its own memory");
  if (std::ranges::any_of(operands_.states, [&](const Array& state) { return to.overlaps(state); }))
    throw py::value_error("out: shares memory with a state; pass an array with its own memory");
  {
    const StepLock lock(step_mutex_);
    states_watch_.check(moved);
    require_in_place(out, to);
    copy_all({&operands_.states.back(), 1}, {&to, 1});
  }
  raise_versions_among({&out, 1});
}

int Stepper::traverse(visitproc visit, void* arg) const {
  Py_VISIT(flat_gradients_.ptr());
  Py_VISIT(settings_.ptr());
  Py_VISIT(schedule_.ptr());
  Py_VISIT(sources_.of_optimizer.ptr());
  for (const auto& group : sources_.of_groups) Py_VISIT(group.source.ptr());
  if (sources_.numbers)
    for (const NumberSource& number : *sources_.numbers) {
      Py_VISIT(number.source.ptr());
      Py_VISIT(number.check.ptr());
    }
  Py_VISIT(written_.ptr());
  Py_VISIT(bound_tensors_.ptr());
  if (tensors_)
    if (const int found = tensors_->traverse(visit, arg)) return found;
  if (const int found = watch_.traverse(visit, arg)) return found;
  return states_watch_.traverse(visit, arg);
}

void Stepper::clear() {
  const py::object flat_gradients = std::exchange(flat_gradients_, py::object());
  const py::object settings = std::exchange(settings_, py::object());
  const py::object schedule = std::exchange(schedule_, py::object());
  const NumberSources sources = std::exchange(sources_, NumberSources());
  const py::object written = std::exchange(written_, py::object());
  const py::object bound_tensors = std::exchange(bound_tensors_, py::object());
  if (tensors_) tensors_->clear();
  watch_.clear();
  states_watch_.clear();
}

}  // namespace lrcore
