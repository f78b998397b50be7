"""Adadelta."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Adadelta(Optimizer):
    """Adadelta: steps in the units of the parameters, from the ratio of two running root mean squares.

    ::

        v = rho v + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(v + eps) g
        u = rho u + (1 - rho) d^2
        p = p - lr d

    Some tutorials print the step without the factor g; that form ignores the gradient's sign and does not descend.
    State: ``square_avg`` (v), ``acc_delta`` (u).

    Parameters
    ----------
    {params}
    rho : float or schedule
        Decay rate of the running averages, in [0, 1).
    eps : float or schedule
        Makes the first steps nonzero and keeps the division finite.
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
