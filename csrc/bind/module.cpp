// The contents of the extension module lrcore._lrcore_core, which python/lrcore/_lrcore_core.pyi documents.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "../cpu/fp_mode.h"
#include "../cpu/openmp.h"
#include "../cpu/pool.h"
#include "../cpu/run.h"
#include "../dispatch.h"
#include "arguments.h"
#include "device_array.h"
#include "functional_step.h"
#include "gil.h"
#include "step_method.h"
#include "sums.h"

// threadpoolctl looks these functions up by name.
extern "C" {
[[gnu::visibility("default")]] int lrcore_get_num_threads() { return lrcore::pool::threads(); }
[[gnu::visibility("default")]] void lrcore_set_num_threads(int count) {
  if (count >= 1) lrcore::pool::set_threads(count);
}
}

namespace lrcore {
namespace {

std::vector<std::string> strings(const Names& names) { return {names.text, names.text + names.count}; }

/// Adds a named-tuple type to the module, and returns it.
py::object add_named_tuple(py::module_& module, const char* name, const std::vector<const char*>& fields) {
  const auto make = py::module_::import("collections").attr("namedtuple");
  const py::object type = make(name, fields, py::arg("module") = module.attr("__name__"));
  module.add_object(name, type);
  return type;
}

py::dict list_rules(const py::object& rule_info) {
  py::dict all;
  for (const RuleInfo& info : rule_infos())
    all[info.name] = rule_info(py::tuple(py::cast(strings(info.states))), py::tuple(py::cast(strings(info.hypers))),
                               info.cost.divisions, info.cost.roots);
  return all;
}

std::vector<std::string> backends() {
  std::vector<std::string> names;
  for (const Backend& backend : cpu_backends())
    if (backend.runs_here()) names.emplace_back(backend.name);
  return names;
}

void use_backend(py::handle object) {
  if (!py::isinstance<py::str>(object)) throw py::type_error(text("backend: expected a name, got ", type_name(object)));
  // An environment variable may contain bytes that are not valid text.
  const auto encoded =
      py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(object.ptr(), "utf-8", "backslashreplace"));
  if (!encoded) throw py::error_already_set();
  const std::string name = encoded;
  const Backend* backend = find_backend(name);
  if (backend == nullptr) {
    std::string known;
    for (const Backend& each : cpu_backends()) known += text(known.empty() ? "" : ", ", each.name);
    throw py::value_error(text("backend: expected one of ", known, ", got '", name, "'",
                               name == "cuda" ? "; it is used automatically for CUDA arrays, and only for them" : ""));
  }
  if (!backend->runs_here())
    throw std::runtime_error(
        text("backend: this CPU cannot run '", name, "'; lrcore.backends() lists the ones it can run"));
  choose_backend(*backend);
}

void set_num_threads(py::handle count) {
  pool::set_threads(static_cast<int>(to_integer(count, "num_threads", 1, std::numeric_limits<int>::max())));
}

py::dict build_info() {
  py::dict info;
  info["version"] = LRCORE_VERSION;
  info["compiler"] = LRCORE_COMPILER;
  info["fp_mode"] = cpu::DefaultFpMode::is_known ? "default" : "caller's";
  info["cuda"] = LRCORE_CUDA != 0;
  std::vector<std::string> built;
  for (const Backend& backend : cpu_backends()) built.emplace_back(backend.name);
  info["architectures"] = built;
  info["cuda_architectures"] = py::str(LRCORE_CUDA_ARCHITECTURES).attr("split")();
  return info;
}

/// Returns the properties of parameters that their states must match: the number of elements, the CUDA device number
/// (-1 for the CPU), and the address modulo 4096.
py::object describe(const py::object& memory_info, py::handle object) {
  const Array params = Array::import(object, "params", Access::write);
  return memory_info(params.size(), params.device().cuda, reinterpret_cast<uintptr_t>(params.data()) % 4096);
}

/// Computes the product in the default floating-point mode, as a step does.
double momentum_product(py::handle step_count, double beta1, double momentum_decay) {
  const int64_t t = to_integer(step_count, "step_count", 0, max_step);
  const cpu::DefaultFpMode mode;
  return nadam_momentum_product(static_cast<double>(t), beta1, momentum_decay);
}

/// Throws for an array of any dtype and layout that has no memory, or whose memory does not represent its values.
/// Ignores other objects.
void require_memory(const std::string& name, py::handle object) {
  refuse_disguises(object, name);
  if (!torch_type_of(object)) return;
  const DLPackExchangeAPI* api = exchange_api(py::type::handle_of(object));
  DLTensor tensor;
  if (api == nullptr || api->dltensor_from_py_object_no_sync == nullptr) return;
  if (api->dltensor_from_py_object_no_sync(object.ptr(), &tensor) != 0) return PyErr_Clear();  // e.g. sparse
  const bool is_empty = std::find(tensor.shape, tensor.shape + tensor.ndim, 0) != tensor.shape + tensor.ndim;
  if (tensor.data == nullptr && !is_empty) refuse_null(object, name);
}

/// Copies an array to another of the same size, on the CPU or any device, and waits for completion.
void copy_array(py::handle source, py::handle destination, const std::string& source_name,
                const std::string& destination_name) {
  const Array to = Array::import(destination, destination_name, Access::write);
  const Array from = Array::import(source, source_name, Access::read);
  require_same_size(from, to);
  require_disjoint(from, to);
  require_in_place(destination, to);
  require_in_place(source, from);
  copy_all({&from, 1}, {&to, 1});
}

/// Runs the stream bound once over the arrays of a step. On a device, the pass covers only whole groups of four
/// elements, and the arrays must be aligned to 16 bytes.
void run_stream_bound(py::handle params, py::handle grads, const py::sequence& states, py::handle requested) {
  Names names;
  while (names.count < static_cast<int>(states.size()) && names.count < max_states) names = names + Names{"state"};
  const Operands operands(params, states, names);
  const CudaStream stream = operands.stream(requested, grads);
  const Array gradients = operands.gradients(grads, stream);

  const Step work = operands.step(gradients);
  const int64_t n = operands.params.size();
  const GilRelease unlocked;
  if (operands.api == nullptr) return cpu::run(active_backend().table->stream_bounds[names.count], work, n);
  if (cuda::chunk_width(work, names.count) != cuda::Vec4::width || reinterpret_cast<uintptr_t>(work.p.data) % 16)
    throw std::invalid_argument("params: expected arrays aligned to 16 bytes");
  const CurrentDevice current(*operands.api, operands.device());
  check_cuda(*operands.api, operands.api->stream_bound(&work, names.count, n, stream.handle),
             "launching the stream bound");
}

/// Runs one pass of the arithmetic bound of a rule over CPU arrays.
void run_arithmetic_bound(const std::string& rule, py::handle params, py::handle grads, const py::sequence& states) {
  const RuleConfig config(rule, Decay::l2);
  const Operands operands(params, states, config.info().states);
  if (operands.api != nullptr) throw std::invalid_argument("params: expected CPU arrays");
  const Step work = operands.step(operands.gradients(grads, {}));
  const GilRelease unlocked;
  cpu::run(active_backend().table->arithmetic_bounds[config.rule], work, operands.params.size());
}

/// Whether two objects are the same, or lists of the same objects.
bool are_same(py::handle object, py::handle other) {
  if (object.is(other)) return true;
  if (!PyList_Check(object.ptr()) || !PyList_Check(other.ptr())) return false;
  const Py_ssize_t size = PyList_GET_SIZE(object.ptr());
  if (PyList_GET_SIZE(other.ptr()) != size) return false;
  for (Py_ssize_t i = 0; i < size; ++i)
    if (PyList_GET_ITEM(object.ptr(), i) != PyList_GET_ITEM(other.ptr(), i)) return false;
  return true;
}

/// Whether two lists of dictionaries have the same keys and objects.
bool have_same_entries(const py::list& dictionaries, const py::list& others) {
  if (dictionaries.size() != others.size()) return false;
  for (size_t i = 0; i < others.size(); ++i) {
    PyObject* dictionary = PyList_GET_ITEM(dictionaries.ptr(), static_cast<Py_ssize_t>(i));
    PyObject* other = PyList_GET_ITEM(others.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyDict_Check(dictionary) || PyDict_Size(dictionary) != PyDict_Size(other)) return false;
    PyObject *key = nullptr, *value = nullptr;
    for (Py_ssize_t at = 0; PyDict_Next(other, &at, &key, &value) != 0;) {
      PyObject* found = PyDict_GetItemWithError(dictionary, key);
      if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (found == nullptr || !are_same(found, value)) return false;
    }
  }
  return true;
}

/// Lets the garbage collector see the references held by instances of a class, because they may form cycles.
template <class Class>
void make_collectable(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  // The collector may run while pybind11 creates an instance, which is tracked before it has space for its holder.
  static constexpr auto is_constructed = [](PyObject* self) {
    const auto* instance = reinterpret_cast<py::detail::instance*>(self);
    const bool has_space = instance->simple_layout || instance->nonsimple.values_and_holders != nullptr;
    return has_space && py::detail::is_holder_constructed(self);
  };
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    return is_constructed(self) ? py::cast<Class&>(py::handle(self)).traverse(visit, arg) : 0;
  };
  type.tp_clear = [](PyObject* self) {
    if (is_constructed(self)) py::cast<Class&>(py::handle(self)).clear();
    return 0;
  };
}

// How Python passes Numbers, NewSettings, NewRate, Tensors and Change.
using NumbersTuple = std::tuple<std::vector<double>, double, bool>;
using GroupTuple = std::tuple<NumbersTuple, bool, double, py::object>;
using PlaceTuple = std::tuple<size_t, int>;
using NumberTuple = std::tuple<py::object, py::object, double, std::vector<PlaceTuple>>;
using WholeTuple = std::tuple<std::optional<double>, int64_t, std::optional<double>>;
using SettingsTuple = std::tuple<py::object, py::object, std::vector<GroupTuple>, std::vector<NumberTuple>, WholeTuple>;
using RateTuple = std::tuple<py::object, py::object>;
using RangeTuple = std::tuple<int64_t, int64_t>;
using TensorsTuple = std::tuple<std::vector<std::string>, std::vector<py::object>, std::vector<py::object>,
                                std::vector<int64_t>, py::object, py::object>;
using CountTuple = std::tuple<int64_t, int64_t, int64_t>;
using ChangeTuple =
    std::tuple<Stepper*, std::optional<py::sequence>, py::object, std::vector<CountTuple>, std::optional<SettingsTuple>,
               std::optional<RateTuple>, py::object, std::optional<int64_t>>;

Numbers to_numbers(const NumbersTuple& parts) {
  return {.values = std::get<0>(parts), .weight_decay = std::get<1>(parts), .maximize = std::get<2>(parts)};
}

std::shared_ptr<const std::vector<NumberSource>> to_sources(const std::vector<NumberTuple>& numbers,
                                                            const std::vector<bool>& frozen) {
  if (numbers.empty()) return nullptr;
  auto sources = std::make_shared<std::vector<NumberSource>>();
  for (const auto& [source, check, limit, places] : numbers) {
    NumberSource each{.source = source, .check = check, .limit = limit, .places = {}, .is_used = false};
    for (const auto& [group, index] : places) {
      if (group >= frozen.size() || index >= max_hypers) throw py::value_error("numbers: expected hyperparameters");
      each.places.push_back({group, index});
      each.is_used = each.is_used || NumberPlace::is_of_all(index) || !frozen[group];
    }
    sources->push_back(std::move(each));
  }
  return sources;
}

GroupSettings to_groups(const std::vector<GroupTuple>& groups, const std::vector<NumberTuple>& changing) {
  GroupSettings all;
  bool all_alike = true;
  for (const auto& [numbers, frozen, scale, source] : groups) {
    all.numbers.push_back(to_numbers(numbers));
    all.frozen.push_back(frozen);
    const bool has_source = !frozen && !source.is_none();
    all.rates.push_back({has_source ? source : py::object(), frozen ? 1 : scale, frozen});
    all_alike = all_alike && !frozen && !has_source && scale == 1;
  }
  if (all_alike) all.rates.clear();
  all.changing = to_sources(changing, all.frozen);
  return all;
}

NewSettings to_settings(const SettingsTuple& parts) {
  const auto& [expected, shown, groups, changing, whole] = parts;
  NewSettings settings{.expected = expected, .shown = shown, .groups = to_groups(groups, changing)};
  const auto& [max_norm, patience, ema] = whole;
  settings.groups.guard = {.max_norm = max_norm, .patience = patience};
  settings.groups.ema = ema;
  return settings;
}

NewRate to_rate(const RateTuple& parts) { return {.schedule = std::get<0>(parts), .source = std::get<1>(parts)}; }

std::optional<std::vector<sums::Elements>> to_units(const std::optional<std::vector<RangeTuple>>& ranges) {
  if (!ranges) return std::nullopt;
  std::vector<sums::Elements> units;
  for (const auto& [begin, end] : *ranges) units.push_back({.begin = begin, .end = end});
  return units;
}

std::unique_ptr<Tensors> to_tensors(const TensorsTuple& parts) {
  const auto& [names, tensors, views, begins, fitting, zero] = parts;
  return std::make_unique<Tensors>(names, tensors, views, begins, fitting, zero);
}

Change to_change(const ChangeTuple& parts) {
  const auto& [stepper, states, step_count, counts, settings, rate, params, skipped_steps] = parts;
  Change change{.stepper = stepper,
                .states = states,
                .step_count = {},
                .counts = {},
                .settings = settings ? std::optional(to_settings(*settings)) : std::nullopt,
                .rate = rate ? std::optional(to_rate(*rate)) : std::nullopt,
                .params = params,
                .skipped_steps = skipped_steps};
  if (!step_count.is_none()) change.step_count = to_integer(step_count, "step_count", 0, max_step);
  for (const auto& [begin, end, count] : counts) change.counts.push_back({{begin, end}, count});
  return change;
}

void bind_watch(py::module_& module) {
  using namespace py::literals;
  struct NamedWatch : Watch {
    std::string why;
  };
  py::class_<NamedWatch>(module, "Watch", py::custom_type_setup(make_collectable<NamedWatch>))
      .def(py::init([](const std::vector<std::string>& names, const std::vector<py::object>& arrays, std::string why) {
             if (names.size() != arrays.size()) throw py::value_error("names: expected one for each array");
             auto watch = std::make_unique<NamedWatch>();
             watch->why = std::move(why);
             for (size_t i = 0; i < arrays.size(); ++i)
               if (!watch->add(arrays[i], names[i], false))
                 throw py::type_error(text(names[i], ": expected a NumPy or torch array, got ", type_name(arrays[i])));
             return watch;
           }),
           "names"_a, "arrays"_a, "why"_a)
      .def("check", [](const NamedWatch& self) { self.check(self.why.c_str()); });
}

void bind_stepper(py::module_& module) {
  using namespace py::literals;
  py::class_<Stepper> cls(module, "Stepper", py::custom_type_setup(make_collectable<Stepper>));
  add_step_method(cls);
  cls.def(py::init([](const std::string& rule, py::handle params, const py::sequence& states, py::handle grads,
                      const std::string& decay, const std::vector<std::vector<RangeTuple>>& groups,
                      const SettingsTuple& settings, const RateTuple& rate, std::optional<int64_t> max_steps,
                      const py::object& flat_gradients, const std::optional<TensorsTuple>& tensors,
                      const std::optional<std::vector<RangeTuple>>& units) {
            std::vector<std::vector<Range>> ranges(groups.size());
            for (size_t i = 0; i < groups.size(); ++i)
              for (const auto& [begin, end] : groups[i]) ranges[i].push_back({begin, end});
            return std::make_unique<Stepper>(rule, params, states, grads, find_decay(decay), ranges,
                                             to_settings(settings), to_rate(rate), max_steps, flat_gradients,
                                             tensors ? to_tensors(*tensors) : nullptr, to_units(units));
          }),
          "rule"_a, "params"_a, "states"_a, "grads"_a, "decay"_a, "groups"_a, "settings"_a, "rate"_a,
          "max_steps"_a = py::none(), "flat_gradients"_a = py::none(), "tensors"_a = py::none(), "units"_a = py::none())
      .def_property("step_count", &Stepper::step_count, &Stepper::set_step_count,
                    "The number of steps applied so far, 0 to 2**53 - 1. It can be set; the next step is then "
                    "step_count + 1.")
      .def_property_readonly("rule", &Stepper::rule, "The name of the update rule; lrcore.rules() lists all rules.")
      .def_property_readonly("device", &Stepper::device, "The device of the arrays, such as cpu or cuda:0.")
      .def_property_readonly("size", &Stepper::size, "The number of parameters.")
      .def_property_readonly("_settings", &Stepper::settings)
      .def_property_readonly("schedule", &Stepper::schedule,
                             "The learning-rate schedule. Assign to `lr` to replace it.")
      .def_property_readonly("grad_norm", &Stepper::grad_norm,
                             "The norm of the gradients, multiplied by abs(grad_scale), before clipping, at the last "
                             "step with max_norm or skip_nonfinite; None before.")
      .def_property_readonly("skipped_steps", &Stepper::skipped_steps,
                             "The number of steps that were skipped because gradients were not finite.")
      .def_property_readonly("_started_steps", &Stepper::started_steps)
      .def("_step_count_of", &Stepper::step_count_of, "group"_a)
      .def("_counts", &Stepper::counts)
      .def("_copy_average", &Stepper::copy_average, "out"_a)
      .def(
          "_snapshot",
          [type =
               add_named_tuple(module, "Snapshot", {"step_count", "counts", "settings", "schedule", "skipped_steps"})](
              Stepper& self, const py::sequence& states) { return type(*self.snapshot(states)); },
          "states"_a);
  module.def(
      "step_together",
      [](const std::vector<Stepper*>& steppers, py::handle grad_scale, py::handle loss_scale, py::handle found_inf,
         bool zero_grads) { return Stepper::step_together(steppers, grad_scale, loss_scale, found_inf, zero_grads); },
      "steppers"_a, "grad_scale"_a = 1.0, "loss_scale"_a = py::none(), "found_inf"_a = py::none(), py::kw_only(),
      "zero_grads"_a = false);
  module.def(
      "skip_together", [](const std::vector<Stepper*>& steppers) { Stepper::skip_together(steppers); }, "steppers"_a);
  module.def(
      "commit",
      [](const std::vector<ChangeTuple>& changes, const std::vector<Assignment>& attributes,
         const std::vector<NewEntries>& updates) {
        std::vector<Change> all;
        for (const ChangeTuple& each : changes) all.push_back(to_change(each));
        return Stepper::commit(all, attributes, updates);
      },
      "changes"_a, "attributes"_a = py::tuple(), "updates"_a = py::tuple());
}

void bind_functional_step(py::module_& module) {
  using namespace py::literals;
  py::class_<FunctionalStep>(module, "FunctionalStep")
      .def(py::init([](const std::string& rule, const std::string& decay, const NumbersTuple& numbers) {
             return std::make_unique<FunctionalStep>(RuleConfig(rule, find_decay(decay)).with(to_numbers(numbers)));
           }),
           "rule"_a, "decay"_a, "numbers"_a)
      .def("apply", &FunctionalStep::apply, "params"_a, "grads"_a, "states"_a, "step"_a, "lr"_a, "grad_scale"_a,
           "stream"_a);
}

}  // namespace
}  // namespace lrcore

PYBIND11_MODULE(_lrcore_core, module, pybind11::mod_gil_not_used()) {
  using namespace lrcore;
  using namespace py::literals;
  pool::prepare_for_forks();
  prepare_imports();
  module.def("rules", [type = add_named_tuple(module, "RuleInfo", {"states", "hyper", "divisions", "roots"})] {
    return list_rules(type);
  });
  module.def("backends", &backends);
  module.def("active_backend", [] { return active_backend().name; });
  module.def("use_backend", &use_backend, "name"_a);
  module.def("num_threads", &pool::threads);
  module.def("set_num_threads", &set_num_threads, "count"_a);
  module.def("join_openmp", &openmp::join);
  module.def("build_info", &build_info);
  module.def("dot", &dot, "x"_a, "y"_a);
  module.def("norm", &norm, "x"_a);
  module.def("norms", &norms, "arrays"_a);
  module.def(
      "to_float", [](const char* name, py::handle value) { return to_double(value, name); }, "name"_a, "value"_a);
  module.def(
      "describe",
      [type = add_named_tuple(module, "MemoryInfo", {"size", "cuda_device", "offset"})](py::handle params) {
        return describe(type, params);
      },
      "params"_a);
  module.def("nadam_momentum_product", &momentum_product, "step_count"_a, "beta1"_a, "momentum_decay"_a);
  module.def("copy", &copy_array, "source"_a, "destination"_a, "source_name"_a = "source",
             "destination_name"_a = "destination");
  module.def("cuda_devices", &cuda_devices);
  module.def("run_stream_bound", &run_stream_bound, "params"_a, "grads"_a, "states"_a, "stream"_a = py::none());
  module.def("run_arithmetic_bound", &run_arithmetic_bound, "rule"_a, "params"_a, "grads"_a, "states"_a);
  py::class_<DeviceArray>(module, "DeviceArray")
      .def(py::init<int, int64_t, int64_t, float>(), "device"_a, "size"_a, "offset"_a, "value"_a)
      .def("__dlpack_device__", &DeviceArray::dlpack_device)
      .def(
          "__dlpack__",
          [](const DeviceArray& self, py::handle, py::handle max_version, py::handle dl_device, py::handle copy) {
            return self.dlpack(max_version, dl_device, copy);
          },
          py::kw_only(), "stream"_a = py::none(), "max_version"_a = py::none(), "dl_device"_a = py::none(),
          "copy"_a = py::none());
  module.def("have_same_entries", &have_same_entries, "dictionaries"_a, "others"_a);
  module.def(
      "require_detachable", [](const std::string& name, py::handle gradient) { require_detachable(gradient, name); },
      "name"_a, "gradient"_a);
  module.def("require_memory", &require_memory, "name"_a, "array"_a);
  bind_stepper(module);
  bind_functional_step(module);
  bind_watch(module);
}
