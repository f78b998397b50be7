"""NAdam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate, Schedule


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's look-ahead and a momentum that warms up.

    ::

        mu(k) = beta1 (1 - 0.5 0.96^(k momentum_decay)),   P(t) = mu(1) ... mu(t)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        n = (1 - mu(t)) / (1 - P(t)) g + mu(t+1) / (1 - P(t+1)) m
        p = p - lr n / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    State: ``exp_avg`` (m), ``exp_avg_sq`` (v).

    Parameters
    ----------
    {params}
    betas : pair of float or schedule
        Decay rates of the two running averages, in [0, 1).
    eps : float or schedule
        Keeps the division finite.
    momentum_decay : float or schedule
        How fast the momentum warms up.
    {shared}

    References
    ----------
    Dozat 2016, "Incorporating Nesterov Momentum into Adam".
    """

    _rules: ClassVar = {(): "nadam"}

    def __init__(
        self,
        params: Any,
        lr: Rate = 2e-3,
        *,
        betas: tuple[Rate, Rate] = (0.9, 0.999),
        eps: Rate = 1e-8,
        momentum_decay: Rate = 4e-3,
        **shared: Unpack[Shared],
    ) -> None:
        super().__init__(params, lr, {"betas": betas, "eps": eps, "momentum_decay": momentum_decay}, shared)

    @classmethod
    def _check_together(cls, arguments: Mapping[str, Any]) -> None:
        for name, value in (
            ("betas[0]", arguments["betas"][0]),
            ("momentum_decay", arguments["momentum_decay"]),
        ):
            if isinstance(value, Schedule):
                raise TypeError(
                    f"{name}: expected a number, got {value!r}; the product of the momenta of all steps depends on it"
                )
