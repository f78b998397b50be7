"""Adamax."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm instead of the root mean square.

    ::

        m = beta1 m + (1 - beta1) g
        u = max(beta2 u, |g| + eps)
        p = p - lr / (1 - beta1^t) m / u

    State: ``exp_avg`` (m), ``exp_inf`` (u).

    Parameters
    ----------
    {params}
    betas : pair of float or schedule
        Decay rates of the running average and of the running maximum, in [0, 1).
    eps : float or schedule
        Keeps the division finite.
    {shared}

    References
    ----------
    Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", section 7.
    """

    _rules: ClassVar = {(): "adamax"}

    def __init__(
        self,
        params: Any,
        lr: Rate = 2e-3,
        *,
        betas: tuple[Rate, Rate] = (0.9, 0.999),
        eps: Rate = 1e-8,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, lr, {"betas": betas, "eps": eps}, shared)
