"""The base class of the optimizers, derived from the Stepper, which performs the step."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import inspect
import itertools
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack, cast

from lrcore import schedules
from lrcore._arrays.memory import State, aligned_zeros, allocate, wrap_like
from lrcore._checks import FilePath, file_path, flag, naming, require_entries
from lrcore._files.safetensors import naming_file
from lrcore._lrcore_core import Snapshot, Stepper, commit, describe, rules
from lrcore._lrcore_core import copy as copy_array
from lrcore._names import explain_attributes, unknown_argument
from lrcore._runtime import require_environment
from lrcore.optimizers import (
    _arguments,
    _changing,
    _file,
    _group_state,
    _groups,
    _named_state,
    _torch_export,
    _torch_import,
    _torch_state,
)
from lrcore.optimizers._changing import parts_of, schedules_in, value_at
from lrcore.optimizers._groups import Groups
from lrcore.optimizers._hyper import Hyper
from lrcore.optimizers._places import flat_of, gradients_of, places_of
from lrcore.optimizers._ranges import Ranges, rest_of
from lrcore.optimizers._settings import (
    AVERAGE,
    WHOLE,
    Change,
    GroupSettings,
    Settings,
    WholeSettings,
    checked_decay,
    require_alike_averages,
    restored_skips,
    restored_whole,
    settled,
    shown_rate,
    stored_whole,
)
from lrcore.optimizers._shared import DEFAULTS, Shared
from lrcore.schedules._dictionary import encode
from lrcore.schedules._state import Restored, numbers_of, stateful, states_of

if TYPE_CHECKING:
    from lrcore._lrcore_core import (
        MemoryInfo,
        _Group,
        _Number,
        _Numbers,
        _Rate,
        _Settings,
        _Tensors,
        _WholeSettings,
    )

_RULES = rules()
_SHARED = inspect.cleandoc(str(Shared.__doc__))

_PARAMS = """\
params : array of float32, or Pack
    The parameters, updated in place: a C-contiguous array of any shape, on the CPU or a CUDA device, from NumPy, CuPy,
    PyTorch or another library that supports DLPack; or a `lrcore.Pack` of such memory.
lr : float, schedule or callable
    The learning rate. A schedule or callable is called once before each step, with the number of steps taken so far. It
    is called again only if that number has changed in the meantime. The numbers below can be schedules or callables,
    too."""
"""The first two arguments of each class, for the docstrings."""

_NONE: Shared = {}
_WEIGHT_DECAY = -1
_OF_WHOLE = (("max_norm", -2), ("ema", -3))
"""What the core has in place of the index of a hyperparameter."""


def _hyper_entries(opt: Any) -> dict[str, str]:
    """Return, by name, the expressions that read the hyperparameters; empty before the optimizer is initialized."""
    return {name: f'opt.hyper["{name}"]' for name in (opt._hyperparameters if "_params" in vars(opt) else ())}


@explain_attributes(
    "zero_grad", "param_groups", "add_param_group", "learning_rate", "defaults", "iterations", "beta1", "betas",
    "momentum", "eps", "observe", "get_last_lr", entries=_hyper_entries,
)  # fmt: skip
class Optimizer(Stepper):
    """The base class of all optimizers.

    A subclass has arguments of its own, and a table that maps them to an update rule. Class keywords change the
    defaults of the shared arguments: ``class Mine(Adam, weight_decay=0.1)``.
    """

    _choices: ClassVar[tuple[str, ...]] = ()
    """The arguments that select the rule. For a number, only whether it is 0 matters."""
    _rules: ClassVar[Mapping[tuple[Any, ...], str]] = {}
    """Maps the values of these arguments to the name of the rule."""
    _changed_defaults: ClassVar[Mapping[str, Any]] = {}
    """The defaults that this class itself changes."""
    _defaults: ClassVar[Shared] = DEFAULTS
    _has_groups = True
    """Whether the settings of groups can be assigned; False for the optimizers of a `lrcore.torch.FusedOptimizer`."""
    __signature__: ClassVar[inspect.Signature]

    def __init_subclass__(cls, **defaults: Unpack[Shared]) -> None:
        super().__init_subclass__()
        for name in defaults:
            if name not in cls._defaults:
                raise unknown_argument(cls.__name__, name, cls._defaults)
        cls._changed_defaults = _arguments.with_decay(defaults)
        changed = (vars(each).get("_changed_defaults", {}) for each in cls.__mro__)
        cls._defaults = cast(Shared, dict(ChainMap(*changed, dict(DEFAULTS))))
        cls.__signature__ = _arguments.full_signature(cls.__init__, cls._defaults)
        if cls.__doc__ is not None:
            text = inspect.cleandoc(cls.__doc__)
            cls.__doc__ = text.replace("{params}", _PARAMS).replace("{shared}", _SHARED)

    def __init__(
        self,
        params: Any,
        lr: schedules.Rate,
        own: Mapping[str, Any] = MappingProxyType({}),
        shared: Shared = _NONE,
        initial: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Check the arguments, select the rule and create the states.

        `own` has the class's own arguments, `shared` the shared arguments that were passed, and `initial` the initial
        values of states that do not begin as zeros.
        """
        arguments = _arguments.settings(type(self).__name__, own, shared, self._defaults)
        options, hyper = _arguments.options(arguments), _arguments.settable(arguments)
        max_steps = _arguments.table_length(arguments["capturable"], arguments["max_steps"])
        whole = WholeSettings(
            _arguments.number_or_none("max_norm", arguments["max_norm"]),
            _arguments.skipping(arguments["skip_nonfinite"]),
            _arguments.number_or_none("ema", arguments["ema"]),
        )
        ranges, settings = None, Settings(hyper, whole=whole)
        if arguments["groups"] is not None:
            size, places = self._described(params).size, places_of(params)
            ranges, groups = _groups.parsed(arguments["groups"], size, places, hyper, options)
            settings = Settings(hyper, groups, whole)
            self._choose_rule(settings.numbers(), options, lambda i: f"groups[{i - 1}]")
        rate = schedules.as_schedule(lr)
        self._bind(params, arguments["grads"], options, ranges, settings, rate, max_steps, initial)

    def _bind(
        self,
        params: Any,
        grads: Any,
        options: dict[str, Any],
        ranges: tuple[Ranges, ...] | None,
        settings: Settings,
        schedule: schedules.Schedule,
        max_steps: int | None,
        initial: Mapping[str, float] = MappingProxyType({}),
        tensors: _Tensors | None = None,
    ) -> None:
        """Create the states and bind all arrays. The arguments have been checked.

        If `ranges` is None, there is only the group of all elements. `tensors` are parts of the parameters whose
        gradients each step reads.
        """
        if "_params" in vars(self):
            raise TypeError(f"{type(self).__name__}: this optimizer is already initialized; make another")
        require_environment()
        self._options, self._max_steps = options, max_steps
        rule, for_core = self._configuration(settings)
        self._array, bound_grads = flat_of(params), gradients_of(params, grads)
        self._memory, self._places = self._described(params), places_of(params)
        self._ranges = (rest_of((), self._memory.size),) if ranges is None else ranges
        names = _RULES[rule].states
        memories = [allocate(self._memory, initial.get(name, 0.0)) for name in names]
        if settings.whole.ema is not None:
            names, average = (*names, AVERAGE), allocate(self._memory)
            copy_array(self._array, average, "params", AVERAGE)
            memories.append(average)
        states = [wrap_like(self._array, each) for each in memories]
        super().__init__(
            rule,
            self._array,
            states,
            bound_grads,
            options["decay"],
            self._ranges[1:],
            (None, settings, *for_core),
            self._rate_of(schedule),
            max_steps,
            None if self._places is None else functools.partial(gradients_of, params),
            tensors,
            None if self._places is None else self._places.units(),
        )
        self._params, self._grads = params, grads
        shown = states if self._places is None else map(params._over, states)
        self._state = State(zip(names, shown, strict=True))

    @classmethod
    def _described(cls, params: Any) -> MemoryInfo:
        """Return the description of the parameters' memory."""
        try:
            return describe(flat_of(params))
        except TypeError:
            if not _arguments.holds_torch_parameters(params):
                raise
            raise TypeError(
                f"params: expected a float32 array or a Pack, got {type(params).__name__}; for the parameters of a PyTorch "
                f"module, write lrcore.torch.FusedOptimizer(module.parameters(), lrcore.{cls._public_class().__name__})"
            ) from None

    def _configuration(
        self, settings: Settings
    ) -> tuple[str, tuple[list[_Group], list[_Number], _WholeSettings]]:
        """Return the rule that settings select, and the settings for the core.

        These are the groups, the numbers that change, and the settings of the whole optimizer.
        """
        every = settings.numbers()
        rule = self._choose_rule(every, self._options)
        maximize = self._options["maximize"]
        groups = [
            (
                self._numbers(rule, numbers, maximize if own.maximize is None else own.maximize),
                own.frozen,
                own.lr_scale,
                None if own.schedule is None else self._rate_of(own.schedule, f"opt.groups[{i}].lr")[1],
            )
            for i, (numbers, own) in enumerate(zip(every, settings.groups, strict=True))
        ]
        indices = {"weight_decay": _WEIGHT_DECAY} | {name: i for i, name in enumerate(_RULES[rule].hyper)}
        changing = []
        for part, with_it in settings.changing():
            self._require_stateless(part.value, part.label)
            if part.flat in indices and with_it:
                source = self._source_of_number(part)
                changing.append(part.for_core(source, [(i, indices[part.flat]) for i in with_it]))
        for name, index in _OF_WHOLE:
            if isinstance(value := getattr(settings.whole, name), schedules.Schedule):
                (part,) = parts_of(name, value)
                self._require_stateless(value, name)
                changing.append(part.for_core(self._source_of_number(part), [(0, index)]))
        return rule, (groups, changing, settings.whole.for_core())

    @staticmethod
    def _numbers(rule: str, hyper: Mapping[str, Any], maximize: bool) -> _Numbers:
        """Return the numbers of a group for the core, with 0 in place of a schedule."""
        flat = _arguments.flatten(hyper)
        *numbers, decay = [
            flat[name] if type(flat[name]) is float else 0.0 for name in (*_RULES[rule].hyper, "weight_decay")
        ]
        return numbers, decay, maximize

    @classmethod
    def _choose_rule(
        cls,
        groups: Sequence[Mapping[str, Any]],
        options: Mapping[str, Any],
        label: Callable[[int], str] = "opt.groups[{}]".format,
    ) -> str:
        """Return the name of the rule for the checked numbers of each group, and the options.

        A number that selects the rule, such as momentum, counts as 0 only if it is 0 in all groups. Raises ValueError if
        arguments are incompatible; the message begins with the `label` of a group other than the first.
        """
        if not cls._rules:
            raise TypeError(f"{cls.__name__} is abstract; use one of lrcore.optimizers.__all__")
        selecting = {name: any(each[name] for each in groups) for name in cls._choices if name in groups[0]}
        for i, each in enumerate(groups):
            # An option may require a number, such as `nesterov` a momentum, that only another group has.
            alike = all(bool(each[name]) == value for name, value in selecting.items())
            with naming(label(i) if i else ""):
                cls._check_together({**each, **(options if alike else cls._default_options())})
        chosen = {**options, **selecting}
        return cls._rules[tuple(chosen[name] for name in cls._choices)]

    @classmethod
    def _check_together(cls, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError if checked arguments are incompatible."""

    @classmethod
    def _default_options(cls) -> dict[str, Any]:
        """Return the default values of the structural options."""
        parameters = inspect.signature(cls).parameters
        return {name: parameters[name].default for name in parameters if name in _arguments.OPTIONS}

    @classmethod
    def _checked_options(cls, rule: Any, stored: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """Check stored options, which must have the known names.

        Earlier versions stored only two options; the others follow from the rule.
        """
        if isinstance(stored, Mapping) and {*stored} == {"decoupled_weight_decay", "maximize"}:
            values = next((values for values, each in cls._rules.items() if each == rule), ())
            chosen = dict(zip(cls._choices, values, strict=False))
            decoupled = flag("decoupled_weight_decay", stored["decoupled_weight_decay"])
            stored = {name: value for name, value in chosen.items() if name in _arguments.OPTIONS} | {
                "decay": "decoupled" if decoupled else "l2",
                "maximize": stored["maximize"],
            }
        return _arguments.options(require_entries("options", stored, known))

    def _rate_of(self, schedule: schedules.Schedule, name: str = "lr") -> _Rate:
        """Return the schedule, and the source of the core's rates: a number, or the schedule's unchecked formula."""
        self._require_stateless(schedule, name)
        return schedule, schedule.lr if type(schedule) is schedules.Constant else self._source_of(schedule)

    def _source_of(self, schedule: schedules.Schedule) -> Callable[[int], float]:
        """Return the formula of a schedule, which does not check the rate. A FusedOptimizer replaces this method."""
        return schedule._value

    def _source_of_number(self, part: _changing.Part) -> Callable[[int], Any]:
        """Return the callable of the step count for a number. A FusedOptimizer replaces this method."""
        return part.source

    def _require_stateless(self, schedule: schedules.Schedule, name: str) -> None:
        """Raise ValueError if the optimizer is capturable and the schedule contains a Plateau."""
        if self._max_steps is not None and stateful(schedule):
            raise ValueError(
                f"{name}: the numbers of a capturable optimizer are fixed, so a Plateau cannot change them"
            )

    @property
    def params(self) -> Any:
        """The parameters, as passed to the constructor. ``opt.params *= 2`` modifies an array in place."""
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        _arguments.require_bound("params", params, self._params)

    @property
    def grads(self) -> Any:
        """The gradients bound at construction, or None. ``opt.grads *= 2`` modifies an array in place."""
        return self._grads

    @grads.setter
    def grads(self, grads: Any) -> None:
        _arguments.require_bound("grads", grads, self._grads)

    @property
    def state(self) -> Mapping[str, Any]:
        """The states by name: flat float32 arrays of the same library and on the same device as the parameters.

        If the parameters are a `lrcore.Pack`, each state is a pack with the same names and shapes. A step reads and
        writes this memory directly, so modifying it in place changes the optimizer; for an array,
        ``opt.state[name] *= 2`` works as well.
        """
        return self._state

    @property
    def lr(self) -> float:
        """The learning rate of the next step. Assign a number, a schedule or a callable to replace it.

        Groups with a rate of their own keep it.
        """
        return self._rate_after(self.step_count, self.schedule)

    @lr.setter
    def lr(self, lr: schedules.Rate) -> None:
        self._require_changeable("lr")
        self._set_rate(self._rate_of(schedules.as_schedule(lr)))

    def _set_rate(self, rate: _Rate) -> None:
        commit([Change(self, rate=rate)])

    def _rate_after(self, t: int, schedule: schedules.Schedule) -> float:
        """Return the rate of the step that follows t steps."""
        return schedule(t if self._max_steps is None else min(t, self._max_steps - 1))

    def _number_of_next_step(self, name: str, value: Any, prefix: str = "") -> Any:
        """Return the value of a numeric argument for the next step."""
        return self._number_after(self.step_count, name, value, prefix) if schedules_in(value) else value

    def _number_after(self, t: int, name: str, value: Any, prefix: str = "") -> Any:
        """Return the value of a numeric argument for the step that follows t steps."""
        return value_at(name, value, t if self._max_steps is None else min(t, self._max_steps - 1), prefix)

    def _all_schedules(self) -> list[schedules.Schedule]:
        """Return the schedule, then the own schedules of the groups."""
        return [self.schedule, *self._settings.schedules()]

    @property
    def max_norm(self) -> float | None:
        """The largest norm of the gradients at the next step, or None. Assign a number, a schedule, a callable or None."""
        value: float | None = self._number_of_next_step("max_norm", self._settings.whole.max_norm)
        return value

    @max_norm.setter
    def max_norm(self, max_norm: schedules.Rate | None) -> None:
        self._change_whole("max_norm", _arguments.number_or_none("max_norm", max_norm))

    @property
    def skip_nonfinite(self) -> bool | int:
        """Whether steps whose gradients are not finite are skipped, or how many in a row raise FloatingPointError."""
        return self._settings.whole.skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip_nonfinite: bool | int) -> None:
        self._change_whole("skip_nonfinite", _arguments.skipping(skip_nonfinite))

    @property
    def ema(self) -> float | None:
        """The decay of the average of the parameters at the next step, or None. Assign a number, a schedule or a callable.

        An average cannot be added or removed.
        """
        value: float | None = self._number_of_next_step("ema", self._settings.whole.ema)
        return value

    @ema.setter
    def ema(self, ema: schedules.Rate) -> None:
        self._change_whole("ema", checked_decay(self._settings.whole, ema))

    def averaged(self, out: Any = None) -> Any:
        """Return the average of the parameters.

        Parameters
        ----------
        out : array of float32, or Pack, optional
            An array like the parameters, to which the average is copied: a new one by default. ``opt.averaged(opt.params)``
            replaces the parameters by their average.

        Returns
        -------
        array or Pack
            `out`, or an array of the same library, device and shape as the parameters; a `lrcore.Pack` if the parameters
            are one.

        Raises
        ------
        TypeError, ValueError
            If the optimizer was made without `ema`, or `out` does not match the parameters or shares memory with a state.
        """
        if out is not None:
            self._copy_average(gradients_of(self._params, out, "out"))
            return out
        memory = allocate(self._memory)
        self._copy_average(memory)
        average = wrap_like(self._array, memory)
        if self._places is not None:
            return self._params._over(average)
        return average.reshape(self._params.shape) if hasattr(average, "reshape") else average

    def _change_whole(self, name: str, value: Any) -> None:
        self._require_changeable(name)
        self._change_settings(
            lambda settings: settings._replace(whole=settings.whole._replace(**{name: value}))
        )

    @property
    def options(self) -> Mapping[str, bool | str]:
        """The structural options by name. They are fixed at construction."""
        return MappingProxyType(self._options)

    @property
    def hyper(self) -> Hyper:
        """The numeric arguments of the constructor by name; `betas` is a pair. They can be assigned between steps.

        ``opt.hyper["eps"] = 1e-6`` changes one of them; ``opt.hyper.update(...)`` and ``opt.hyper = {...}`` change
        several. New values are checked like the constructor's arguments. A group that has its own value keeps it.

        Each argument can be a number, a schedule, or a callable of the step count, which is called once before each
        step, together with the rate. Reading it gives the number of the next step, and ``opt.hyper.schedules`` has the
        schedules by name.
        """
        return Hyper(self)

    @hyper.setter
    def hyper(self, changes: Mapping[str, Any]) -> None:
        self._change_hyper(dict(changes))

    @property
    def groups(self) -> Groups:
        """The parameter groups.

        ``opt.groups[0]`` has the elements that no group names, so it always exists; ``opt.groups[i + 1]`` is the group
        at index i of the argument. The attributes ``hyper``, ``lr``, ``lr_scale``, ``frozen`` and ``maximize`` of a
        group can be assigned between steps; ``names``, ``ranges``, ``size``, ``schedule`` and ``step_count`` can be
        read. Each element has the same bits as if its group had a separate optimizer that takes no step while the group
        is frozen. Schedules are called with the step count of this optimizer.
        """
        return Groups(self)

    @groups.setter
    def groups(self, _: Any) -> None:
        raise AttributeError(
            "groups: fixed at construction; make each group that you may need there, frozen until you thaw it with "
            "opt.groups[i].frozen = False"
        )

    if TYPE_CHECKING:  # with __setattr__, type checkers would accept every attribute
        # narrower than in the Stepper
        @property
        def schedule(self) -> schedules.Schedule: ...
        @property
        def _settings(self) -> Settings: ...
    else:

        def __setattr__(self, name: str, value: Any) -> None:
            if "_params" in vars(self):
                _arguments.require_assignable(type(self), name, self.hyper, {*self._options, *vars(self)})
            super().__setattr__(name, value)

    @property
    def _hyperparameters(self) -> dict[str, Any]:
        return self._settings.hyper

    def _change_hyper(self, changes: Mapping[str, Any]) -> None:
        """Change some of the numeric arguments; if one of the changes is invalid, change nothing."""
        checked = _arguments.known_numbers(changes, self._hyperparameters)
        if not self._has_groups:
            checked = _arguments.numbers(checked)
        self._require_changeable("hyper")
        self._change_settings(lambda settings: settings._replace(hyper=settings.hyper | checked))

    def _require_changeable(self, name: str) -> None:
        """Raise AttributeError if the constants are on the device, where captured graphs continue to use them."""
        if self._max_steps is not None:
            raise AttributeError(
                f"{name}: fixed at construction: this optimizer is capturable, and graphs read the constants of each "
                "step from a table on the device; make a new optimizer"
            )

    def _require_groups(self, name: str) -> None:
        """Raise AttributeError if a setting of a group cannot be assigned."""
        self._require_changeable(name)
        if not self._has_groups:
            raise AttributeError(
                f"{name}: this optimizer is part of a FusedOptimizer; assign the numbers of its groups in "
                "fused.param_groups"
            )

    def _change_settings(self, changed: Callable[[Settings], Settings]) -> None:
        """Replace the settings by those that `changed` returns; call it again if they change in the meantime."""
        while True:
            before = self._settings
            if commit([Change(self, settings=self._new_settings(changed(before), before))]):
                return

    def _new_settings(self, settings: Settings, before: Settings | None = None) -> _Settings:
        """Return settings for the core that replace `before`, or any settings if `before` is None.

        Raises ValueError if they select another rule.
        """
        rule, for_core = self._configuration(settings)
        if rule != self.rule:
            raise ValueError(
                f"hyper: momentum cannot change from or to 0, because this would change the rule from {self.rule} to {rule}; "
                "make a new optimizer, with a schedule if the momentum is to pass 0"
            )
        return before, settings, *for_core

    def _snapshot_all(self, on_host: bool = False) -> tuple[Snapshot, dict[str, Any]]:
        """Return a consistent snapshot, and copies of the states.

        The copies are arrays of the same kind as the parameters or, if `on_host`, NumPy arrays.
        """
        copies = [aligned_zeros(self.size) if on_host else allocate(self._memory) for _ in self._state]
        snapshot = self._snapshot(copies)
        offered = copies if on_host else [wrap_like(self._array, each) for each in copies]
        return snapshot, dict(zip(self._state, offered, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a resumed run needs, except the parameters.

        Returns
        -------
        dict
            `rule`, `options`, `hyper`, `step_count` and `state` (name -> flat array). `schedule` is included unless the rate
            comes from an opaque callable or from a schedule class of your own; see `lrcore.schedules.from_dict`. If the
            schedule contains a `Plateau`, `schedule_state` is a list with the state of each `Plateau`. `groups` is
            included if groups were passed, or if ``opt.groups[0]`` has settings or a step count of its own. `names`, a
            list with the name, the offset in the buffer and the shape of each array, is included if the parameters are
            a `lrcore.Pack`. `max_norm`, `skip_nonfinite` and `skipped_steps` are included, and so is `ema` if there is an
            average.
        """
        return self._dictionary()

    def _dictionary(self, on_host: bool = False) -> dict[str, Any]:
        """Return the state dictionary, with arrays of the parameters' kind or, if `on_host`, NumPy arrays."""
        (step_count, counts, settings, schedule, skipped_steps), state = self._snapshot_all(on_host)
        numbers = numbers_of([schedule, *settings.schedules()])
        dictionary = {
            "rule": self.rule,
            "options": dict(self._options),
            "hyper": {name: _changing.stored(value, numbers) for name, value in settings.hyper.items()},
            "step_count": step_count,
            "state": state,
            **stored_whole(settings.whole, numbers),
            "skipped_steps": skipped_steps,
        }
        with contextlib.suppress(TypeError):  # a schedule may have no dictionary form
            dictionary["schedule"] = encode(schedule, numbers)
        if states := states_of(schedule):
            dictionary["schedule_state"] = states
        if groups := _group_state.stored(self._ranges, settings, counts, numbers):
            dictionary["groups"] = groups
        if self._places is not None:
            dictionary["names"] = self._places.stored()
        return dictionary

    def load_state_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Replace the hyperparameters, the step count, the state and, if the dictionary has one, the schedule.

        The settings and step counts of the groups are replaced too; their elements must be the stored ones. If the
        parameters are a `lrcore.Pack`, arrays match by name, and may have another order or padding than the stored ones.

        If the dictionary has no schedule, because the rate came from a callable, this optimizer keeps its own. It also
        keeps its own schedule if that equals the stored one, so your reference to a `Plateau` stays valid, unless the
        schedules of groups that share the `Plateau` differ from the stored ones. Otherwise the schedule is replaced;
        then pass metrics to the plateaus of the new schedule, ``lrcore.schedules.plateaus(opt)``.

        Raises
        ------
        TypeError, ValueError
            If the dictionary belongs to another rule, other options, other groups or other arrays, or has a missing,
            unknown or invalid entry. The optimizer is left unchanged.
        """
        change, plateaus_to_set = self._change_to(dictionary)
        commit([change], plateaus_to_set)

    def _change_to(self, dictionary: Mapping[str, Any]) -> tuple[Change, list[tuple[Any, str, Any]]]:
        """Check a state dictionary; return the change for `commit`, and the attributes of plateaus to assign with it."""
        entries = require_entries(
            "state_dict",
            dictionary,
            ("rule", "options", "hyper", "step_count", "state"),
            "schedule",
            "schedule_state",
            "groups",
            "names",
            *WHOLE,
            "skipped_steps",
        )
        if not isinstance(entries["rule"], str) or entries["rule"] != self.rule:
            raise ValueError(f"rule: expected {self.rule}, got {entries['rule']}")
        options = self._checked_options(self.rule, entries["options"], self._options)
        if options != self._options:
            raise ValueError(f"options: expected {self._options}, got {options}")
        has_average = "ema" in entries or (
            isinstance(entries["state"], Mapping) and AVERAGE in entries["state"]
        )
        require_alike_averages(has_average, entries.get("ema"), self._settings.whole.ema)
        if has_average and "ema" not in entries:
            raise ValueError(
                'ema: expected the entry "ema" with the decay of the average in the state, got none'
            )
        stored_hyper = require_entries("hyper", entries["hyper"], self._hyperparameters)
        entries = _named_state.rearranged(entries, self._places)
        state = require_entries("state", entries["state"], self._state)
        if entries["step_count"] is None:  # `commit` would keep the current step count
            raise TypeError("step_count: expected an integer, got None")
        numbered: dict[int, Any] = {}
        states = entries.get("schedule_state", () if "schedule" in entries else states_of(self.schedule))
        if (
            "schedule" in entries and entries["schedule"] is None
        ):  # `Restored.read` would keep the current schedule
            raise TypeError("schedule: expected a dictionary, got NoneType")
        own = Restored.read(self.schedule, entries.get("schedule"), states, numbered)
        hyper = _changing.restored(stored_hyper, self._hyperparameters, numbered)
        groups, counts = _group_state.restored(
            entries.get("groups"), self._ranges, self._settings, entries["step_count"], self._places, numbered
        )
        whole = restored_whole(entries, self._settings.whole, numbered)
        skipped_steps = restored_skips(entries)
        schedule, settings, to_set = settled(own, Settings(hyper, groups, whole))
        if not self._has_groups and settings.groups != (GroupSettings(),):
            raise ValueError("groups: this optimizer is part of a FusedOptimizer; call fused.load_state_dict")
        new_settings = self._new_settings(settings)
        states = [state[name] for name in self._state]
        change = Change(
            self,
            states,
            entries["step_count"],
            counts,
            new_settings,
            self._rate_of(schedule),
            skipped_steps=skipped_steps,
        )
        return change, to_set

    def save(self, path: FilePath) -> None:
        """Write the state dictionary to a file, for `load` and `lrcore.load`. Save the parameters separately.

        The file is in safetensors format. It atomically replaces an existing file of that name once all data is on
        disk: whatever happens, the path holds either the old file or the complete new one. A symbolic link keeps
        pointing to its target, which is replaced. A process that is killed may leave a hidden file ``.lrcore-*.tmp`` in
        the same directory; the next save to that path removes it.

        Raises
        ------
        OSError, TypeError, ValueError
            If the file cannot be written, for example because `path` is a directory. An existing file is left
            unchanged.
        """
        _file.write(file_path(path), self._public_class().__name__, self._dictionary(on_host=True))

    def load(self, path: FilePath) -> None:
        """Resume from a file that `save` wrote: pass its contents to `load_state_dict`.

        Raises
        ------
        OSError
            If the file cannot be read.
        TypeError, ValueError
            If the file is damaged or was written by a later version, or if `load_state_dict` rejects its contents. The
            optimizer is left unchanged.
        """
        path = file_path(path)
        _, dictionary = _file.read(path, self.size)
        with naming_file(path):
            self.load_state_dict(dictionary)

    def torch_state_dict(self, shapes: Sequence[Any] | None = None) -> dict[str, Any]:
        """Return a dictionary for ``load_state_dict`` of the optimizer of the same name in ``torch.optim``.

        Its tensors are on the CPU; PyTorch moves them. The flags that select PyTorch's implementation (``fused``,
        ``capturable``, ...) have PyTorch's defaults.

        Each group in `groups` is an entry of ``param_groups``, with the numbers and the learning rate that act in it;
        ``groups[0]`` is left out if it has no elements. PyTorch has no `frozen` and no `lr_scale`: a frozen group
        becomes an ordinary one with its own step count, and the factor becomes part of the rate. The average of the
        parameters is left out; see `averaged`.

        Parameters
        ----------
        shapes : sequence of shapes or arrays, optional
            The shapes of PyTorch's parameters, in the order of the buffer. Together they have as many elements as
            `params`, and each lies inside one group. PyTorch's optimizer must have the parameters in the order of the
            groups: first those of the first group, in the order of the buffer. By default, there is one parameter with
            the shape of `params`; if the groups have several ranges, there is a flat parameter for each range. If the
            parameters are a `lrcore.Pack`, there is one parameter for each array, and the groups have ``param_names``.
            An array with several names is one parameter, under its first name, and a parameter without elements is in
            the group of the next element.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        TypeError, ValueError
            If PyTorch has no such optimizer or option, or the shapes do not match.
        """
        parameters = self._places if shapes is None else shapes
        if parameters is None:
            ranges = sorted(itertools.chain.from_iterable(self._ranges))
            whole = getattr(self._params, "shape", self.size)
            parameters = [whole] if len(ranges) < 2 else [end - begin for begin, end in ranges]
        (step_count, counts, settings, schedule, _), state = self._snapshot_all(on_host=True)
        lr = self._rate_after(step_count, schedule)
        rates = [
            lr * own.lr_scale if own.schedule is None else self._rate_after(step_count, own.schedule)
            for own in settings.groups
        ]
        state.pop(AVERAGE, None)
        kind = self._kind()._replace(settings=settings.at(step_count))
        return _torch_export.exported(kind, parameters, step_count, counts, rates, state)

    def load_torch_state_dict(self, dictionary: Mapping[str, Any], *, step_count: int | None = None) -> None:
        """Resume from the ``state_dict()`` of the optimizer of the same name in ``torch.optim``.

        This replaces the state, the step counts, the hyperparameters and the learning rates. The rate becomes the number
        in PyTorch's group; to use a schedule, assign `lr` afterwards.

        PyTorch's groups are loaded into `groups` in order; a ``groups[0]`` without elements is skipped. The numbers and
        the rate of a PyTorch group become the group's own, except that those for ``groups[0]`` become the optimizer's.
        To use a schedule in a group, assign the group's `lr`; None returns the group to the optimizer's rate.
        `lr_scale` becomes 1, and `frozen` stays as it is. `step_count` becomes the largest count of all parameters. If
        this optimizer averages its parameters, the average begins again as a copy of them.

        Parameters
        ----------
        dictionary : dict
            A state dictionary with one parameter group for each of these groups. The parameters of a group, each
            flattened in C order and then concatenated, correspond to the elements of the group, in the order of the
            buffer. If the parameters are a `lrcore.Pack`, each array of a group corresponds to a parameter of the same
            shape: by name if the dictionary has ``param_names``, otherwise by position.
        step_count : int, optional
            Number of steps taken. Only accepted for SGD, whose steps PyTorch does not count. The default is the count
            that a `lrcore.torch.FusedOptimizer` stored in the dictionary, if any. Otherwise it is 0, or 1 with
            dampening and an existing momentum buffer, because only the first gradient is not damped. If any group
            has momentum buffers, the groups with momentum that lack them have taken no step.

        Raises
        ------
        TypeError, ValueError
            If PyTorch has no such optimizer or no such decay, or the dictionary belongs to another optimizer, other
            options or other groups, has only one group but parameters with different step counts, or contains anything
            that lrcore cannot represent. The optimizer is left unchanged.
        """
        converted = _torch_import.converted(self._kind(), dictionary, step_count)
        if (ema := self._settings.whole.ema) is not None:
            converted["ema"] = _changing.stored(ema, {})
            converted["state"][AVERAGE] = self._array
        self.load_state_dict(converted)

    @classmethod
    def _public_class(cls) -> type[Optimizer]:
        """Return this class if it is one of `lrcore.optimizers`, else the one that it derives from."""
        own = (each for each in cls.__mro__ if each.__module__.startswith(f"{__package__}."))
        return next((each for each in own if each is not Optimizer), cls)

    def _kind(self) -> _torch_state.Kind:
        """Return the properties of this optimizer that conversions to and from PyTorch's dictionaries need."""
        public = self._public_class()
        defaults = public._default_options()
        return _torch_state.Kind(
            public.__name__,
            self._ranges,
            self._settings,
            self._options,
            defaults,
            self._choose_rule,
            self._places,
        )

    def __getstate__(self) -> dict[str, Any]:
        (step_count, counts, settings, schedule, skipped_steps), state = self._snapshot_all()
        own = (
            "_options", "_ranges", "_params", "_grads", "_max_steps", "_memory", "_state", "_has_groups", "_array",
            "_places", "_source_of", "_source_of_number",
        )  # fmt: skip
        return {
            "params": self._params,
            "grads": self._grads,
            "max_steps": self._max_steps,
            "arguments": settings.hyper | self._options,
            "schedule": schedule,
            "ranges": self._ranges,
            "groups": [tuple(each) for each in settings.groups],
            "whole": tuple(settings.whole),
            "skipped_steps": skipped_steps,
            "step_count": step_count,
            "counts": counts,
            "states": list(state.values()),
            "attributes": {name: value for name, value in vars(self).items() if name not in own},
        }

    def __setstate__(self, parts: dict[str, Any]) -> None:
        arguments = _arguments.with_decay(
            parts["arguments"]
        )  # earlier versions wrote `decoupled_weight_decay`
        groups = tuple(
            GroupSettings(*each) for each in parts.get("groups", [()])
        )  # earlier versions had none
        settings = Settings(
            _arguments.settable(arguments), groups, WholeSettings(*parts.get("whole", parts.get("guard", ())))
        )
        params, grads, schedule, max_steps = (
            parts[name] for name in ("params", "grads", "schedule", "max_steps")
        )
        options, ranges = _arguments.options(arguments), parts.get("ranges")
        self._bind(params, grads, options, ranges, settings, schedule, max_steps)
        counts, skipped_steps = parts.get("counts", ()), parts.get("skipped_steps", 0)
        commit([Change(self, parts["states"], parts["step_count"], counts, skipped_steps=skipped_steps)])
        vars(self).update(parts["attributes"])

    def __reduce__(self) -> tuple[Any, ...]:
        return copyreg.__newobj__, (type(self),), self.__getstate__()  # type: ignore[attr-defined]

    def __copy__(self) -> Self:
        """Return an optimizer of the same parameters and gradients that continues from here with its own states."""
        copied = type(self).__new__(type(self))
        copied.__setstate__(self.__getstate__())
        return copied

    def __repr__(self) -> str:
        rate = shown_rate(self.schedule)
        others = self._settings.whole
        shown = {"size": self.size, "device": self.device, "lr": repr(rate), "step_count": self.step_count}
        if others.max_norm is not None:
            shown["max_norm"] = repr(others.max_norm)
        if others.skip_nonfinite is not False:
            shown["skip_nonfinite"] = others.skip_nonfinite
        if others.ema is not None:
            shown["ema"] = repr(others.ema)
        whole = f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"
        groups = (
            [f"groups[{i}]: {each!r}" for i, each in enumerate(self.groups)] if len(self.groups) > 1 else []
        )
        return "\n    ".join([whole, *groups])
