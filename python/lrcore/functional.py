"""One function for each optimizer, for those who keep their own state.

``adam(params, grads, exp_avg, exp_avg_sq, *, step, lr, ...)`` takes step number `step` in place on arrays that the
caller keeps. The keywords are those of the class of that name, with the same defaults and checks; they choose the
variant and so the states, which come in the order of ``lrcore.rules()``. Slices of larger buffers are fine.

Each function takes

params : array of float32
    Updated in place.
grads : array of float32
    As many elements. Never written.
*states : array of float32
    As many elements each; updated in place.
step : int
    The number of the step being taken, from 1.
lr : float
    The learning rate of this step.
grad_scale : float
    The gradients are multiplied by it.

and raises TypeError, ValueError or RuntimeError before anything is written.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from lrcore import optimizers

__all__ = [name.lower() for name in optimizers.__all__ if name != "Optimizer"]


class StepFunction(Protocol):
    """The shape of the functions of this module."""

    def __call__(
        self,
        params: Any,
        grads: Any,
        *states: Any,
        step: int,
        lr: float,
        grad_scale: float = 1.0,
        **arguments: Any,
    ) -> None:
        """Take one step in place."""


@functools.lru_cache(maxsize=1024, typed=True)
def _checked(cls: Callable[..., optimizers.Optimizer], **arguments: Any) -> optimizers.Optimizer:
    """Give an optimizer of no parameters: the checked form of a class's keyword arguments."""
    return cls(np.empty(0, np.float32), **arguments)


def _function(cls: Callable[..., optimizers.Optimizer]) -> StepFunction:
    def step_function(
        params: Any, grads: Any, *states: Any, step: int, lr: float, grad_scale: float = 1.0, **arguments: Any
    ) -> None:
        hashable = {
            name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()
        }
        _checked(cls, **hashable)._apply(params, grads, states, step, lr, grad_scale)

    parameters = inspect.signature(step_function).parameters
    own = [each for name, each in parameters.items() if name != "arguments"]
    keywords = [
        each for name, each in inspect.signature(cls).parameters.items() if name not in {*parameters, "lr"}
    ]
    step_function.__name__ = step_function.__qualname__ = cls.__name__.lower()
    step_function.__signature__ = inspect.Signature([*own, *keywords])  # type: ignore[attr-defined]
    step_function.__doc__ = (
        f"Take one step of `lrcore.{cls.__name__}` in place, on states that the caller keeps.\n"
    )
    return step_function


def __getattr__(name: str) -> StepFunction:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    cls = next(each for each in vars(optimizers).values() if getattr(each, "__name__", "").lower() == name)
    function = _function(cls)
    globals()[name] = function
    return function
