"""Lion."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Lion(Optimizer, decay="decoupled"):
    """Lion: steps of fixed length, in the direction of the sign of an interpolated momentum.

    ::

        c = beta1 m + (1 - beta1) g
        p = p - lr sign(c)
        m = beta2 m + (1 - beta2) g

    Weight decay is decoupled by default. State: ``exp_avg`` (m).

    Parameters
    ----------
    {params}
    betas : pair of float or schedule
        Weights of m in the step and in its own running average, in [0, 1).
    {shared}

    References
    ----------
    Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms".
    """

    _rules: ClassVar = {(): "lion"}

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-4,
        *,
        betas: tuple[Rate, Rate] = (0.9, 0.99),
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, lr, {"betas": betas}, shared)
