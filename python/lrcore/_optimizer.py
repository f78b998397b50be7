"""The base of the optimizers: what all of them share, around the Stepper that owns the step."""

from __future__ import annotations

import copy
import operator
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lrcore import _arguments, schedules
from lrcore._arguments import Hyper, Value
from lrcore._lrcore_core import Stepper, flat_size, rules

_RULES = rules()


def aligned_zeros(size: int) -> NDArray[np.float32]:
    """Give `size` float32 zeros that begin at a cache line."""
    line = 64
    memory = np.zeros(size * 4 + line, dtype=np.uint8)
    start = -memory.ctypes.data % line
    return memory[start : start + size * 4].view(np.float32)


def _like(params: Any, array: NDArray[np.float32]) -> Any:
    """Offer a NumPy array as an array of the kind of `params`, over the same memory."""
    library = sys.modules.get(type(params).__module__.partition(".")[0])
    if library is None or library is np or not hasattr(library, "from_dlpack"):
        return array
    return library.from_dlpack(array)


class Optimizer(Stepper):
    """What all optimizers share. A subclass names its arguments and, in `_choose_rule`, the rule that they mean."""

    def __init__(
        self,
        params: Any,
        lr: schedules.Rate,
        grads: Any,
        initial: Mapping[str, float] = MappingProxyType({}),
        **arguments: Any,
    ) -> None:
        self._hyper = _arguments.numbers(arguments)
        self._options = _arguments.options(arguments)
        rule = self._choose_rule(self._hyper | self._options)
        names, self._rule_hypers = _RULES[rule]

        self._params = params
        self._grads = grads
        self._schedule = schedules.as_schedule(lr)
        size = flat_size(params)
        self._states = [aligned_zeros(size) for _ in names]
        for name, value in initial.items():
            self._states[names.index(name)].fill(value)
        super().__init__(
            rule,
            params,
            self._states,
            grads,
            self._hypers(self._hyper),
            self._hyper["weight_decay"],
            self._options["decoupled_weight_decay"],
            self._options["maximize"],
            self._asked(self._schedule),
        )
        self._state = MappingProxyType(
            {name: _like(params, state) for name, state in zip(names, self._states, strict=True)}
        )

    @classmethod
    def _choose_rule(cls, arguments: Mapping[str, Any]) -> str:  # noqa: ARG003
        """Give the name of the rule that checked arguments mean; ValueError where they do not go together.

        A class with one rule is called like it and needs no choice.
        """
        return cls.__name__.lower()

    def _hypers(self, hyper: Mapping[str, Value]) -> list[float]:
        """Give the numbers that the rule takes, in its order."""
        flat = _arguments.flatten(hyper)
        return [flat[name] for name in self._rule_hypers]

    @staticmethod
    def _asked(schedule: schedules.Schedule) -> Any:
        """Give what the Stepper asks for a rate: a number, or the schedule's formula without its checks of t."""
        return schedule.lr if isinstance(schedule, schedules.Constant) else schedule._value

    @property
    def params(self) -> Any:
        """The parameters, as they were passed."""
        return self._params

    @property
    def state(self) -> Mapping[str, Any]:
        """The optimizer's state: name -> flat float32 array of the kind of the parameters.

        The arrays are the memory that a step reads and writes; writing them in place changes the optimizer.
        """
        return self._state

    @property
    def schedule(self) -> schedules.Schedule:
        """The learning-rate schedule. Assign to `lr` to replace it."""
        return self._schedule

    @property
    def lr(self) -> float:
        """The learning rate that the next step will use. Assigning a number, a schedule or a callable replaces it."""
        return self._schedule(operator.index(self.step_count))

    @lr.setter
    def lr(self, lr: schedules.Rate) -> None:
        schedule = schedules.as_schedule(lr)
        self._set_lr(self._asked(schedule))
        self._schedule = schedule

    @property
    def hyper(self) -> Hyper:
        """The numeric arguments of the constructor by name, `betas` a pair. Assignable between steps, and checked."""
        return Hyper(self)

    def _checked_hyper(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check a full set of numeric arguments; ValueError where they would mean another rule."""
        checked = _arguments.numbers(values)
        rule = self._choose_rule(checked | self._options)
        if rule != self.rule:
            raise ValueError(
                f"hyper: this would change the rule from {self.rule} to {rule}; make a new optimizer"
            )
        return checked

    def _change_hyper(self, changes: Mapping[str, Any]) -> None:
        for name in changes:
            if name not in self._hyper:
                raise KeyError(f"{name}: expected one of {', '.join(self._hyper)}")
        hyper = self._checked_hyper(self._hyper | dict(changes))
        self._set_hypers(self._hypers(hyper), hyper["weight_decay"])
        self._hyper = hyper

    def _snapshot_state(self) -> tuple[int, dict[str, Any]]:
        """Give the step count and copies of the states that go with it."""
        copies = [aligned_zeros(self.size) for _ in self._states]
        step_count = self._snapshot(copies)
        return step_count, {
            name: _like(self._params, each) for name, each in zip(self._state, copies, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Give a copy of everything that a resumed run needs beside the parameters.

        Returns
        -------
        dict
            `rule`, `options`, `hyper`, `step_count`, `state` (name -> array) and, unless the rate comes from an opaque
            callable, `schedule` (see `lrcore.schedules.from_dict`).
        """
        step_count, state = self._snapshot_state()
        dictionary = {
            "rule": self.rule,
            "options": self._stored_options(),
            "hyper": dict(self._hyper),
            "step_count": step_count,
            "state": state,
        }
        if not isinstance(self._schedule, schedules.Function):
            dictionary["schedule"] = self._schedule.to_dict()
        return dictionary

    def _stored_options(self) -> dict[str, bool | str]:
        """Give the options that the name of the rule does not tell."""
        return {name: self._options[name] for name in ("decoupled_weight_decay", "maximize")}

    def load_state_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Replace hyperparameters, step count, state and, when the dictionary has one, the schedule.

        A rate that came from a callable cannot be stored; this optimizer's own stays then.

        Raises
        ------
        TypeError, ValueError
            When the dictionary is of another rule or other options, or has a missing, unknown or wrong entry. Nothing
            is changed then.
        """
        required = {"rule", "options", "hyper", "step_count", "state"}
        _require_names("state_dict", set(dictionary) - {"schedule"}, required)
        if dictionary["rule"] != self.rule:
            raise ValueError(f"rule: expected {self.rule}, got {dictionary['rule']}")
        if dictionary["options"] != self._stored_options():
            raise ValueError(f"options: expected {self._stored_options()}, got {dictionary['options']}")
        _require_names("hyper", set(dictionary["hyper"]), set(self._hyper))
        _require_names("state", set(dictionary["state"]), set(self._state))
        hyper = self._checked_hyper(dictionary["hyper"])
        schedule = self._schedule
        if "schedule" in dictionary:
            schedule = schedules.from_dict(dictionary["schedule"])
        self._restore(
            [dictionary["state"][name] for name in self._state],
            operator.index(dictionary["step_count"]),
            self._hypers(hyper),
            hyper["weight_decay"],
            self._asked(schedule),
        )
        self._hyper = hyper
        self._schedule = schedule

    def _again(self, params: Any, grads: Any) -> Self:
        """Make an optimizer that goes on from here, with states of its own, on these arrays."""
        rebuilt: Self = _rebuild(
            type(self), params, grads, self._schedule, self._hyper | self._options, *self._snapshot_state()
        )
        return rebuilt

    def __copy__(self) -> Self:
        return self._again(self._params, self._grads)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._again(copy.deepcopy(self._params, memo), copy.deepcopy(self._grads, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (type(self), self._params, self._grads, self._schedule, self._hyper | self._options)
        return _rebuild, (*arguments, *self._snapshot_state())

    def __repr__(self) -> str:
        rate = self._schedule.lr if isinstance(self._schedule, schedules.Constant) else self._schedule
        return f"{type(self).__name__}(size={self.size}, device={self.device}, lr={rate!r}, step_count={self.step_count})"


def refuse_without_momentum(arguments: Mapping[str, Any], *names: str) -> None:
    """ValueError where an argument is set that acts on a momentum that is not there."""
    for name in names:
        if arguments[name] and not arguments["momentum"]:
            raise ValueError(f"{name}: has no effect without momentum; set momentum > 0 or leave {name} out")


def _require_names(what: str, names: set[str], expected: set[str]) -> None:
    if names != expected:
        raise ValueError(f"{what}: expected the entries {sorted(expected)}, got {sorted(names)}")


def _rebuild(
    cls: type[Any],
    params: Any,
    grads: Any,
    schedule: schedules.Schedule,
    arguments: Mapping[str, Any],
    step_count: int,
    state: Mapping[str, Any],
) -> Any:
    """Make an optimizer from the parts of another."""
    optimizer = cls(params, schedule, grads=grads, **arguments)
    hyper = optimizer._hyper
    states = [state[name] for name in optimizer.state]
    optimizer._restore(
        states, step_count, optimizer._hypers(hyper), hyper["weight_decay"], optimizer._asked(schedule)
    )
    return optimizer
