"""Adam and AdamW."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Unpack

from lrcore.optimizers._base import Optimizer
from lrcore.optimizers._shared import Shared
from lrcore.schedules import Rate


class Adam(Optimizer):
    """Adam: running averages of the gradient and of its square, corrected for their initialization at 0.

    ::

        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    State: ``exp_avg`` (m), ``exp_avg_sq`` (v), and ``max_exp_avg_sq`` with amsgrad.

    Parameters
    ----------
    {params}
    betas : pair of float or schedule
        Decay rates of the two running averages, in [0, 1).
    eps : float or schedule
        Keeps the division finite.
    eps_placement : {"corrected", "hat"}
        "corrected" adds epsilon to the bias-corrected root, as above. "hat" adds it before the correction, as in Keras
        and at the end of the paper's section 2: ``lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)``.
    amsgrad : bool
        Use the largest v so far instead of v.
    {shared}

    References
    ----------
    Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization"; AMSGrad: Reddi et al. 2018.
    """

    _choices: ClassVar = ("eps_placement", "amsgrad")
    _rules: ClassVar = {
        ("corrected", False): "adam",
        ("corrected", True): "adam_amsgrad",
        ("hat", False): "adam_hat",
        ("hat", True): "adam_amsgrad_hat",
    }

    def __init__(
        self,
        params: Any,
        lr: Rate = 1e-3,
        *,
        betas: tuple[Rate, Rate] = (0.9, 0.999),
        eps: Rate = 1e-8,
        eps_placement: Literal["corrected", "hat"] = "corrected",
        amsgrad: bool = False,
        **shared: Unpack[Shared],
    ) -> None:
        own = {"betas": betas, "eps": eps, "eps_placement": eps_placement, "amsgrad": amsgrad}
        super().__init__(params, lr, own, shared)


class AdamW(Adam, weight_decay=1e-2, decay="decoupled"):
    """Adam with weight decay decoupled from the gradient: `Adam` with different defaults.

    ::

        p = p (1 - lr weight_decay)
        m = beta1 m + (1 - beta1) g
        v = beta2 v + (1 - beta2) g^2
        p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    State, as in `Adam`: ``exp_avg`` (m), ``exp_avg_sq`` (v), and ``max_exp_avg_sq`` with amsgrad.

    Parameters
    ----------
    {params}
    betas, eps, eps_placement, amsgrad
        As in `Adam`.
    {shared}

    References
    ----------
    Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
    """
