"""Adagrad."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore._checks import nonnegative_float32
from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Adagrad(Optimizer):
    """Adagrad: each parameter has its own rate, which falls with the sum of its squared gradients.

    ::

        lr_t = lr / (1 + (t - 1) lr_decay)
        s = s + g^2
        p = p - lr_t g / (sqrt(s) + eps)

    State: ``sum`` (s).

    Parameters
    ----------
    {params}
    eps : float or schedule
        Keeps the division finite.
    initial_accumulator_value : float
        Initial value of ``sum``.
    lr_decay : float or schedule
        Lowers the rate as the step number grows.
    eps_inside_sqrt : bool
        Divide by ``sqrt(s + eps)``, as Keras and optax do.
    {shared}

    References
    ----------
    Duchi, Hazan & Singer 2011, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization".
    """

    _choices: ClassVar = ("eps_inside_sqrt",)
    _rules: ClassVar = {(False,): "adagrad", (True,): "adagrad_inside"}

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-2,
        *,
        eps: Rate = 1e-10,
        initial_accumulator_value: float = 0.0,
        lr_decay: Rate = 0.0,
        eps_inside_sqrt: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"eps": eps, "lr_decay": lr_decay, "eps_inside_sqrt": eps_inside_sqrt}
        start = nonnegative_float32("initial_accumulator_value", initial_accumulator_value)
        super().__init__(params, lr, own, shared, initial={"sum": start})
