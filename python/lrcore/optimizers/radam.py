"""RAdam."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class RAdam(Optimizer):
    """RAdam: Adam that starts adapting its rates when the variance of the adaptive rate becomes tractable.

    ::

        rho_inf = 2 / (1 - beta2) - 1,   rho = rho_inf - 2 t beta2^t / (1 - beta2^t)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        rho > 5    r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        rho > 5    p = p - lr r sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)
        else       p = p - lr / (1 - beta1^t) m

    State: ``exp_avg`` (m), ``exp_avg_sq`` (v).

    Parameters
    ----------
    {params}
    betas : pair of float or schedule
        Decay rates of the two running averages, in [0, 1).
    eps : float or schedule
        Keeps the division finite.
    {shared}

    References
    ----------
    Liu et al. 2020, "On the Variance of the Adaptive Learning Rate and Beyond".
    """

    _rules: ClassVar = {(): "radam"}

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-3,
        *,
        betas: tuple[Rate, Rate] = (0.9, 0.999),
        eps: Rate = 1e-8,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, lr, {"betas": betas, "eps": eps}, shared)
