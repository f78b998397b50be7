"""Adadelta."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Adadelta(Optimizer):
    """Adadelta: steps in the parameters' own unit, from the ratio of two running roots.

    ::

        v = rho v + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(v + eps) g
        u = rho u + (1 - rho) d^2
        p = p - lr d

    Some tutorials print the step without its factor g; that form ignores the gradient's sign and is no descent. State:
    ``square_avg`` (v), ``acc_delta`` (u).

    Parameters
    ----------
    {params}
    rho : float
        The averages' memory, in [0, 1).
    eps : float
        Starts the steps off and keeps the division finite.
    {shared}

    References
    ----------
    Zeiler 2012, "ADADELTA: An Adaptive Learning Rate Method".
    """

    _rules: ClassVar = {(): "adadelta"}

    def __init__(
        self, params: Any, lr: Rate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, **shared: Unpack[Shared]
    ) -> None:
        super().__init__(params, lr, {"rho": rho, "eps": eps}, shared)
