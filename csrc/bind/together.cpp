// Operations on several optimizers at once, such as those of one model whose parameters are on several devices.
#include <algorithm>
#include <deque>
#include <functional>

#include "gil.h"
#include "stepper.h"

namespace lrcore {
namespace {

/// Returns the steppers in the order in which they are locked, so that two calls do not deadlock.
std::vector<Stepper*> in_order(std::vector<Stepper*> steppers) {
  std::ranges::sort(steppers, std::less<>());
  if (std::ranges::adjacent_find(steppers) != steppers.end())
    throw py::value_error("steppers: expected each stepper only once");
  return steppers;
}

}  // namespace

void Stepper::step_together(std::span<Stepper* const> steppers, py::handle scale, py::handle loss_scale,
                            py::handle found_inf, bool zeroes_grads) {
  const double grad_scale = checked_grad_scale(scale);
  const bool decides_on_device = steppers.size() == 1 && steppers[0]->operands_.api != nullptr;
  std::vector<CudaStream> streams;
  std::vector<Tensors::Gradients> gradients;
  for (Stepper* each : steppers) {
    if (!each->grads_ && !each->tensors_)
      throw py::type_error("grads: optimizers that step together need gradients bound at construction");
    if (each->groups_ != steppers[0]->groups_)
      throw py::type_error("groups: expected optimizers with equally many groups");
    streams.push_back(each->operands_.stream(py::none(), py::none()));
    gradients.push_back(each->tensors_ ? each->tensors_->read(zeroes_grads) : Tensors::Gradients());
  }
  LossScaler scaler;
  const auto add = [&](std::optional<Array>& to, py::handle object, const char* name) {
    if (object.is_none()) return;
    if (!decides_on_device) throw py::type_error(text(name, ": expected None for several devices or the CPU"));
    to = Array::import(object, name, Access::read);
    require_same_device(*to, steppers[0]->operands_.params);
    if (to->size() != 1) throw py::value_error(text(name, ": expected one number"));
  };
  add(scaler.scale, loss_scale, "loss_scale");
  add(scaler.found_inf, found_inf, "found_inf");
  const std::vector<Stepper*> ordered = in_order({steppers.begin(), steppers.end()});
  const auto has_rate = [](const Stepper* each) { return !each->clock_.on_device(); };
  const auto found = std::ranges::find_if(steppers, has_rate);
  Stepper& first = found == steppers.end() ? *steppers[0] : **found;
  std::vector<Step> steps;
  for (const Stepper* each : steppers)
    steps.push_back(each->operands_.step(each->grads_ ? *each->grads_ : each->operands_.params, zeroes_grads));
  Verdict verdict{.grad_scale = grad_scale};
  for (Tries tries(first.patience_);;) {
    tries.begin();
    for (Stepper* each : steppers)
      if (!each->clock_.on_device()) each->wait_for(Of::count);
    const NextNumbers numbers = first.next_numbers();
    std::deque<StepLock> locks;
    for (Stepper* each : ordered) locks.emplace_back(each->step_mutex_);
    if (!first.is_current(numbers, tries) || std::ranges::any_of(steppers, &Stepper::is_undecided)) {
      locks.clear();
      tries.fail();
      continue;
    }
    for (size_t i = 0; i < steppers.size(); ++i) steppers[i]->require_unmoved(streams[i]);
    const auto can_read = [&](size_t i) {
      return !steppers[i]->tensors_ || steppers[i]->locate_gradients(gradients[i], zeroes_grads);
    };
    size_t unfit = 0;
    while (unfit < steppers.size() && can_read(unfit)) ++unfit;
    if (unfit < steppers.size()) {
      locks.clear();
      steppers[unfit]->tensors_->fit(gradients[unfit]);
      continue;
    }
    const bool is_guarded = steppers.front()->guard_.is_on();
    if (is_guarded && !decides_on_device && std::ranges::any_of(steppers, std::not_fn(has_rate)))
      throw py::value_error(
          "max_norm, skip_nonfinite: expected the parameters of a capturable optimizer on one device, got several");
    for (size_t i = 0; i < steppers.size(); ++i) steps[i].averaging = steppers[i]->averaging_of(numbers);
    std::vector<Launch> launches;
    for (size_t i = 0; i < steppers.size(); ++i)
      launches.push_back(steppers[i]->prepare_launch(steppers[i]->plan(steps[i]), streams[i]));
    if (decides_on_device && (is_guarded || scaler.is_present())) {
      first.prepare_guard(first.guard_);
      const GilRelease unlocked;
      first.advance_guarded(launches[0], numbers, grad_scale, scaler);
      break;
    }

    const GilRelease unlocked;
    if (is_guarded) verdict = judge(steppers, launches, numbers, grad_scale);
    for (size_t i = 0; i < steppers.size(); ++i)
      if (verdict.grad_scale)
        steppers[i]->advance(launches[i], numbers, *verdict.grad_scale);
      else
        steppers[i]->zero_gradients(launches[i]);
    break;
  }
  if (verdict.grad_scale)
    for (const Stepper* each : steppers) each->raise_versions(Written::by_step);
  if (zeroes_grads)
    for (size_t i = 0; i < steppers.size(); ++i) {
      if (steppers[i]->tensors_) steppers[i]->tensors_->finish_zeroing(gradients[i]);
      raise_versions_of(steppers[i]->bound_tensors_);
    }
  if (!verdict.grad_scale) steppers.front()->require_patience(verdict);
}

void Stepper::skip_together(std::span<Stepper* const> steppers) {
  if (steppers.empty()) return;
  Verdict verdict;
  {
    std::deque<StepLock> locks;
    for (Stepper* each : in_order({steppers.begin(), steppers.end()})) locks.emplace_back(each->step_mutex_);
    for (Stepper* each : steppers) each->settle(Of::record);
    verdict = skip(steppers);
    for (Stepper* each : steppers)
      if (each->decision_ && each->clock_.on_device()) each->decision_->write(each->record_.as_decision());
  }
  steppers.front()->require_patience(verdict);
}

/// A change that has been checked.
struct Stepper::Prepared {
  Change& change;
  std::vector<Array> states;
  std::optional<Array> params;
  std::vector<RuleConfig> configs;     // if the settings change
  std::optional<Partition> partition;  // if it changes
  StepTable table;                     // empty unless that of a capturable optimizer changes
};

/// Makes the checks that do not depend on anything that other threads can change. Must be called without the lock,
/// because computing the table of a capturable optimizer calls schedules.
Stepper::Prepared Stepper::prepare(Change& change) {
  Prepared prepared{.change = change, .states = {}, .params = {}, .configs = {}, .partition = {}, .table = {}};
  if (change.states) {
    prepared.states = import_states(*change.states, operands_.state_names, operands_.params, Access::read);
    require_uncrossed(prepared.states, operands_.states);
  }
  if (!change.params.is_none()) {
    prepared.params = Array::import(change.params, "params", Access::read);
    require_same_size(*prepared.params, operands_.params);
    require_disjoint(*prepared.params, operands_.params);
  }
  if (change.settings) {
    prepared.configs = configs_with(change.settings->groups);
    if (change.settings->groups.ema.has_value() != operands_.has_average)
      throw py::value_error("settings: an average of the parameters cannot be added or removed");
  }
  if (clock_.on_device()) prepare_table(prepared);
  return prepared;
}

/// Computes the partition and the constants of a capturable optimizer after a change. Throws ValueError if captured
/// graphs cannot continue with the change, because it would need other segments or rows.
void Stepper::prepare_table(Prepared& prepared) {
  const Change& change = prepared.change;
  NumberSources sources;
  std::vector<RuleConfig> configs = prepared.configs;
  Guard guard;
  std::optional<double> ema;
  std::optional<Partition> partition;
  {
    const StepLock lock(step_mutex_);
    partition = partition_;
    if (change.step_count) {
      prepared.partition = partition_with(*change.step_count, change.counts, frozen_);
      partition = prepared.partition;
    }
    if (partition->rows().size() != partition_.rows().size() ||
        !std::ranges::equal(partition->segments(), partition_.segments()) ||
        (change.settings && change.settings->groups.frozen != frozen_))
      throw py::value_error(
          "groups: a capturable optimizer keeps the frozen groups that it was made with, and one step count in each "
          "group; make a new optimizer");
    guard = change.settings ? change.settings->groups.guard : guard_;
    ema = change.settings ? change.settings->groups.ema : ema_;
    if (guard.max_norm.has_value() != guard_.max_norm.has_value() || (guard.patience > 0) != (guard_.patience > 0))
      throw py::value_error(
          "max_norm, skip_nonfinite: a capturable optimizer clips and skips steps if it was made to; make a new "
          "optimizer");
    if (!change.settings && !change.rate && std::ranges::equal(partition->rows(), partition_.rows())) return;
    if (!change.settings) configs = configs_;
    sources = sources_;
  }
  if (change.rate) sources.of_optimizer = change.rate->source;
  if (change.settings) {
    sources.of_groups = change.settings->groups.rates;
    sources.numbers = change.settings->groups.changing;
  }
  prepared.table = table_of(configs, sources, guard, ema, *partition, clock_.steps_on_device());
}

/// Computes the new partition from the current one, unless `prepare_table` has computed it. Throws if the change cannot
/// be made. Requires the lock and the GIL.
void Stepper::complete(Prepared& prepared) {
  const Change& change = prepared.change;
  if (change.settings && change.settings->groups.guard.is_on()) prepare_guard(change.settings->groups.guard);
  const std::vector<bool>& frozen = change.settings ? change.settings->groups.frozen : frozen_;
  if (change.step_count && !prepared.partition) {
    prepared.partition = partition_with(*change.step_count, change.counts, frozen);
  } else if (frozen != frozen_) {
    const int64_t count = clock_.count();
    prepared.partition = partition_with(count, partition_.other_counts(count), frozen);
  }
  if (prepared.change.states) {
    states_watch_.check(moved);
    require_in_place(*prepared.change.states, prepared.states);
  }
  if (prepared.params) {
    watch_.check(moved);
    require_in_place(prepared.change.params, *prepared.params);
  }
}

/// Makes the change, and moves the previous values into it. Requires the lock.
void Stepper::make(Prepared& prepared) {
  if (prepared.change.states) copy_all(prepared.states, operands_.states);
  if (prepared.params) copy_all({&*prepared.params, 1}, {&operands_.params, 1});
  if (prepared.change.settings) use(*prepared.change.settings, std::move(prepared.configs));
  if (prepared.change.rate) use(*prepared.change.rate);
  if (prepared.partition) use(std::move(*prepared.partition));
  if (prepared.change.skipped_steps) {
    record_.set_skipped(*prepared.change.skipped_steps);
    unreported_ = {};
  }
  const GilRelease unlocked;
  if (decision_ && clock_.on_device()) decision_->write(record_.as_decision());
  if (!prepared.table.rows.empty())
    clock_.set_table(prepared.table, prepared.change.step_count);
  else if (prepared.change.step_count)
    clock_.set_count(*prepared.change.step_count);
}

bool Stepper::commit(std::span<Change> changes, const std::vector<Assignment>& attributes,
                     const std::vector<NewEntries>& updates) {
  std::vector<Prepared> all;
  std::vector<Stepper*> steppers;
  for (Change& change : changes) {
    steppers.push_back(change.stepper);
    all.push_back(change.stepper->prepare(change));
  }
  const std::vector<Stepper*> ordered = in_order(std::move(steppers));
  {
    std::deque<StepLock> locks;
    for (Stepper* each : ordered) locks.emplace_back(each->step_mutex_);
    for (const Change& change : changes)
      if (change.settings && !change.settings->expected.is_none() &&
          !change.stepper->settings_.is(change.settings->expected))
        return false;
    for (Stepper* each : ordered) each->settle(Of::record);
    for (Prepared& each : all) each.change.stepper->complete(each);
    for (Prepared& each : all) each.change.stepper->make(each);
  }
  for (const auto& [object, name, value] : attributes)
    if (PyObject_GenericSetAttr(object.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
  for (const auto& [dictionary, entries] : updates)
    if (PyDict_Update(dictionary.ptr(), entries.ptr()) != 0) throw py::error_already_set();
  for (const Prepared& each : all)
    if (each.change.states || each.params)
      each.change.stepper->raise_versions(each.params ? Written::params_and_states : Written::states);
  return true;
}

}  // namespace lrcore
