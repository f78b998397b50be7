"""The relative size of an update, and the learning rate for another batch size."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from lrcore._checks import one_of, positive, rate
from lrcore._lrcore_core import copy
from lrcore._names import explain_keywords
from lrcore.optimizers._base import Optimizer
from lrcore.schedules import Schedule

ScalingRule: TypeAlias = Literal["linear", "sqrt"]

_POWERS: dict[ScalingRule, float] = {"linear": 1.0, "sqrt": 0.5}


@overload
def scale_lr(lr: float, batch_size: float, base_batch_size: float, rule: ScalingRule = "linear") -> float: ...
@overload
def scale_lr(
    lr: Schedule, batch_size: float, base_batch_size: float, rule: ScalingRule = "linear"
) -> Schedule: ...
@explain_keywords
def scale_lr(
    lr: float | Schedule, batch_size: float, base_batch_size: float, rule: ScalingRule = "linear"
) -> float | Schedule:
    """Scale a learning rate, or a schedule, from one batch size to another.

    Parameters
    ----------
    lr : float or schedule
        The rate that suits `base_batch_size`.
    batch_size, base_batch_size : float
        Batch sizes in samples, > 0.
    rule : {"linear", "sqrt"}
        Whether to multiply by ``batch_size / base_batch_size`` or by its square root.

    References
    ----------
    Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.1: linear, with
    a warm-up. Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", section 5:
    the square root preserves the variance of an update.

    Examples
    --------
    >>> scale_lr(0.1, batch_size=1024, base_batch_size=256)
    0.4
    >>> scale_lr(0.001, 1024, 256, rule="sqrt")
    0.002
    """
    power = _POWERS[one_of(*_POWERS)("rule", rule)]
    factor: float = (
        positive("batch_size", batch_size) / positive("base_batch_size", base_batch_size)
    ) ** power
    if isinstance(lr, Schedule):
        return lr * factor
    return rate("lr", rate("lr", lr) * factor)


def update_ratio(opt: Optimizer, grads: Any = None, **arguments: Any) -> float:
    """Take a step and return ``||update|| / ||params||``, the size of the update relative to the parameters.

    A ratio of about 1e-3 is common in sound training runs. At 1e-6 hardly any parameter changes; at 0.1 a few
    steps replace everything that was learned. The parameters are copied to NumPy twice, which takes many
    times longer than the step, so measure about one step in a hundred.

    Parameters
    ----------
    opt : Optimizer
        An optimizer on the CPU or a CUDA device.
    grads, **arguments
        The arguments of ``opt.step``.

    Returns
    -------
    float
        The ratio of Euclidean norms. It is infinite if the parameters were all 0 and the step changed them, 0 if
        nothing changed, and NaN if a parameter is NaN or was infinite before the step.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If `opt` is not an optimizer, or ``opt.step`` raises one of these.

    References
    ----------
    Karpathy's notes for CS231n, "Neural Networks Part 3: Learning and Evaluation", the ratio of updates to weights.

    Examples
    --------
    >>> params = numpy.full(4, 2.0, numpy.float32)
    >>> round(update_ratio(lrcore.SGD(params, lr=0.5), numpy.full(4, 0.01, numpy.float32)), 6)
    0.0025
    """
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt: expected an optimizer, got {type(opt).__name__}")
    before, after = np.empty((2, opt.size), np.float32)
    copy(opt._array, before)
    opt.step(grads, **arguments)
    copy(opt._array, after)
    with np.errstate(invalid="ignore"):  # infinite parameters
        size = float(np.linalg.norm(before.astype(np.float64)))
        moved = float(np.linalg.norm(after.astype(np.float64) - before))
    if size == 0:
        return math.inf if moved else 0.0
    return moved / size
