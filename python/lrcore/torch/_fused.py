"""The optimizer of a module's parameters."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from lrcore import schedules
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
    """Step all parameters of a module as one flat buffer, with an optimizer of lrcore.

    The parameters become views of one flat buffer for each device, every one at a multiple of 64 bytes, and their
    gradients views of another. `step` is then one pass over them, however many tensors there are. It is a
    `torch.optim.Optimizer`: gradient scaling, clipping, the schedulers of ``torch.optim.lr_scheduler`` and step hooks go
    on working.

    - A parameter without a gradient counts as one whose gradient is zero: momentum and decay act on it. PyTorch's
      optimizers leave it out. One that does not require its gradient any more is refused.
    - A backward pass writes every gradient into the flat buffer. After ``zero_grad(set_to_none=True)``, or
      ``model.zero_grad()``, a hook copies each new gradient there and attaches it; ``zero_grad(set_to_none=False)`` leaves the
      gradients attached, and nothing has to be copied. A tensor that is assigned as a gradient is copied at every step until
      the next backward pass. ``p.grad`` keeps its values when the parameter's gradient is set to None, but what shares its
      memory, such as ``p.grad.detach()`` or ``p.grad.view(-1)``, does not: clone that.
    - What is assigned acts at the next step or is refused: in `param_groups`, by `lr`, in `state` and in `optimizers`. A step
      that raises changes no parameter, state or count, on any device.
    - Make it after the module is on its device. `step` refuses parameters whose storage has moved since, as ``.to()`` moves
      them. ``load_state_dict(assign=True)`` puts others in their place, which it cannot see.
    - Each parameter, gradient and state has a storage of its own over that memory, so it is saved by itself.

    Parameters
    ----------
    params : iterable of tensors, or of pairs of a name and a tensor
        float32 leaves that require their gradients: ``model.parameters()`` or ``model.named_parameters()``. One group.
    optimizer : class
        One of `lrcore.optimizers`, such as `lrcore.AdamW`.
    lr : float, schedule or callable, optional
        As the class takes it, with its default. It is asked once at each step, for all devices. ``param_groups[0]["lr"]`` is
        the rate of the next step where the rate is a number or a schedule of lrcore that holds no callable. With a callable,
        or a schedule of the caller's own, it is the rate that the last step used, NaN before the first one. Unless the rate
        comes from a schedule or a callable, a number can be assigned there, as PyTorch's schedulers do. A tensor is read at
        each step.
    **arguments
        The other arguments of the class, but `grads`.

    Attributes
    ----------
    optimizers : tuple of lrcore.optimizers.Optimizer
        One for each device, in the order of the first parameter there. Their `params` and `grads` are the flat buffers. With
        several devices, one that was changed alone is refused by the step.
    param_groups : list of dict
        One group, with the numbers of the next step. Those that are assigned there are used by it; other entries are carried.
    state : dict
        For each parameter its states, as views of the flat buffers: a tensor that was taken from it before a reset or a
        load shows that too. A tensor that is assigned is copied there.
        ``opt.state.clear()``, or an empty dictionary in its place, begins anew: with the states of the beginning and a step
        count of 0. All parameters share that count, so removing the state of one alone is a ValueError.

    Raises
    ------
    TypeError
        When a parameter is not float32, no dense tensor, or no tensor, or groups of parameters are given.
    ValueError
        When a parameter is no leaf, does not require its gradient, comes twice or shares
        memory with another; or as the class.
    """

    _step_supports_amp_scaling = True  # GradScaler leaves gradients scaled, and tells scale and infinities

    def __init__(
        self, params: Iterable[Any], optimizer: type[Optimizer], lr: Rate | None = None, **arguments: Any
    ) -> None:
        given: Any = optimizer
        if not isinstance(given, type) or not issubclass(given, Optimizer):
            raise TypeError(f"optimizer: expected a class of lrcore.optimizers, got {optimizer!r}")
        if "grads" in arguments:
            raise TypeError("grads: expected none; the gradients are those of the parameters")
        names, tensors = named(params)
        check_parameters(names, tensors)
        if lr is not None:
            arguments["lr"] = schedules.as_schedule(lr)  # one for all devices
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
        # The entry is empty here. It is there for tools that restore the entries of these groups alone.
        super().__init__([{"params": tensors}], self._group.numbers() | {_torch_state.OWN: ""})
        for buffer in self._buffers:
            weakref.finalize(self, _remove, buffer.handles).atexit = False  # they hold the flat gradients
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
            cls.step = _leaving_no_scale(cls.step)  # around the hooks too

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """One for each device, with what was assigned in `param_groups`."""
        with contextlib.suppress(TypeError, ValueError):  # which the step raises
            self._group.obey()
        return self._optimizers

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One group."""
        self._group.show()
        return self._group.list  # type: ignore[no-any-return]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._group.list = groups

    @property
    def state(self) -> States:
        """The states by name, for each parameter. What is assigned is copied; ``{}`` begins anew."""
        for buffer in self._buffers:
            buffer.state_is_shown = True
        return self._state

    @state.setter
    def state(self, states: Mapping[Any, Any]) -> None:
        if "_state" not in vars(self) or states is self._state:
            return  # PyTorch's constructor begins with none
        former = self._state
        flat = former.checked(states)
        kept = [(each, *each.values_of_now()) for each in former.values()]  # for who keeps the former mapping
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
        """The rate of the next step; a callable is asked for it. Assign a number, a schedule or a callable to replace it."""
        self._group.obey()
        return self._optimizers[0].lr

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._group.set_rate(lr)

    @property
    def schedule(self) -> Schedule:
        """What gives the rate."""
        return self.optimizers[0].schedule

    @property
    def step_count(self) -> int:
        """How many steps were applied. Those that GradScaler skips do not count."""
        return self._optimizers[0].step_count

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, closure: Callable[[], Any] | None = None, *, grad_scale: float = 1.0) -> Any:
        """Step all parameters, in place.

        Parameters
        ----------
        closure : callable, optional
            Computes gradients and gives the loss, as PyTorch's optimizers take it.
        grad_scale : float
            The gradients are multiplied by it, in the same pass.

        Returns
        -------
        object
            What `closure` gave, or None.

        Raises
        ------
        RuntimeError
            When the storage of a parameter or a state has moved. Nothing is changed then.
        TypeError, ValueError
            When a gradient is sparse or has no memory, when what was assigned in `param_groups` is refused, when its
            parameters are others, or when the optimizer of one device was changed alone. Nothing is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for buffer in self._buffers:
            buffer.gather()
        self._group.obey()
        told = vars(self)  # by GradScaler
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
            if first.step_count != before:  # an interrupt after the step is raised here as well
                torch.autograd.graph.increment_version(self._group.parameters)  # backward passes notice
                self._group.after_step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let the next backward pass begin from gradients of zero.

        Parameters
        ----------
        set_to_none : bool
            Set each parameter's ``grad`` to None as well, which costs the next backward pass a copy of every gradient.
        """
        for buffer in self._buffers:
            buffer.zero_grad(set_to_none)

    @torch.inference_mode(False)  # type: ignore[untyped-decorator]
    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a resumed run needs beside the parameters.

        Returns
        -------
        dict
            `state` and `param_groups` as the optimizer of the same name in ``torch.optim`` has them, if there is one: it can
            load them, but ignores options that it lacks, such as `eps_placement`. The group's entry `lrcore` is a text, JSON,
            of what PyTorch's lack: `rule`, `step_count`, and the schedule as in `lrcore.optimizers.Optimizer.state_dict`. The
            tensors are on the devices of the parameters. `step` is of float32, exact up to 2**24; the text always is.
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
        """Go on where `state_dict` was asked, or where the optimizer of the same name in ``torch.optim`` was.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` or from PyTorch, also from one of its optimizers that loaded ours. PyTorch's has no schedule: one
            that this optimizer has stays, a rate that is a number becomes the group's.
        step_count : int, optional
            How many steps were taken, for PyTorch's SGD alone, which does not count them. By default 0 or, where a momentum
            has begun with dampening, 1; and what ours had where it was loaded there.

        Raises
        ------
        TypeError, ValueError
            When it is of another optimizer, other options or other parameters, or has a wrong entry. Nothing is changed
            then.
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
        """Refuse: there is one group. Make another FusedOptimizer for other parameters."""
        if self._group.list:
            raise ValueError(
                "param_group: a FusedOptimizer has one group; make one for each set of hyperparameters"
            )
        super().add_param_group(param_group)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hyper":
            raise AttributeError("hyper: assign opt.param_groups[0][name]")
        if name in _torch_state.FIXED:
            raise AttributeError(f"{name}: fixed at construction; make a new optimizer")
        # PyTorch's tools may keep other names on an optimizer.
        if name in FOREIGN or name in _arguments.NUMBERS:
            numbers = [each for each in self._group.shown if each in _arguments.NUMBERS]
            if (meant := meant_by(name, ("lr", *numbers))) is not None:
                place = "opt.lr" if meant == "lr" else f'opt.param_groups[0]["{meant}"]'
                raise AttributeError(f"{name}: assign {place}")
            if name in _arguments.NUMBERS:
                raise AttributeError(f"{name}: expected one of {', '.join(numbers)}")
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a FusedOptimizer cannot be copied or pickled, since its parameters belong to a module; copy the module, make "
            "another, and give it this one's state_dict()"
        )

    def __repr__(self) -> str:
        return f"FusedOptimizer({', '.join(map(repr, self.optimizers))})"


def _leaving_no_scale(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that, where it raises, takes away what GradScaler has told the optimizer, as that does after a step."""

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
