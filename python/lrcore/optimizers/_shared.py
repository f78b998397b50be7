"""The arguments that all optimizers share: their names, types, defaults and meanings, each in one place.

A *setting* is an argument of the constructor and applies until it is changed. The arguments of a single step are those
of `Stepper.step`. Only the gradients can be either: bound at construction or passed to each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from lrcore.schedules import Rate

Decay = Literal["l2", "decoupled", "independent"]


class Shared(TypedDict, total=False):
    """
    weight_decay : float or schedule
        With decay "l2", ``weight_decay * params`` is added to the gradient. With "decoupled", the parameters are first
        multiplied by ``1 - lr * weight_decay``, which rounds to 1 in float32 if ``lr * weight_decay <= 2**-25``. With
        "independent", they are multiplied by ``1 - weight_decay``, which rounds to 1 if ``weight_decay <= 2**-25``:
        0.01 removes 1 % per step, whatever the rate.
    decay : {"l2", "decoupled", "independent"}
        How `weight_decay` is applied.
    decoupled_weight_decay : bool, optional
        PyTorch's name for this choice: True means ``decay="decoupled"``, and False means ``decay="l2"``.
    maximize : bool
        Maximize the objective instead of minimizing it.
    grads : array of float32, or Pack, optional
        Gradients to bind, so that ``step()`` needs no argument. A `lrcore.Pack` must have the names and shapes of
        `params`, in the same order.
    groups : list of dict, optional
        Parts of the parameters with their own settings; see `Optimizer.groups`. The entry ``params`` has the elements of
        a group in the flat buffer: a slice, a pair ``(begin, end)``, or a list of these. If the parameters are a
        `lrcore.Pack`, it can also have the names of arrays, such as ``"layers.0.bias"``; patterns for the names, such as
        ``"*.bias"``; and functions of the name and the shape of an array that return a bool. The other entries are any
        numeric arguments and `maximize`, which replace the optimizer's; ``lr``, a rate of its own, or ``lr_scale``, a
        factor for the optimizer's rate; and ``frozen``. The remaining elements form a group with the
        optimizer's settings.
    max_norm : float, schedule or callable, optional
        The largest norm of the gradients of all elements that are not frozen. If the norm, multiplied by
        ``abs(grad_scale)``, is larger, the step multiplies the gradients by ``max_norm / norm``. With ``inf``, the norm is
        only measured. `Optimizer.grad_norm` is the norm of the last step.
    skip_nonfinite : bool or int
        Skip a step if a gradient is not finite: parameters, states, step counts and schedules then stay as they are. An
        integer is the number of skipped steps in a row that raises FloatingPointError; True means 100.
    ema : float, schedule or callable, optional
        The decay of an exponential moving average of the parameters, at least 0 and less than 1, such as 0.999. The
        average begins as a copy of the parameters, and each step ends with
        ``average += (1 - ema) * (params - average)`` in the same pass. It is ``opt.state["ema"]``; `Optimizer.averaged`
        returns a copy. Elements of frozen groups are not averaged.
    capturable : bool
        Keep the step number and the constants of `max_steps` steps on the CUDA device, for steps that are captured in a
        CUDA graph and replayed. Requires bound `grads`; `lr` and `hyper` cannot then be changed.
    max_steps : int, optional
        Number of steps for which a capturable optimizer stores constants: 48 bytes for each step and group. Later
        steps use the constants of the last one.
    """  # noqa: D205

    weight_decay: Rate
    decay: Decay
    decoupled_weight_decay: bool | None
    maximize: bool
    grads: Any
    groups: Sequence[Mapping[str, Any]] | None
    max_norm: Rate | None
    skip_nonfinite: bool | int
    ema: Rate | None
    capturable: bool
    max_steps: int | None


DEFAULTS: Shared = {
    "weight_decay": 0.0,
    "decay": "l2",
    "decoupled_weight_decay": None,
    "maximize": False,
    "grads": None,
    "groups": None,
    "max_norm": None,
    "skip_nonfinite": False,
    "ema": None,
    "capturable": False,
    "max_steps": None,
}
"""The defaults of the settings. Class keywords change them: ``class AdamW(Adam, weight_decay=0.01)``."""

OF_ONE_STEP = ("grads", "grad_scale", "zero_grads", "stream")
"""The arguments of `Stepper.step`."""
