"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from lrcore.optimizers._arguments import refuse_without_momentum
from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class SGD(Optimizer):
    """Stochastic gradient descent, plain or with momentum.

    ::

        plain                        p = p - lr g
        momentum                     b = momentum b + (1 - dampening) g,   p = p - lr b
        nesterov                     b = momentum b + g,                   p = p - lr (g + momentum b)
        lr_in_velocity               b = momentum b + lr g,                p = p - b
        nesterov, lr_in_velocity     b = momentum b + lr g,                p = p - (momentum b + lr g)

    Dampening does not apply to the first gradient. The velocity forms are equivalent to the others at a constant rate
    and differ from them when the rate changes. State: ``momentum_buffer`` (b) with momentum, otherwise none.

    Parameters
    ----------
    {params}
    momentum, dampening : float
        Momentum and dampening factors, in [0, 1). Dampening requires momentum, and cannot be combined with nesterov or
        lr_in_velocity.
    nesterov : bool
        Look ahead along the velocity. Requires momentum.
    lr_in_velocity : bool
        Accumulate ``lr * g``, as Keras and most textbooks do. Requires momentum.
    {shared}

    References
    ----------
    Robbins & Monro 1951; Polyak 1964; Nesterov 1983, in the form of Sutskever et al. 2013.
    """

    _choices: ClassVar = ("momentum", "nesterov", "lr_in_velocity")
    _rules: ClassVar = {
        (False, False, False): "sgd",
        (True, False, False): "sgd_momentum",
        (True, True, False): "sgd_nesterov",
        (True, False, True): "sgd_velocity",
        (True, True, True): "sgd_nesterov_velocity",
    }

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-3,
        *,
        momentum: Rate = 0.0,
        dampening: Rate = 0.0,
        nesterov: bool = False,
        lr_in_velocity: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        own = {
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "lr_in_velocity": lr_in_velocity,
        }
        super().__init__(params, lr, own, shared)

    @classmethod
    def _check_together(cls, arguments: Mapping[str, Any]) -> None:
        refuse_without_momentum(arguments, "nesterov", "dampening", "lr_in_velocity")
        if arguments["dampening"] and arguments["nesterov"]:
            raise ValueError("nesterov: its look-ahead assumes an undamped velocity; set dampening=0")
        if arguments["dampening"] and arguments["lr_in_velocity"]:
            raise ValueError("lr_in_velocity: this form weights the gradient by lr alone; set dampening=0")
