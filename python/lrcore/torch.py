"""Stepping the parameters of a PyTorch module in one call: ``pip install "lrcore[torch]"``.

::

    import lrcore.torch

    opt = lrcore.torch.FusedOptimizer(model.parameters(), lrcore.AdamW, lr=1e-3)
    for x, y in data:
        opt.zero_grad()
        loss(model(x), y).backward()
        opt.step()

PyTorch is imported with this module and not with `lrcore`.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from lrcore import _arguments, _torch_state, schedules
from lrcore._arguments import require_entries
from lrcore._extras import needs
from lrcore._lrcore_core import to_float
from lrcore.optimizers import Optimizer
from lrcore.schedules import Constant, Rate, Schedule

with needs("torch"):
    import torch

    from lrcore._torch_buffer import Buffer, check_parameters, named, place_of

__all__ = ["FusedOptimizer"]

_OWN = "lrcore"
"""The entry of a state dictionary with what PyTorch's lacks."""
_OWN_ENTRIES = ("rule", "step_count", "schedule", "schedule_state")
"""What is in it; the last two where there are any."""


class FusedOptimizer(torch.optim.Optimizer):  # type: ignore[misc]
    """Step all parameters of a module as one flat buffer, with an optimizer of lrcore.

    The parameters become views of one flat buffer for each device, every one at a multiple of 64 bytes, and their
    gradients views of another. `step` is then one pass over them, however many tensors there are. It is a
    `torch.optim.Optimizer`: gradient scaling, clipping, the schedulers of ``torch.optim.lr_scheduler`` and step hooks go
    on working.

    - A parameter without a gradient counts as one whose gradient is zero: momentum and decay act on it. PyTorch's
      optimizers leave it out. One that does not require its gradient any more is refused.
    - A backward pass writes every gradient into the flat buffer, the next one again: clone what is to be kept. After
      ``zero_grad(set_to_none=True)``, or ``model.zero_grad()``, a hook copies each new gradient there and attaches it;
      ``zero_grad(set_to_none=False)`` leaves the gradients attached, and nothing has to be copied. A tensor that is
      assigned as a gradient is copied at every step until the next backward pass.
    - Make it after the module is on its device. `step` refuses parameters whose storage has moved since, as ``.to()`` moves
      them. ``load_state_dict(assign=True)`` puts others in their place, which it cannot see.
    - ``torch.save`` of one parameter writes the buffer that it is a view of: clone parts before they are saved.

    Parameters
    ----------
    params : iterable of tensors, or of pairs of a name and a tensor
        float32 leaves that require their gradients: ``model.parameters()`` or ``model.named_parameters()``. One group.
    optimizer : class
        One of `lrcore.optimizers`, such as `lrcore.AdamW`.
    lr : float, schedule or callable, optional
        As the class takes it, with its default. ``param_groups[0]["lr"]`` shows, after each step, the rate of the next; a
        number can be assigned there, as PyTorch's schedulers do, unless the rate comes from a schedule of lrcore.
    **arguments
        The other arguments of the class, but `grads`.

    Attributes
    ----------
    optimizers : tuple of lrcore.optimizers.Optimizer
        One for each device, in the order of the first parameter there. Their `params` and `grads` are the flat buffers.
    param_groups : list of dict
        One group. Hyperparameters that are assigned there are used by the next step.
    state : dict
        For each parameter its state, as views of the flat buffers.

    Raises
    ------
    TypeError
        When a parameter is not float32, no dense tensor, or no tensor, or groups of parameters are given.
    ValueError
        When a parameter is no leaf, does not require its gradient, comes twice or shares
        memory with another; or as the class.
    """

    _step_supports_amp_scaling = (
        True  # GradScaler leaves the gradients scaled, and tells scale and infinities
    )

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
            arguments["lr"] = _asked_once(lr)
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
        self.optimizers: tuple[Optimizer, ...] = tuple(each.optimizer for each in self._buffers)
        self._group_is_made = False
        super().__init__([{"params": tensors}], self._numbers())
        self._group_is_made = True
        for buffer in self._buffers:
            weakref.finalize(self, _remove, buffer.handles).atexit = False  # they hold the flat gradients
            with torch.inference_mode(False):
                buffer.move_in()
                for parameter, states in zip(buffer.parameters, buffer.states(), strict=True):
                    self.state[parameter] = states
        self._show()

    @property
    def lr(self) -> float:
        """The rate of the next step. Assigning a number, a schedule or a callable replaces what gives it."""
        return self.optimizers[0].lr

    @lr.setter
    def lr(self, lr: Rate) -> None:
        self._set_lr(_asked_once(lr))

    def _set_lr(self, lr: Rate) -> None:
        schedule = schedules.as_schedule(lr)  # one for all devices
        for each in self.optimizers:
            each.lr = schedule
        self._show()

    @property
    def schedule(self) -> Schedule:
        """What gives the rate."""
        return self.optimizers[0].schedule

    @property
    def step_count(self) -> int:
        """How many steps were applied. Those that GradScaler skips do not count."""
        return self.optimizers[0].step_count

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
            When the storage of a parameter has moved. Nothing is changed then.
        TypeError, ValueError
            When a gradient is sparse, or what was assigned in `param_groups` is refused. Nothing is changed then.
        """
        loss = None
        scaler = _scaler_of(self)
        try:
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for buffer in self._buffers:
                buffer.gather()
            self._obey_group()
        except BaseException:
            for name in scaler:  # GradScaler takes them away after a step, and this was none
                delattr(self, name)
            raise
        if float(scaler.get("found_inf", 0)):
            return loss
        if scaler.get("grad_scale") is not None:
            grad_scale /= float(scaler["grad_scale"])
        for buffer in self._buffers:
            buffer.optimizer.step(grad_scale=grad_scale)
            torch.autograd.graph.increment_version(buffer.parameters)  # backward passes notice the change
        if self._scheduled:
            with contextlib.suppress(Exception):  # it is the next step that asks for it, and then raises
                self._shown["lr"] = self.param_groups[0]["lr"] = self.lr
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

    def state_dict(self) -> dict[str, Any]:
        """Give a copy of everything that a resumed run needs beside the parameters.

        Returns
        -------
        dict
            `state` and `param_groups` as the optimizer of the same name in ``torch.optim`` has them, if there is one: it can
            load them, but ignores options that it lacks, such as `eps_placement`. `lrcore` has what PyTorch's do not: `rule`, `step_count`, and the schedule as in
            `lrcore.optimizers.Optimizer.state_dict`. The tensors are on the devices of the parameters.
        """
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        self._obey_group()
        self._show()
        first = self.optimizers[0]
        stored = [each.state_dict() for each in self.optimizers]
        states: dict[int, dict[str, Any]] = {}
        for buffer, each in zip(self._buffers, stored, strict=True):
            tensors = {name: buffer.views(flat) for name, flat in each["state"].items()}
            of_parameters = _torch_state.states_of(
                first, each["step_count"], each["hyper"], tensors, len(buffer.indices)
            )
            states.update(zip(buffer.indices, of_parameters, strict=True))
        numbers = [*range(len(states))]
        dictionary = {
            "state": {number: states[number] for number in numbers},
            "param_groups": [_torch_state.flags_of(first) | self.param_groups[0] | {"params": numbers}],
            _OWN: {name: stored[0][name] for name in _OWN_ENTRIES if name in stored[0]},
        }
        for after in self._optimizer_state_dict_post_hooks.values():
            dictionary = after(self, dictionary) or dictionary
        return dictionary

    def load_state_dict(self, state_dict: Mapping[str, Any], *, step_count: int | None = None) -> None:
        """Go on where `state_dict` was asked, or where the optimizer of the same name in ``torch.optim`` was.

        Parameters
        ----------
        state_dict : dict
            From `state_dict` or from PyTorch. PyTorch's has no schedule: one that this optimizer has stays, a rate that is a
            number becomes the group's.
        step_count : int, optional
            How many steps were taken, for PyTorch's SGD alone, which does not count them.

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
        if len(group["params"]) != len(self.param_groups[0]["params"]):
            raise ValueError(
                f"param_groups: expected {len(self.param_groups[0]['params'])} parameters, got {len(group['params'])}"
            )
        found = [self._for_buffer(buffer, dictionary, group, step_count) for buffer in self._buffers]
        for optimizer, entries in zip(self.optimizers, found, strict=True):
            optimizer.load_state_dict(entries)
            optimizer.lr = self.schedule
        others = {"params", *self._shown, *_torch_state.FLAGS}
        self.param_groups[0].update({name: value for name, value in group.items() if name not in others})
        self._show()
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _for_buffer(
        self, buffer: Buffer, dictionary: Mapping[str, Any], group: Mapping[str, Any], step_count: int | None
    ) -> dict[str, Any]:
        """Give what is in a state dictionary as one for the optimizer of a device."""
        optimizer = buffer.optimizer
        if _OWN not in dictionary:
            entries = _torch_state.converted(optimizer, dictionary, step_count, buffer.join)
            if self._scheduled:
                del entries["schedule"]  # which is the number that PyTorch's group has
            return entries
        if step_count is not None:
            raise ValueError("step_count: the dictionary tells it; leave it out")
        stored = require_entries(_OWN, dictionary[_OWN], _OWN_ENTRIES[:2], *_OWN_ENTRIES[2:])
        found = {name: group[name] for name in self._shown if name in group}
        require_entries("param_groups", found, self._shown)
        entries = {
            **stored,
            "hyper": {name: found[name] for name in optimizer.hyper},
            "options": {name: found[name] for name in optimizer._stored_options()},
            "state": buffer.join_all(
                _torch_state.states_in_order(dictionary.get("state"), group["params"]), stored["step_count"]
            ),
        }
        if "schedule" in stored and type(schedules.from_dict(stored["schedule"])) is Constant:
            entries["schedule"] = Constant(to_float("lr", found["lr"])).to_dict()
        return entries

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: there is one group. Make another FusedOptimizer for other parameters."""
        if self._group_is_made:
            raise ValueError(
                "param_group: a FusedOptimizer has one group; make one for each set of hyperparameters"
            )
        super().add_param_group(param_group)

    def _numbers(self) -> dict[str, Any]:
        """Give rate, hyperparameters and options, as a group has them."""
        first = self.optimizers[0]
        return {"lr": self.lr, **first.hyper, **first._options}

    def _show(self) -> None:
        """Write them into the group."""
        first = self.optimizers[0]
        self._shown = self._numbers()
        self._scheduled = first._max_steps is None and type(first.schedule) is not Constant
        self.param_groups[0].update(self._shown)

    def _obey_group(self) -> None:
        """Use what was assigned in the group since it was last written: all of it or, where some is refused, none."""
        group = self.param_groups[0]
        if len(self.param_groups) != 1 or len(group["params"]) != sum(
            len(each.parameters) for each in self._buffers
        ):
            raise ValueError(
                "param_groups: its parameters were changed; make a FusedOptimizer for each group"
            )
        changed = {name: group[name] for name, value in self._shown.items() if group[name] != value}
        if not changed:
            return
        for name in changed:
            if name in _arguments.OPTIONS:
                raise ValueError(f"{name}: fixed at construction; make a new optimizer")
        rate = None
        if "lr" in changed:
            if self._scheduled:
                raise ValueError(
                    f"lr: {changed['lr']} was assigned in param_groups, as a scheduler of PyTorch does, but the rate comes "
                    f"from {self.schedule!r}; give a number as lr, or assign opt.lr"
                )
            rate = schedules.as_schedule(_arguments.or_zero(to_float("lr", changed.pop("lr"))))
        for each in self.optimizers:
            each.hyper.update(changed)
            if rate is not None:
                each.lr = rate
        self._show()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "hyper" or name in _arguments.NUMBERS or name in _arguments.OPTIONS:
            raise AttributeError(f'{name}: assign opt.param_groups[0]["{name}"]')
        super().__setattr__(name, value)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a FusedOptimizer cannot be copied or pickled, since its parameters belong to a module; copy the module, make "
            "another, and give it this one's state_dict()"
        )

    def __repr__(self) -> str:
        return f"FusedOptimizer({', '.join(map(repr, self.optimizers))})"


def _scaler_of(optimizer: Any) -> dict[str, Any]:
    """Give what GradScaler tells an optimizer before its step: by what gradients were multiplied, and infinities in them."""
    return {name: vars(optimizer)[name] for name in ("grad_scale", "found_inf") if name in vars(optimizer)}


def _asked_once(lr: Any) -> Any:
    """Give a rate whose callable, which may keep a state of its own, is asked once for each step."""
    if not callable(lr) or isinstance(lr, Schedule):
        return lr
    given: dict[int, Any] = {}

    @functools.wraps(lr, updated=())
    def asked(t: int) -> Any:
        if t not in given:
            rate = lr(t)
            given.clear()
            given[t] = rate
        return given[t]

    return asked


def _remove(handles: Iterable[Any]) -> None:
    for handle in handles:
        handle.remove()
