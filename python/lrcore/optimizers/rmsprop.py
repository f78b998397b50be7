"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrcore.optimizers._arguments import refuse_without_momentum
from lrcore.optimizers._base import Optimizer
from lrcore.schedules import Rate


class RMSprop(Optimizer):
    """RMSprop: the gradient over the root of a running average of its square.

    ::

        v = alpha v + (1 - alpha) g^2
        not centered      w = v
        centered          a = alpha a + (1 - alpha) g,   w = max(0, v - a^2)
        d = g / (sqrt(w) + eps)
        plain             p = p - lr d
        momentum          b = momentum b + d,      p = p - lr b
        lr_in_velocity    b = momentum b + lr d,   p = p - b

    State: ``square_avg`` (v), ``grad_avg`` (a) when centered, ``momentum_buffer`` (b) with momentum.

    Parameters
    ----------
    alpha : float
        The average's memory, in [0, 1).
    eps : float
        Keeps the division finite.
    centered : bool
        Divide by an estimate of the standard deviation instead.
    momentum : float
        In [0, 1).
    eps_inside_sqrt : bool
        Divide by ``sqrt(w + eps)`` instead, as Keras and optax do.
    lr_in_velocity : bool
        Accumulate ``lr * d``, as Keras and optax do. Needs momentum.
    {shared}

    References
    ----------
    Tieleman & Hinton 2012, "Neural Networks for Machine Learning", lecture 6.5; centered: Graves 2013.
    """

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        centered: bool = False,
        momentum: float = 0.0,
        eps_inside_sqrt: bool = False,
        lr_in_velocity: bool = False,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        grads: Any = None,
        capturable: bool = False,
        max_steps: int | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            grads,
            capturable,
            max_steps,
            alpha=alpha,
            eps=eps,
            centered=centered,
            momentum=momentum,
            eps_inside_sqrt=eps_inside_sqrt,
            lr_in_velocity=lr_in_velocity,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    @classmethod
    def _choose_rule(cls, arguments: Mapping[str, Any]) -> str:
        refuse_without_momentum(arguments, "lr_in_velocity")
        rule = f"rmsprop{'_centered' * arguments['centered']}{'_inside' * arguments['eps_inside_sqrt']}"
        if not arguments["momentum"]:
            return rule
        return rule + ("_velocity" if arguments["lr_in_velocity"] else "_momentum")
