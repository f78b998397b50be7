"""The optimizer for the parameters of a PyTorch module."""

from __future__ import annotations

import contextlib
import copy
import functools
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lrcore import optimizers, schedules
from lrcore._checks import flag, naming
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, require_detachable, skip_together, step_together
from lrcore._names import FOREIGN, meant_by
from lrcore.optimizers import Optimizer, _arguments, _torch_state
from lrcore.optimizers._settings import WHOLE, Change, checked_decay, restored_skips
from lrcore.schedules import Rate, Schedule

with optional_dependency("torch"):
    import torch
    from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

    from lrcore.torch import _dictionary
    from lrcore.torch._buffer import Buffer, Prototype, with_own_storage, zero
    from lrcore.torch._param_groups import ParamGroups, Source, as_rate, settings_of
    from lrcore.torch._parameters import label, names_in, read_groups, with_tools
    from lrcore.torch._state import States

_FLAGS = {"foreach": None, "fused": None, "differentiable": False}
"""PyTorch's arguments that select an implementation, which do not change the results here."""
_COPIED_ALONE = (
    "a FusedOptimizer cannot be copied alone, because its parameters belong to a module; copy both in one call: "
    "model, opt = copy.deepcopy((model, opt)), or make a FusedOptimizer for the copy of the module, and call "
    "its load_state_dict(opt.state_dict())"
)
_NOT_COMPILED = (
    "a step of FusedOptimizer is one call of compiled code already, and cannot be a part of a graph; leave out "
    "fullgraph=True, or compile only the module"
)


class FusedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Step all parameters of a module in one pass, with an lrcore optimizer.

    The parameters become views of one flat buffer per device, each starting at a multiple of 64 bytes. `step` is then a
    single pass over these buffers, regardless of the number of tensors and groups, and reads each gradient where it lies.
    The class is a `torch.optim.Optimizer`: parameter groups, gradient scaling, clipping, the schedulers of
    ``torch.optim.lr_scheduler`` and hooks work as usual.

    - As in PyTorch, a parameter whose gradient is None is not visited, and its step count stays. A gradient is copied at
      each step if its strides or dtype differ from those of its parameter, or if it shares memory with parameters or
      states. Backward passes create no such gradients, unless ``grad_dtype`` of a parameter is set.
    - Values assigned in `param_groups`, `state` or `optimizers`, or to `lr`, take effect at the next step or raise an
      error. A step that raises changes no parameter, state or step count on any device.
    - Create the optimizer after the module is on its device. `step` rejects parameters whose storage has moved since,
      for example by ``.to()``; `load_state_dict` puts them into new flat buffers. Neither can detect that the module's
      ``load_state_dict(assign=True)`` has replaced the parameters.
    - Each parameter and state has its own storage, which covers only its part of a buffer, so saving one of them does
      not save the whole buffer.
    - ``copy.deepcopy((module, optimizer))`` copies both together, and so does pickling both in one call.

    Parameters
    ----------
    params : iterable of tensors, of (name, tensor) pairs or of groups
        float32 leaf tensors, such as ``model.parameters()`` or ``model.named_parameters()``, or PyTorch's parameter
        groups: dictionaries with the entry ``params`` and values of their own for `lr` and other numbers.
    optimizer : class
        One of `lrcore.optimizers`, such as `lrcore.AdamW`.
    lr : float, tensor, schedule or callable, optional
        The learning rate of the groups without their own; the default is that of the class. A schedule or callable is
        called once per step, with the number of steps taken so far. A tensor is read again at each step.
    **arguments
        The other arguments of the class, except `grads` and `groups`. The numbers can be lrcore's schedules. PyTorch's
        `foreach` and `fused` are accepted, and do not change how a step is computed; `differentiable` must be False. With
        ``fused=False``, GradScaler unscales the gradients in a pass of its own, as some tools require for clipping.

    Attributes
    ----------
    optimizers : tuple of lrcore.optimizers.Optimizer
        One optimizer per device, ordered by the first parameter on each device. Their `params` are the flat buffers,
        and their ``groups[i + 1]`` is the part of ``param_groups[i]`` on the device. With several devices, a step raises
        ValueError if their rates, hyperparameters or step counts differ.
    param_groups : list of dict
        PyTorch's parameter groups, with the numbers of the next step. Values assigned there take effect at that step.
        If a rate or number comes from a schedule, its entry shows the number of the next step; an assigned number is
        then refused, and an assigned schedule replaces the former one. With a callable, or a schedule class of your own,
        the entry ``lr`` is the rate of the last step, or NaN before the first step. Other entries are kept. An assigned
        list may have further groups, which are added.
    state : dict
        The states of each parameter that has taken a step, under PyTorch's names. The arrays are views of the flat
        states, and ``step`` is the number of steps of the parameter. What you assign takes effect at the next step; if
        you remove the states of a parameter, it begins again.

    Raises
    ------
    TypeError
        If a parameter is not a dense float32 tensor, or is in a set.
    ValueError
        If a parameter is not a leaf, occurs twice or shares memory with another, if the class rejects an argument, or if a
        group has another structural option than the optimizer, such as `amsgrad`.
    """

    _is_averaged = False
    """Whether the parameters have the values of their averages."""

    def __init__(
        self, params: Iterable[Any], optimizer: type[Optimizer], lr: Rate | None = None, **arguments: Any
    ) -> None:
        given: Any = optimizer
        if not isinstance(given, type) or not issubclass(given, Optimizer):
            meant = meant_by(getattr(given, "__name__", ""), optimizers.__all__)
            hint = f"; did you mean lrcore.{meant}?" if meant else ""
            raise TypeError(f"optimizer: expected a class of lrcore.optimizers, got {optimizer!r}{hint}")
        if "grads" in arguments:
            raise TypeError(
                "grads: FusedOptimizer takes no such argument; the parameters have their own gradients"
            )
        if "groups" in arguments or given._defaults["groups"] is not None:
            raise TypeError(
                "groups: FusedOptimizer takes PyTorch's groups: pass a list of dictionaries as params"
            )
        flags = {name: arguments.pop(name, default) for name, default in _FLAGS.items()}
        _check_flags(flags)
        if lr is not None:
            arguments["lr"] = schedules.as_schedule(lr)
        groups = read_groups(params)
        device = next((each.device for group in groups for each in group["params"]), None)
        # An optimizer of one element checks the arguments. Those of all devices are made like it.
        with torch.inference_mode(False):
            one = torch.zeros(1, device=device, dtype=torch.float32)
            arguments["grads"] = torch.zeros_like(one)
            made = optimizer(one, **arguments)
        # A wrapper such as Lightning's has this class and looks up attributes here, but keeps those assigned to itself.
        self._owner: Callable[[], Any] = weakref.ref(self)
        self._prototype = Prototype.of(made)
        self._source = Source(made.schedule, made._settings.hyper, bool(made._options["maximize"]))
        self._buffers: list[Buffer] = []
        self._groups = ParamGroups(self._check_fixed, [], None)
        self._optimizers: tuple[Optimizer, ...] = ()
        number = made.schedule.lr if type(made.schedule) is schedules.Constant else made.schedule
        # The entry `OWN` is empty. It exists because some tools restore only entries that a group already has.
        defaults = {
            "lr": lr if isinstance(lr, torch.Tensor) else number,
            **self._source.hyper,
            **_torch_state.flags_of(made._public_class().__name__),
            **_torch_state.options_in_group(made._options),
            **flags,
            _torch_state.OWN: "",
        }
        defaults |= {
            name: arguments[name] for name in _dictionary.FIXED_VALUES & defaults.keys() & arguments.keys()
        }
        super().__init__(groups, defaults)  # adds the groups, with the defaults
        self._join(self._groups.list, [])

    def _patch_step_function(self) -> None:
        cls: Any = type(self)
        step = cls.step
        super()._patch_step_function()
        if cls.step is not step:  # PyTorch has enclosed it in the calls of hooks
            cls.step = _enclosed(step, cls.step)

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _join(self, groups: list[dict[str, Any]], sources: list[Source]) -> None:
        """Put the parameters of all groups into new flat buffers, and keep their states.

        The first groups have `sources`; those of the others are made from their entries.
        """
        sources = [
            *sources,
            *(self._source_of(i, group) for i, group in enumerate(groups) if i >= len(sources)),
        ]
        # Rates that are tensors stay in the groups, and are read again at each step.
        tensors = [(group, group["lr"]) for group in groups if isinstance(group["lr"], torch.Tensor)]
        prototype = self._prototype
        whole = self._optimizers[0]._settings.whole if self._optimizers else prototype.whole
        settings = settings_of(sources, bool(prototype.options["maximize"]), whole)
        prototype.cls._choose_rule(settings.numbers()[1:], prototype.options, label)
        of_devices: dict[Any, list[Any]] = {}
        every = [(i, each) for i, group in enumerate(groups) for each in group["params"]]
        for k, (name, (i, tensor)) in enumerate(zip(names_in(groups), every, strict=True)):
            of_devices.setdefault(place_of(tensor), []).append((k, name, i, tensor))
        buffers = [
            Buffer(given, len(groups), prototype, settings, sources[0].rate) for given in of_devices.values()
        ]
        former = {
            id(slot.parameter): (states, count)
            for buffer in self._buffers
            for slot, states, count in zip(buffer.slots, buffer.states, buffer.counts(), strict=True)
        }
        step_count, skipped = (self.step_count, self.skipped_steps) if self._buffers else (0, 0)
        changes = []
        for buffer in buffers:
            found = [former.get(id(slot.parameter), ({}, 0)) for slot in buffer.slots]
            flats = buffer.flat_states([states for states, _ in found])
            counts = buffer.ranges_of([count for _, count in found], step_count)
            states = [flats[name] for name in buffer.optimizer.state]
            changes.append(Change(buffer.optimizer, states, step_count, counts, skipped_steps=skipped))
        param_groups = ParamGroups(self._check_fixed, groups, self._groups)
        param_groups.begin(tuple(each.optimizer for each in buffers), sources)
        for group, lr in tensors:
            group["lr"] = lr
        own = {
            "_buffers": buffers,
            "_optimizers": param_groups.optimizers,
            "_groups": param_groups,
            "_former_norm": self.grad_norm if self._buffers else None,
            "_states": States(buffers, param_groups.hyper_of, self._states if self._buffers else None),
        }
        moves = [move for buffer in buffers for move in buffer.moves()]
        # One operation, which an interrupt does not split.
        commit(
            changes if self._buffers else [],
            [*moves, *((self._owner(), name, value) for name, value in own.items())],
        )

    def _check_fixed(self, group: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError if an entry that is fixed at construction differs from the optimizer's."""
        _check_flags(group)
        for name in {*WHOLE} & group.keys():  # tools may copy the arguments of the optimizer into its groups
            if group[name] != getattr(self._prototype.whole, name):
                raise TypeError(
                    f"{name}: an argument of the optimizer; leave it out of its groups, and assign opt.{name}"
                )
        for name in _dictionary.FIXED_VALUES & self.defaults.keys() & group.keys():
            if group[name] != self.defaults[name]:
                raise ValueError(
                    f"{name}: expected {self.defaults[name]!r} as in the optimizer, got {group[name]!r}"
                )

    def _source_of(self, i: int, group: Mapping[str, Any]) -> Source:
        """Return the numbers of a group that PyTorch has filled with the defaults."""
        with naming(label(i)):
            self._check_fixed(group)
            _torch_state.require_same_options(group, self._prototype.options)
            is_default = group["lr"] is self.defaults["lr"]
            rate = self._source.rate if is_default else as_rate(group["lr"])
            hyper = _arguments.settable({name: group[name] for name in self._source.hyper})
            return Source(rate, hyper, flag("maximize", group["maximize"]))

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves the gradients scaled, and sets the attributes `grad_scale` and `found_inf`."""
        return self.defaults["fused"] is not False

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizer of each device, with the values assigned in `param_groups`."""
        with contextlib.suppress(TypeError, ValueError):  # the next step raises the error
            self._groups.obey()
        return self._optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The parameter groups, as PyTorch shows them."""
        self._groups.show()
        return self._groups.list  # type: ignore[no-any-return]

    @param_groups.setter
    def param_groups(self, groups: Any) -> None:
        count = len(self._groups.list)
        if self._buffers and isinstance(groups, list) and len(groups) > count:
            self._groups.checked(groups[:count])
            self._add(groups[count:])
            for group, added in zip(groups[count:], self._groups.list[count:], strict=True):
                group.update(added)
        self._groups.list = groups

    @property
    def state(self) -> Any:
        """The states of each parameter by name. Assigning ``{}`` lets all parameters begin again."""
        return self._states.expose()

    @state.setter
    def state(self, states: Mapping[Any, Any]) -> None:
        if hasattr(self, "_states"):  # PyTorch's constructor assigns an empty state
            self._states.replace(states)

    def __setstate__(self, entries: Mapping[str, Any]) -> None:
        for name, value in entries.items():
            setattr(self, name, value)

    @property
    def lr(self) -> float:
        """The learning rate of the next step in the first group.

        Reading it calls the schedule or callable. Assign a number, a schedule or a callable to replace it in all groups
        that have the same rate.
        """
        self._groups.obey()
        return self._optimizers[0].lr

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._groups.set_rate(lr)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the learning rate of the first group."""
        return self.optimizers[0].schedule

    def _all_schedules(self) -> list[Schedule]:
        """Return the schedules of all groups, for `lrcore.schedules.plateaus`."""
        with contextlib.suppress(TypeError, ValueError):  # the next step raises the error
            self._groups.obey()
        return self._groups.schedules()

    @property
    def step_count(self) -> int:
        """The number of steps taken, with which schedules are called. Steps that GradScaler skips do not count."""
        return self._optimizers[0].step_count

    @property
    def max_norm(self) -> float | None:
        """The largest norm of all gradients at the next step, or None. Assign a number, a schedule, a callable or None."""
        return self.optimizers[0].max_norm

    @max_norm.setter
    def max_norm(self, max_norm: Rate | None) -> None:
        self._groups.set_whole(max_norm=_arguments.number_or_none("max_norm", max_norm))

    @property
    def skip_nonfinite(self) -> bool | int:
        """Whether steps whose gradients are not finite are skipped, or how many in a row raise FloatingPointError."""
        return self.optimizers[0].skip_nonfinite

    @skip_nonfinite.setter
    def skip_nonfinite(self, skip_nonfinite: bool | int) -> None:
        self._groups.set_whole(skip_nonfinite=_arguments.skipping(skip_nonfinite))

    @property
    def ema(self) -> float | None:
        """The decay of the averages of the parameters at the next step, or None. Assign a number, a schedule or a callable.

        Averages cannot be added or removed.
        """
        return self.optimizers[0].ema

    @ema.setter
    def ema(self, ema: Rate) -> None:
        self._groups.set_whole(ema=checked_decay(self._optimizers[0]._settings.whole, ema))

    @contextlib.contextmanager
    def averaged_parameters(self) -> Iterator[None]:
        """Set the parameters of the module to their averages within a ``with`` statement.

        The averages are those of the argument `ema`. Afterwards the parameters have their former values again, also if an
        exception is raised. Buffers of the module, such as the statistics of batch normalization, stay as they are.

        Raises
        ------
        ValueError
            If the optimizer was made without `ema`.
        RuntimeError
            If the parameters already have these values, or their storage has moved. Within the statement, a step, a new
            parameter group and `load_state_dict` raise RuntimeError, too.
        """
        owner = self._owner()
        owner._groups.obey()
        if owner._states.is_exposed:
            owner._states.obey()
        if owner._optimizers[0]._settings.whole.ema is None:
            raise ValueError(
                "averaged_parameters: this optimizer keeps no averages of the parameters; make it with ema=0.999"
            )
        owner._require_own_values("averaged_parameters")
        for buffer in owner._buffers:
            buffer.require_unmoved()
        buffers = owner._buffers
        former = [buffer.params.clone() for buffer in buffers]
        averages = [buffer.averages() for buffer in buffers]
        try:
            owner._set_parameters(averages, [(owner, "_is_averaged", True)])
            yield
        finally:
            owner._set_parameters(former, [(owner, "_is_averaged", False)])
            for buffer, flat in zip(buffers, former, strict=True):
                buffer.set_moved_parameters(flat)

    def _set_parameters(self, flats: Sequence[Any], attributes: Sequence[tuple[Any, str, Any]]) -> None:
        """Copy flat tensors into the parameters and assign attributes, in one operation, which an interrupt does not split."""
        changes = [Change(each, params=flat) for each, flat in zip(self._optimizers, flats, strict=True)]
        commit(changes, [*attributes])

    def _require_own_values(self, what: str) -> None:
        """Raise RuntimeError if the parameters have the values of their averages."""
        if self._is_averaged:
            raise RuntimeError(
                f"{what}: the parameters have the values of their averages; leave the with statement of "
                "averaged_parameters first"
            )

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients at the last step with `max_norm` or `skip_nonfinite`; None before.

        It is that of the gradients after the division by GradScaler's scale, before clipping.
        """
        norm = self._optimizers[0].grad_norm
        return self._former_norm if norm is None else norm

    @property
    def skipped_steps(self) -> int:
        """The number of steps that were skipped because gradients were not finite, also those that GradScaler skipped."""
        return self._optimizers[0].skipped_steps

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grad_scale: float = 1.0,
        zero_grads: bool = False,
    ) -> Any:
        """Take one step: update the parameters that have gradients, in place.

        The errors below leave all parameters, states and step counts unchanged.

        Parameters
        ----------
        closure : callable, optional
            A function that computes the gradients and returns the loss, as for PyTorch's optimizers.
        grad_scale : float
            A factor by which the gradients are multiplied, in the same pass.
        zero_grads : bool
            Set the gradients to 0 in the same pass, also if the step is skipped, with the result of
            ``zero_grad(set_to_none=False)``.

        Returns
        -------
        object
            The return value of `closure`, or None.

        Raises
        ------
        RuntimeError
            If the storage of a parameter or a state has moved, or the parameters have the values of their averages.
        TypeError, ValueError
            If a gradient is sparse, has no memory or has another shape than its parameter, if a value assigned in
            `param_groups` or `state` is invalid, if the list of parameters of a group was changed, or if the rates,
            hyperparameters or step counts of the devices' optimizers differ.
        FloatingPointError
            If too many steps in a row were skipped; see `skip_nonfinite`.
        """
        zero_grads = flag("zero_grads", zero_grads)
        self._require_own_values("step")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self._groups
        groups.obey()
        if self._states.is_exposed:
            self._states.obey()
        loss_scale, found_inf = map(vars(self).get, ("grad_scale", "found_inf"))  # GradScaler sets them
        if loss_scale is not None or found_inf is not None:
            if len(self._optimizers) == 1 and self._optimizers[0].device != "cpu":
                loss_scale, found_inf = self._on_device(loss_scale), self._on_device(found_inf)
            elif found_inf is not None and float(found_inf):
                if zero_grads:
                    self._zero_gradients()
                skip_together(self._optimizers)
                return loss
            else:
                grad_scale /= float(1.0 if loss_scale is None else loss_scale)
                loss_scale = found_inf = None
        if len(self._optimizers) > 1:
            groups.require_alike()
        if groups.may_create and self._has_no_gradient_and_state():
            if zero_grads:
                self._zero_gradients()
            self._states.create()
            return loss
        groups.require_rates()
        before = self._optimizers[0]._started_steps
        try:
            step_together(self._optimizers, grad_scale, loss_scale, found_inf, zero_grads=zero_grads)
        except (TypeError, ValueError) as error:
            raise _with_label(error) from error.__cause__ or error
        except RuntimeError as error:
            raise with_tools(error) from error.__cause__
        finally:
            # even if an interrupt is raised after the step
            if groups.is_scheduled and self._optimizers[0]._started_steps != before:
                groups.show_next(waits=False)
        return loss

    def _on_device(self, number: Any) -> torch.Tensor | None:
        """Return a number of GradScaler on the device of the parameters."""
        device = self._optimizers[0].device
        return None if number is None else torch.as_tensor(number, dtype=torch.float32, device=device)

    def _zero_gradients(self) -> None:
        """Zero all gradients, without a step; if PyTorch cannot zero one of them, zero none."""
        for buffer in self._buffers:
            for slot in buffer.slots:
                require_detachable(slot.name, slot.parameter.grad)
        zero(self._gradients())

    def _gradients(self) -> list[Any]:
        """Return the gradients that are not None."""
        grads = [each.grad for group in self._groups.list for each in group["params"]]
        return [each for each in grads if each is not None]

    def _has_no_gradient_and_state(self) -> bool:
        """Return whether all gradients are 0, and no parameter has states."""
        if any(self.state.values()):
            return False
        return not any(each.layout != torch.strided or each.any() for each in self._gradients())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a resumed run needs, except the parameters.

        Returns
        -------
        dict
            `state` and `param_groups` in the form of the optimizer of the same name in ``torch.optim``, if there is
            one. That optimizer can load them, but ignores options that it lacks: the entries `eps_placement`,
            `eps_inside_sqrt`, `lr_in_velocity`, and `decay` if it is "independent". The entry `lrcore` of each group
            has, as JSON text, the entries that PyTorch's form lacks: `rule`, `step_count`, and the schedules as in
            `lrcore.optimizers.Optimizer.state_dict`. The tensors are on the devices of the parameters. `step` is a
            float32 number, exact up to 2**24; the count in the JSON text is always exact.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self._groups.obey()
        if len(self._optimizers) > 1:
            self._groups.require_alike()
        if self._states.is_exposed:
            self._states.obey()
        dictionary: dict[str, Any] = self._dictionary()
        for after in self._optimizer_state_dict_post_hooks.values():
            dictionary = after(self, dictionary) or dictionary
        return dictionary

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def _dictionary(self) -> dict[str, Any]:
        """Return the state dictionary."""
        self._groups.show_next()
        states: dict[int, dict[str, Any]] = {}
        of_groups: list[list[int]] = [[] for _ in self._groups.list]
        for buffer in self._buffers:
            snapshot, flats = buffer.optimizer._snapshot_all()
            counts = buffer.counts_in(snapshot.step_count, snapshot.counts)
            for slot, count in zip(buffer.slots, counts, strict=True):
                values = {name: with_own_storage(slot.view(flat)) for name, flat in flats.items()}
                if self._states.has_states(count) and (
                    entries := self._states.entries_of(slot, count, values)
                ):
                    states[slot.number] = entries
                    if "step" in entries:
                        of_groups[slot.group].append(count)
        texts = _dictionary.texts(self._optimizers[0], self.step_count, self._groups.sources, of_groups)
        groups, end = [], 0
        for group, shown, text in zip(self._groups.checked(), self._groups.shown, texts, strict=True):
            begin, end = end, end + len(group["params"])
            groups.append(group | shown | {"params": [*range(begin, end)], _torch_state.OWN: text})
        return {"state": {i: states[i] for i in sorted(states)}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any], *, step_count: int | None = None) -> None:
        """Resume from the state of a FusedOptimizer, or of the optimizer of the same name in ``torch.optim``.

        If the module has been moved since the optimizer was made, for example to another device, the parameters move to new
        flat buffers there.

        Parameters
        ----------
        state_dict : dict
            A dictionary from `state_dict` or from PyTorch's optimizer, which may itself have loaded a dictionary of a
            FusedOptimizer. It must have as many groups as this optimizer, with as many parameters in each. If both have
            ``param_names``, the parameters of each group match by name, otherwise by position. PyTorch's dictionary has
            no schedules. If a rate or number of this optimizer comes from a schedule, the schedule is kept; otherwise,
            the number in the group replaces it.
        step_count : int, optional
            Number of steps taken. Only accepted for SGD, whose steps PyTorch does not count. The default is the count
            that a FusedOptimizer stored in the dictionary, if any. Otherwise it is 0, or 1 with dampening and an
            existing momentum buffer.

        Raises
        ------
        TypeError, ValueError
            If the dictionary belongs to another optimizer, other options or other parameters, or has an invalid entry.
            This optimizer is left unchanged.
        RuntimeError
            If a parameter has moved into a larger storage, or has another shape than before.
        """
        dictionary = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            dictionary = before(self, dictionary) or dictionary
        self._load(dictionary, step_count)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _load(self, dictionary: Mapping[str, Any], step_count: int | None) -> None:
        self._require_own_values("load_state_dict")
        groups = self._groups.checked()
        moved = [buffer.has_moved() for buffer in self._buffers]
        if any(moved):
            read_groups(groups)  # checks the parameters
            self._join(groups, self._groups.sources)
        optimizer = self._optimizers[0]
        kind = optimizer._kind()
        every = iter(names_in(groups))
        names = [[next(every) for _ in group["params"]] for group in groups]
        loaded = _dictionary.read(dictionary, groups, names, optimizer, self._groups.shown[0])
        steps = _dictionary.steps_in(loaded, names, kind, step_count, tuple(optimizer.state))
        if kind.name == "NAdam":
            _dictionary.check_products(loaded, names, steps)
        _dictionary.check_averages(loaded, optimizer._settings.whole.ema)
        sources, whole, to_set = _dictionary.sources_in(
            loaded, self._groups.sources, optimizer._settings.whole
        )
        skipped = restored_skips(loaded[0].own or {})
        settings = settings_of(sources, bool(optimizer._options["maximize"]), whole)
        places = dict(
            enumerate((i, j) for i, group in enumerate(groups) for j in range(len(group["params"])))
        )
        changes = []
        for buffer in self._buffers:
            flats = _dictionary.states_for(buffer, loaded, places)
            counts = [steps.of_parameters[i][j] for i, j in (places[slot.number] for slot in buffer.slots)]
            changes.append(
                Change(
                    buffer.optimizer,
                    [flats[name] for name in buffer.optimizer.state],
                    steps.of_optimizer,
                    buffer.ranges_of(counts, steps.of_optimizer),
                    buffer.optimizer._new_settings(settings),
                    buffer.optimizer._rate_of(sources[0].rate),
                    skipped_steps=skipped,
                )
            )
        self._groups.load(changes, to_set, sources, settings, [each.carried for each in loaded])
        self._owner()._states = States(self._buffers, self._groups.hyper_of)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as PyTorch's optimizers do.

        All parameters move to new flat buffers, together with their states. Tensors that you took from `state` before no
        longer show the current values.

        Parameters
        ----------
        param_group : dict
            The entry ``params``, and the numbers that differ from those of the constructor.

        Raises
        ------
        TypeError, ValueError
            If the group is invalid. Nothing is changed.
        """
        if not self._buffers:  # in the constructor
            super().add_param_group(param_group)
            return
        self._add([param_group])

    def _add(self, given: list[dict[str, Any]]) -> None:
        """Add parameter groups; if one of them is invalid, add none."""
        self._require_own_values("add_param_group")
        self._groups.obey()
        if self._states.is_exposed:
            self._states.obey()
        groups = self._groups.checked()
        added = read_groups([*groups, *given])[len(groups) :]
        for each in added:
            for name, default in self.defaults.items():
                each.setdefault(name, default)
        self._join([*groups, *added], self._groups.sources)
        # The caller may hold the list and the states; PyTorch would append the group to that list.
        groups[:] = self._groups.list
        self._groups.list = groups
        if self._states.is_exposed:
            self._states.expose()

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(
            value, "_wrapped_by_lr_sched", False
        ):  # a scheduler of PyTorch wraps `step` when it is made
            self._groups.require_schedulable()
        if name == "hyper":
            raise AttributeError("hyper: assign opt.param_groups[0][name]")
        if name in _torch_state.FIXED:
            raise AttributeError(f"{name}: fixed at construction; make a new optimizer")
        # PyTorch's tools may set other attributes on an optimizer.
        if name in FOREIGN or name in _arguments.NUMBERS:
            numbers = [*self._source.hyper]
            if (meant := meant_by(name, ("lr", *numbers))) is not None:
                place = "opt.lr" if meant == "lr" else f'opt.param_groups[0]["{meant}"]'
                raise AttributeError(f"{name}: assign {place}")
            if name in _arguments.NUMBERS:
                raise AttributeError(f"{name}: no such hyperparameter; expected one of {', '.join(numbers)}")
        super().__setattr__(name, value)

    def __copy__(self) -> FusedOptimizer:
        raise TypeError(_COPIED_ALONE)

    def __deepcopy__(self, memo: dict[int, Any]) -> FusedOptimizer:
        parameters = [each for group in self._groups.checked() for each in group["params"]]
        if not all(id(each) in memo for each in parameters):
            raise TypeError(_COPIED_ALONE)
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied._rebuild(*copy.deepcopy(self._parts(), memo))
        return copied

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _rebuilt, (type(self), *self._parts())

    def _parts(self) -> tuple[Any, ...]:
        """Return the prototype's class and arguments, the groups with their parameters, the sources and the states."""
        self._groups.obey()
        if self._states.is_exposed:
            self._states.obey()
        groups = [dict(group) for group in self._groups.checked()]
        # A copy loads these settings from the dictionary, which has no callables.
        whole = self._optimizers[0]._settings.whole
        prototype = (self._prototype._replace(whole=whole), self._source, self.defaults)
        return prototype, groups, self._groups.sources, self._dictionary()

    def _rebuild(
        self, prototype: tuple[Any, ...], groups: list[dict[str, Any]], sources: list[Source], dictionary: Any
    ) -> None:
        """Initialize a copy from the result of `_parts`."""
        self._owner = weakref.ref(self)
        self._prototype, self._source, defaults = prototype
        self._buffers, self._optimizers = [], ()
        self._groups = ParamGroups(self._check_fixed, [], None)
        super().__init__(groups, defaults)
        self._join(self._groups.list, sources)
        self._load(dictionary, None)

    def __repr__(self) -> str:
        return f"FusedOptimizer({', '.join(map(repr, self.optimizers))})"


def _rebuilt(cls: type[FusedOptimizer], *parts: Any) -> FusedOptimizer:
    """Return the optimizer of a pickle."""
    made = cls.__new__(cls)
    made._rebuild(*parts)
    return made


def _check_flags(flags: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if one of PyTorch's arguments that select an implementation is not supported."""
    for name in ("foreach", "fused"):
        if flags.get(name) is not None:
            flag(name, flags[name])
    _torch_state.require_not_differentiable(flags)


def place_of(tensor: Any) -> Any:
    """Return the device of a tensor; parameters on the same device share a buffer."""
    return tensor.device


def _with_label(error: Exception) -> Exception:
    """Return an error about ``opt.groups[i + 1]`` as one about ``param_groups[i]``."""
    kind = TypeError if isinstance(error, TypeError) else ValueError
    text = str(error)
    if (found := re.match(r"opt\.groups\[(\d+)\]\.", text)) is None:
        return error
    return kind(f"{label(int(found[1]) - 1)}: {text[found.end() :]}")


def _enclosed(step: Callable[..., Any], hooked: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that is `hooked` if there are hooks, and `step` otherwise, because `hooked` takes 5 microseconds more.

    If the step raises, it deletes the attributes set by GradScaler; GradScaler deletes them otherwise. A graph of
    `torch.compile` ends before the step and begins anew after it.
    """

    @functools.wraps(step)
    def enclosed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return outside(self, *args, **kwargs)
        has_hooks = (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )
        try:
            return (hooked if has_hooks else step)(self, *args, **kwargs)
        except BaseException:
            if "found_inf" in vars(self):
                for name in {"grad_scale", "found_inf"} & vars(self).keys():
                    delattr(self, name)
            raise

    enclosed.hooked = True  # type: ignore[attr-defined]
    # This imports torch._dynamo, as PyTorch's constructor does after it has called this function.
    outside = torch.compiler.disable(enclosed, reason=_NOT_COMPILED)
    return enclosed
