"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from lrcore.optimizers._arguments import refuse_without_momentum
from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class RMSprop(Optimizer):
    """RMSprop: the gradient divided by the root of a running average of its square.

    ::

        v = alpha v + (1 - alpha) g^2
        not centered      w = v
        centered          a = alpha a + (1 - alpha) g,   w = max(0, v - a^2)
        d = g / (sqrt(w) + eps)
        plain             p = p - lr d
        momentum          b = momentum b + d,      p = p - lr b
        lr_in_velocity    b = momentum b + lr d,   p = p - b

    State: ``square_avg`` (v), ``grad_avg`` (a) if centered, and ``momentum_buffer`` (b) with momentum.

    Parameters
    ----------
    {params}
    alpha : float or schedule
        Decay rate of the running averages, in [0, 1).
    eps : float or schedule
        Keeps the division finite.
    centered : bool
        Divide by an estimate of the gradient's standard deviation.
    momentum : float or schedule
        Momentum factor, in [0, 1).
    eps_inside_sqrt : bool
        Divide by ``sqrt(w + eps)``, as Keras and optax do.
    lr_in_velocity : bool
        Accumulate ``lr * d``, as Keras and optax do. Requires momentum.
    {shared}

    References
    ----------
    Tieleman & Hinton 2012, "Neural Networks for Machine Learning", lecture 6.5; centered: Graves 2013.
    """

    _choices: ClassVar = ("centered", "eps_inside_sqrt", "momentum", "lr_in_velocity")
    _rules: ClassVar = {
        (False, False, False, False): "rmsprop",
        (False, False, True, False): "rmsprop_momentum",
        (False, False, True, True): "rmsprop_velocity",
        (False, True, False, False): "rmsprop_inside",
        (False, True, True, False): "rmsprop_inside_momentum",
        (False, True, True, True): "rmsprop_inside_velocity",
        (True, False, False, False): "rmsprop_centered",
        (True, False, True, False): "rmsprop_centered_momentum",
        (True, False, True, True): "rmsprop_centered_velocity",
        (True, True, False, False): "rmsprop_centered_inside",
        (True, True, True, False): "rmsprop_centered_inside_momentum",
        (True, True, True, True): "rmsprop_centered_inside_velocity",
    }

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-2,
        *,
        alpha: Rate = 0.99,
        eps: Rate = 1e-8,
        centered: bool = False,
        momentum: Rate = 0.0,
        eps_inside_sqrt: bool = False,
        lr_in_velocity: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        own = {
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "momentum": momentum,
            "eps_inside_sqrt": eps_inside_sqrt,
            "lr_in_velocity": lr_in_velocity,
        }
        super().__init__(params, lr, own, shared)

    @classmethod
    def _check_together(cls, arguments: Mapping[str, Any]) -> None:
        refuse_without_momentum(arguments, "lr_in_velocity")
