"""The optimizer for the parameters of a PyTorch module."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from lrcore import optimizers, schedules
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, step_together
from lrcore._names import FOREIGN, meant_by
from lrcore.optimizers import Optimizer, _arguments, _torch_state
from lrcore.schedules import Rate, Schedule

with optional_dependency("torch"):
    import torch

    from lrcore.torch._buffer import Buffer, check_parameters, named, place_of, with_own_storage
    from lrcore.torch._group import Group
    from lrcore.torch._mapping import States


class FusedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Step all parameters of a module as one flat buffer, with an lrcore optimizer.

    The parameters become views of one flat buffer per device, each starting at a multiple of 64 bytes, and their
    gradients become views of another. `step` is then a single pass over these buffers, regardless of the number of
    tensors. The class is a `torch.optim.Optimizer`: gradient scaling, clipping, the schedulers of
    ``torch.optim.lr_scheduler`` and step hooks work as usual.

    - A parameter without a gradient is treated as if its gradient were zero, so momentum and weight decay act on it.
      PyTorch's optimizers skip it. If a parameter no longer requires a gradient, the step raises ValueError.
    - A backward pass writes every gradient into the flat buffer. After ``zero_grad(set_to_none=True)`` or
      ``model.zero_grad()``, a hook copies each new gradient there and attaches it. ``zero_grad(set_to_none=False)``
      leaves the gradients attached, so nothing has to be copied. A tensor that you assign as a gradient is copied at
      every step until the next backward pass. If you hold a reference to ``p.grad``, its values are preserved when the
      parameter's gradient is set to None. Tensors that only share its memory, such as ``p.grad.detach()`` or
      ``p.grad.view(-1)``, are not preserved; clone them.
    - Values assigned in `param_groups`, `state` or `optimizers`, or to `lr`, take effect at the next step or raise an
      error. A step that raises changes no parameter, state or step count on any device.
    - Create the optimizer after the module is on its device. `step` rejects parameters whose storage has moved since,
      for example by ``.to()``. It cannot detect that ``load_state_dict(assign=True)`` has replaced the parameters.
    - Each parameter, gradient and state has its own storage, which covers only its part of a buffer, so saving one of
      them does not save the whole buffer.

    Parameters
    ----------
    params : iterable of tensors or of (name, tensor) pairs
        float32 leaf tensors that require gradients, such as ``model.parameters()`` or ``model.named_parameters()``.
        They form a single group.
    optimizer : class
        One of `lrcore.optimizers`, such as `lrcore.AdamW`.
    lr : float, schedule or callable, optional
        The learning rate; the default is that of the class. A schedule or callable is called once per step, for all
        devices. ``param_groups[0]["lr"]`` is the rate of the next step if the rate is a number or an lrcore schedule
        without callables. With a callable, or a schedule class of your own, it is the rate of the last step, or NaN
        before the first step. Unless the rate comes from a schedule or a callable, you can assign a number there, as
        PyTorch's schedulers do. A tensor, passed here or assigned there, is read again at each step.
    **arguments
        The other arguments of the class, except `grads` and `groups`.

    Attributes
    ----------
    optimizers : tuple of lrcore.optimizers.Optimizer
        One optimizer per device, ordered by the first parameter on each device. Their `params` and `grads` are the flat
        buffers. With several devices, a step raises ValueError if the rates, hyperparameters or step counts of these
        optimizers differ.
    param_groups : list of dict
        A list with a single group, which has the hyperparameters of the next step. Values assigned there take effect at
        that step. Other entries are kept.
    state : dict
        The states of each parameter, as views of the flat buffers. A tensor taken from it still shows the current
        values after a reset or a load. A tensor assigned to it is copied. ``opt.state.clear()``, or assigning an empty
        dictionary, resets the states to their initial values and the step count to 0. All parameters share that count,
        so removing the state of a single parameter raises ValueError.

    Raises
    ------
    TypeError
        If a parameter is not a dense float32 tensor, or if groups of parameters are passed.
    ValueError
        If a parameter is not a leaf, does not require a gradient, occurs twice or shares memory with another, or if the
        class rejects an argument.
    """

    # This makes GradScaler leave the gradients scaled, and set the attributes `grad_scale` and `found_inf`.
    _step_supports_amp_scaling = True

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
            raise TypeError("groups: FusedOptimizer takes no such argument; make one for each group")
        names, tensors = named(params)
        check_parameters(names, tensors)
        if lr is not None:
            arguments["lr"] = schedules.as_schedule(lr)  # one schedule for all devices
        of_devices: dict[Any, list[int]] = {}
        for i, tensor in enumerate(tensors):
            of_devices.setdefault(place_of(tensor), []).append(i)
        with torch.inference_mode(False):
            self._buffers = [
                Buffer(
                    indices, [names[i] for i in indices], [tensors[i] for i in indices], optimizer, arguments
                )
                for indices in of_devices.values()
            ]
        self._optimizers: tuple[Optimizer, ...] = tuple(each.optimizer for each in self._buffers)
        self._group = Group(self._optimizers, tensors)
        # The entry `OWN` is empty. It exists because some tools restore only entries that a group already has.
        super().__init__([{"params": tensors}], self._group.numbers() | {_torch_state.OWN: ""})
        for buffer in self._buffers:
            weakref.finalize(self, _remove, buffer.handles).atexit = False  # hooks must not outlive it
            with torch.inference_mode(False):
                buffer.move_in()
        self._state = States.over(self._buffers)
        self._group.show_all()
        if isinstance(lr, torch.Tensor):
            self._group.only()["lr"] = lr

    def _patch_step_function(self) -> None:
        super()._patch_step_function()
        cls: Any = type(self)
        if not getattr(cls.step, "leaves_no_scale", False):
            cls.step = _leaving_no_scale(cls.step)  # encloses the hooks as well

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """The optimizer of each device, with the values assigned in `param_groups`."""
        with contextlib.suppress(TypeError, ValueError):  # the next step raises the error
            self._group.obey()
        return self._optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """A list that contains the single parameter group."""
        self._group.show()
        return self._group.list  # type: ignore[no-any-return]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._group.list = groups

    @property
    def state(self) -> States:
        """The states of each parameter by name. Assigned states are copied; assigning ``{}`` resets all states."""
        for buffer in self._buffers:
            buffer.state_is_shown = True
        return self._state

    @state.setter
    def state(self, states: Mapping[Any, Any]) -> None:
        if "_state" not in vars(self) or states is self._state:
            return  # PyTorch's constructor assigns an empty state
        former = self._state
        flat = former.checked(states)
        kept = [(each, *each.values_of_now()) for each in former.values()]  # a caller may hold the mapping
        every = [each.beginning() for each in self._buffers] if flat is None else flat.states
        count = 0 if flat is None else flat.step_count
        commit(
            [
                buffer.change_to(of_buffer, count)
                for buffer, of_buffer in zip(self._buffers, every, strict=True)
            ],
            [(self, "_state", States.over(self._buffers))],
        )
        former.retire()
        for each, *values in kept:
            each.retire(*values)

    def __setstate__(self, entries: Mapping[str, Any]) -> None:
        for name, value in entries.items():
            setattr(self, name, value)

    @property
    def lr(self) -> float:
        """The learning rate of the next step.

        Reading it calls the schedule or callable. Assign a number, a schedule or a callable to replace it.
        """
        self._group.obey()
        return self._optimizers[0].lr

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._group.set_rate(lr)

    @property
    def schedule(self) -> Schedule:
        """The schedule of the learning rate."""
        return self.optimizers[0].schedule

    def _all_schedules(self) -> list[Schedule]:
        return [self.schedule]

    @property
    def step_count(self) -> int:
        """The number of steps taken. Steps that GradScaler skips do not count."""
        return self._optimizers[0].step_count

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None, *, grad_scale: float = 1.0) -> Any:
        """Take one step: update all parameters in place.

        The errors below leave all parameters, states and step counts unchanged.

        Parameters
        ----------
        closure : callable, optional
            A function that computes the gradients and returns the loss, as for PyTorch's optimizers.
        grad_scale : float
            A factor by which the gradients are multiplied, in the same pass.

        Returns
        -------
        object
            The return value of `closure`, or None.

        Raises
        ------
        RuntimeError
            If the storage of a parameter or a state has moved.
        TypeError, ValueError
            If a gradient is sparse or has no memory, if a value assigned in `param_groups` is invalid, if the
            parameters of the group were changed, or if the rates, hyperparameters or step counts of the devices'
            optimizers differ.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for buffer in self._buffers:
            buffer.gather()
        self._group.obey()
        told = vars(self)  # includes the attributes set by GradScaler
        if told.get("found_inf") is not None and float(told["found_inf"]):
            return loss
        if told.get("grad_scale") is not None:
            grad_scale /= float(told["grad_scale"])
        first, *others = self._optimizers
        before = first.step_count
        try:
            if others:
                self._group.require_alike()
                step_together(self._optimizers, grad_scale)
            else:
                first.step(grad_scale=grad_scale)
        finally:
            if first.step_count != before:  # even if an interrupt is raised after the step
                torch.autograd.graph.increment_version(self._group.parameters)  # for autograd's checks
                self._group.after_step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset all gradients to zero.

        Parameters
        ----------
        set_to_none : bool
            Also set each parameter's ``grad`` to None, which costs the next backward pass a copy of every gradient.
        """
        for buffer in self._buffers:
            buffer.zero_grad(set_to_none)

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a resumed run needs, except the parameters.

        Returns
        -------
        dict
            `state` and `param_groups` in the form of the optimizer of the same name in ``torch.optim``, if there is
            one. That optimizer can load them, but ignores options that it lacks: the entries `eps_placement`,
            `eps_inside_sqrt`, `lr_in_velocity`, and `decay` if it is "independent". The group's entry `lrcore` has, as
            JSON text, the entries that PyTorch's form lacks: `rule`, `step_count`, and the schedule as in
            `lrcore.optimizers.Optimizer.state_dict`. The tensors are on the devices of the parameters. `step` is a
            float32 number, exact up to 2**24; the count in the JSON text is always exact.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self._group.obey()
        self._group.require_alike()
        self._group.show_rate()
        first = self._optimizers[0]
        stored = [each.state_dict() for each in self._optimizers]
        states: dict[int, dict[str, Any]] = {}
        for buffer, each in zip(self._buffers, stored, strict=True):
            tensors = {
                name: [*map(with_own_storage, buffer.views(flat))] for name, flat in each["state"].items()
            }
            of_parameters = _torch_state.states_of(
                first._public_class().__name__,
                each["step_count"],
                each["hyper"],
                tensors,
                len(buffer.indices),
            )
            states.update(zip(buffer.indices, of_parameters, strict=True))
        numbers = [*range(len(states))]
        group = _torch_state.flags_of(first._public_class().__name__) | self._group.only() | self._group.shown
        group |= {"params": numbers, _torch_state.OWN: _torch_state.own_text(stored[0])}
        of_numbers = {number: states[number] for number in numbers if states[number]}
        dictionary = {"state": of_numbers, "param_groups": [group]}
        for after in self._optimizer_state_dict_post_hooks.values():
            dictionary = after(self, dictionary) or dictionary
        return dictionary

    def load_state_dict(self, state_dict: Mapping[str, Any], *, step_count: int | None = None) -> None:
        """Resume from the state of a FusedOptimizer, or of the optimizer of the same name in ``torch.optim``.

        Parameters
        ----------
        state_dict : dict
            A dictionary from `state_dict` or from PyTorch's optimizer, which may itself have loaded a dictionary of a
            FusedOptimizer. PyTorch's dictionary has no schedule. If the rate of this optimizer comes from a schedule,
            the schedule is kept; if the rate is a number, the group's rate replaces it.
        step_count : int, optional
            Number of steps taken. Only accepted for SGD, whose steps PyTorch does not count. The default is the count
            that a FusedOptimizer stored in the dictionary, if any. Otherwise it is 0, or 1 with dampening and an
            existing momentum buffer.

        Raises
        ------
        TypeError, ValueError
            If the dictionary belongs to another optimizer, other options or other parameters, or has an invalid entry.
            This optimizer is left unchanged.
        """
        dictionary = dict(state_dict)
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            dictionary = before(self, dictionary) or dictionary
        group = _torch_state.only_group(dictionary.get("param_groups"))
        self._group.only()
        if len(group["params"]) != len(self._group.parameters):
            raise ValueError(
                f"param_groups: expected {len(self._group.parameters)} parameters, got {len(group['params'])}"
            )
        found = [
            buffer.entries_of(
                dictionary, group, self._group.shown, step_count, keeps_schedule=self._group.is_scheduled
            )
            for buffer in self._buffers
        ]
        self._group.load(found, group)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raise ValueError, because there is only one group. Make another FusedOptimizer for other parameters."""
        if self._group.list:
            raise ValueError(
                "param_group: a FusedOptimizer has one group; make another FusedOptimizer for other parameters"
            )
        super().add_param_group(param_group)

    def __setattr__(self, name: str, value: Any) -> None:
        if getattr(
            value, "_wrapped_by_lr_sched", False
        ):  # a scheduler of PyTorch wraps `step` when it is made
            self._group.require_schedulable()
        if name == "hyper":
            raise AttributeError("hyper: assign opt.param_groups[0][name]")
        if name in _torch_state.FIXED:
            raise AttributeError(f"{name}: fixed at construction; make a new optimizer")
        # PyTorch's tools may set other attributes on an optimizer.
        if name in FOREIGN or name in _arguments.NUMBERS:
            numbers = [each for each in self._group.shown if each in _arguments.NUMBERS]
            if (meant := meant_by(name, ("lr", *numbers))) is not None:
                place = "opt.lr" if meant == "lr" else f'opt.param_groups[0]["{meant}"]'
                raise AttributeError(f"{name}: assign {place}")
            if name in _arguments.NUMBERS:
                raise AttributeError(f"{name}: no such hyperparameter; expected one of {', '.join(numbers)}")
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a FusedOptimizer cannot be copied or pickled, because its parameters belong to a module; copy the module, "
            "make a FusedOptimizer for the copy, and load this one's state_dict()"
        )

    def __repr__(self) -> str:
        return f"FusedOptimizer({', '.join(map(repr, self.optimizers))})"


def _leaving_no_scale(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that deletes the attributes set by GradScaler if it raises; GradScaler deletes them otherwise."""

    @functools.wraps(step)
    def stepped(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(self, *args, **kwargs)
        except BaseException:
            if "found_inf" in vars(self):
                for name in {"grad_scale", "found_inf"} & vars(self).keys():
                    delattr(self, name)
            raise

    stepped.leaves_no_scale = True  # type: ignore[attr-defined]
    return stepped


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()
