"""What PyTorch, optax and Keras call the same step: one table of calls.

A row says that a class here follows a peer's class or function: called so, the parameters agree element by
element, within the row's tolerance, after each of the steps that `peers` checks, under a learning rate that changes
at every step.

A float32 sign is the float64 one: in every row of Lion, each element of the mix whose sign is taken is 0 or at
least 2e-4 of the sum of its two terms' sizes.

Any weight decay of Keras is decoupled, and its momentum has the rate in the velocity.

No row, since no call here gives it: optax ``amsgrad`` (the maximum of the corrected second moment, or no
correction of it at all), ``radam`` (epsilon is added to the corrected root), ``eps_root``, and ``rmsprop`` with
``nesterov`` or ``initial_scale``; Keras ``Adamax`` (epsilon is added to the maximum, not to the gradient before it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CANCELLING", "ROUNDING", "ROWS", "Call", "Row", "Tolerance", "call"]


@dataclass(frozen=True)
class Call:
    """A class or function by name, and its arguments other than parameters and learning rate."""

    name: str
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the call as it is written."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.kwargs.items())})"


def call(name: str, /, **kwargs: Any) -> Call:
    """Return the `Call` that is written ``name(**kwargs)``."""
    return Call(name, kwargs)


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed ``|difference| / (1 + |p|)`` of one element, and why it is this number."""

    limit: float
    reason: str


ROUNDING = Tolerance(
    1e-6,
    "float32 against a float64 peer: each of 60 steps rounds p (twice where decay is decoupled), the states and "
    "the step's constants, by up to 2^-24 = 6e-8 of their size; the largest found, in NumPy float32, is 6.8e-7",
)
CANCELLING = Tolerance(
    5e-6,
    "as for ROUNDING, and where gradients are small, L2 makes them nearly constant: v - a * a then keeps only the "
    "last digits of v, and with them its roundings; found, in NumPy float32: 2.1e-6",
)


@dataclass(frozen=True)
class Row:
    """A peer's call beside ours: the same step."""

    name: str
    """Name in test reports and in the stored results."""
    peer: str
    """Package: ``torch`` (the call names a class of ``torch.optim``), ``optax`` (a function) or ``keras`` (a class)."""
    lr: float
    """Scale of the learning rates, see `peers.rate`."""
    theirs: Call
    ours: Call
    tolerance: Tolerance


def _torch(name: str, lr: float, both: Call, tolerance: Tolerance = ROUNDING) -> Row:
    """Return a row of PyTorch, where names, arguments and defaults are the same as here."""
    return Row(f"torch-{name}", "torch", lr, both, both, tolerance)


def _optax(name: str, lr: float, theirs: Call, ours: Call, tolerance: Tolerance = ROUNDING) -> Row:
    """Return a row of optax, which has names and defaults of its own."""
    return Row(f"optax-{name}", "optax", lr, theirs, ours, tolerance)


def _keras(name: str, lr: float, theirs: Call, ours: Call, tolerance: Tolerance = ROUNDING) -> Row:
    """Return a row of Keras, which has names and defaults of its own."""
    return Row(f"keras-{name}", "keras", lr, theirs, ours, tolerance)


_B = (0.8, 0.95)  # forgets within the run, so that the maximum of AMSGrad differs from the last second moment

ROWS: tuple[Row, ...] = (
    _torch("sgd", 0.5, call("SGD")),
    _torch("sgd-l2", 0.5, call("SGD", weight_decay=0.1)),
    _torch("sgd-maximize", 0.5, call("SGD", weight_decay=0.1, maximize=True)),
    _torch("sgd-momentum", 0.2, call("SGD", momentum=0.9)),
    _torch("sgd-momentum-l2", 0.2, call("SGD", momentum=0.9, weight_decay=0.1)),
    _torch("sgd-momentum-maximize", 0.2, call("SGD", momentum=0.9, weight_decay=0.1, maximize=True)),
    _torch("sgd-dampening", 0.5, call("SGD", momentum=0.9, dampening=0.4)),
    _torch("sgd-dampening-l2", 0.2, call("SGD", momentum=0.9, dampening=0.4, weight_decay=0.1)),
    _torch("sgd-nesterov", 0.2, call("SGD", momentum=0.9, nesterov=True)),
    _torch("sgd-nesterov-l2", 0.2, call("SGD", momentum=0.9, nesterov=True, weight_decay=0.1)),
    _torch("adagrad", 0.2, call("Adagrad")),
    _torch("adagrad-l2", 0.2, call("Adagrad", eps=1e-3, weight_decay=0.1)),
    _torch("adagrad-maximize", 0.2, call("Adagrad", weight_decay=0.1, maximize=True)),
    _torch("adagrad-initial", 0.2, call("Adagrad", eps=1e-3, initial_accumulator_value=0.1)),
    _torch("adagrad-lr-decay", 0.2, call("Adagrad", lr_decay=0.1)),
    _torch("adagrad-lr-decay-l2", 0.2, call("Adagrad", lr_decay=0.1, weight_decay=0.1)),
    _torch("rmsprop", 0.02, call("RMSprop")),
    _torch("rmsprop-l2", 0.02, call("RMSprop", alpha=0.9, eps=1e-3, weight_decay=0.1)),
    _torch("rmsprop-maximize", 0.02, call("RMSprop", weight_decay=0.1, maximize=True)),
    _torch("rmsprop-momentum", 0.01, call("RMSprop", momentum=0.8)),
    _torch("rmsprop-momentum-l2", 0.01, call("RMSprop", momentum=0.8, weight_decay=0.1)),
    _torch("rmsprop-centered", 0.02, call("RMSprop", centered=True)),
    _torch(
        "rmsprop-centered-l2",
        0.02,
        call("RMSprop", alpha=0.9, eps=1e-3, centered=True, weight_decay=0.1),
        CANCELLING,
    ),
    _torch("rmsprop-centered-momentum", 0.01, call("RMSprop", alpha=0.9, centered=True, momentum=0.8)),
    _torch("adadelta", 10.0, call("Adadelta")),
    _torch("adadelta-l2", 10.0, call("Adadelta", rho=0.8, eps=1e-4, weight_decay=0.1)),
    _torch("adadelta-maximize", 10.0, call("Adadelta", weight_decay=0.1, maximize=True)),
    _torch("adam", 0.05, call("Adam")),
    _torch("adam-betas-eps", 0.05, call("Adam", betas=_B, eps=1e-3)),
    _torch("adam-l2", 0.05, call("Adam", weight_decay=0.1)),
    _torch("adam-decoupled", 0.05, call("Adam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("adam-maximize", 0.05, call("Adam", weight_decay=0.1, maximize=True)),
    _torch("adam-amsgrad", 0.05, call("Adam", betas=_B, amsgrad=True)),
    _torch("adam-amsgrad-l2", 0.05, call("Adam", betas=_B, amsgrad=True, weight_decay=0.1)),
    _torch("adamw", 0.05, call("AdamW")),
    _torch("adamw-decay", 0.05, call("AdamW", betas=_B, eps=1e-3, weight_decay=0.1)),
    _torch("adamw-no-decay", 0.05, call("AdamW", weight_decay=0)),
    _torch("adamw-maximize", 0.05, call("AdamW", maximize=True)),
    _torch("adamw-amsgrad", 0.05, call("AdamW", betas=_B, amsgrad=True)),
    _torch("nadam", 0.05, call("NAdam")),
    _torch("nadam-momentum-decay", 0.05, call("NAdam", betas=_B, eps=1e-3, momentum_decay=0.1)),
    _torch("nadam-l2", 0.05, call("NAdam", weight_decay=0.1)),
    _torch("nadam-decoupled", 0.05, call("NAdam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("nadam-maximize", 0.05, call("NAdam", weight_decay=0.1, maximize=True)),
    _torch("radam", 0.5, call("RAdam")),
    _torch("radam-betas-eps", 0.5, call("RAdam", betas=_B, eps=1e-3)),
    _torch("radam-unrectified", 0.5, call("RAdam", betas=(0.8, 0.5))),
    _torch("radam-l2", 0.5, call("RAdam", weight_decay=0.1)),
    _torch("radam-decoupled", 0.5, call("RAdam", weight_decay=0.1, decoupled_weight_decay=True)),
    _torch("radam-maximize", 0.5, call("RAdam", weight_decay=0.1, maximize=True)),
    _torch("adamax", 0.05, call("Adamax")),
    _torch("adamax-l2", 0.05, call("Adamax", betas=_B, eps=1e-3, weight_decay=0.1)),
    _torch("adamax-maximize", 0.05, call("Adamax", weight_decay=0.1, maximize=True)),
    _optax("sgd", 0.5, call("sgd"), call("SGD")),
    _optax("sgd-momentum", 0.2, call("sgd", momentum=0.9), call("SGD", momentum=0.9)),
    _optax(
        "sgd-nesterov",
        0.2,
        call("sgd", momentum=0.9, nesterov=True),
        call("SGD", momentum=0.9, nesterov=True),
    ),
    _optax(
        "adagrad",
        0.2,
        call("adagrad"),
        call("Adagrad", eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True),
    ),
    _optax(
        "adagrad-initial-eps",
        0.2,
        call("adagrad", initial_accumulator_value=0.0, eps=1e-3),
        call("Adagrad", eps=1e-3, eps_inside_sqrt=True),
    ),
    _optax("rmsprop", 0.02, call("rmsprop"), call("RMSprop", alpha=0.9, eps_inside_sqrt=True)),
    _optax(
        "rmsprop-eps-outside",
        0.02,
        call("rmsprop", decay=0.8, eps=1e-3, eps_in_sqrt=False),
        call("RMSprop", alpha=0.8, eps=1e-3),
    ),
    _optax(
        "rmsprop-momentum",
        0.01,
        call("rmsprop", momentum=0.8),
        call("RMSprop", alpha=0.9, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-momentum-eps-outside",
        0.01,
        call("rmsprop", eps_in_sqrt=False, momentum=0.8),
        call("RMSprop", alpha=0.9, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-centered",
        0.02,
        call("rmsprop", centered=True),
        call("RMSprop", alpha=0.9, centered=True, eps_inside_sqrt=True),
    ),
    _optax(
        "rmsprop-centered-eps-outside",
        0.02,
        call("rmsprop", centered=True, eps_in_sqrt=False),
        call("RMSprop", alpha=0.9, centered=True),
    ),
    _optax(
        "rmsprop-centered-momentum",
        0.01,
        call("rmsprop", centered=True, momentum=0.8),
        call("RMSprop", alpha=0.9, centered=True, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-centered-momentum-eps-outside",
        0.01,
        call("rmsprop", centered=True, eps_in_sqrt=False, momentum=0.8),
        call("RMSprop", alpha=0.9, centered=True, momentum=0.8, lr_in_velocity=True),
    ),
    _optax(
        "rmsprop-bias-correction",
        0.05,
        call("rmsprop", eps_in_sqrt=False, bias_correction=True),
        call("Adam", betas=(0.0, 0.9)),
    ),
    _optax("adadelta", 10.0, call("adadelta"), call("Adadelta")),
    _optax(
        "adadelta-l2",
        10.0,
        call("adadelta", rho=0.8, eps=1e-4, weight_decay=0.1),
        call("Adadelta", rho=0.8, eps=1e-4, weight_decay=0.1),
    ),
    _optax("adam", 0.05, call("adam"), call("Adam")),
    _optax("adam-betas-eps", 0.05, call("adam", b1=0.8, b2=0.95, eps=1e-3), call("Adam", betas=_B, eps=1e-3)),
    _optax("adam-nesterov", 0.05, call("adam", nesterov=True), call("NAdam", momentum_decay=1e3)),
    _optax("adamw", 0.05, call("adamw"), call("AdamW", weight_decay=1e-4)),
    _optax(
        "adamw-decay",
        0.05,
        call("adamw", b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1),
        call("AdamW", betas=_B, eps=1e-3, weight_decay=0.1),
    ),
    _optax("nadam", 0.05, call("nadam"), call("NAdam", momentum_decay=1e3)),
    _optax(
        "nadam-betas-eps",
        0.05,
        call("nadam", b1=0.8, b2=0.95, eps=1e-3),
        call("NAdam", betas=_B, eps=1e-3, momentum_decay=1e3),
    ),
    _optax(
        "nadamw",
        0.05,
        call("nadamw"),
        call("NAdam", momentum_decay=1e3, weight_decay=1e-4, decoupled_weight_decay=True),
    ),
    _optax("adamax", 0.05, call("adamax"), call("Adamax")),
    _optax(
        "adamax-betas-eps",
        0.05,
        call("adamax", b1=0.8, b2=0.95, eps=1e-3),
        call("Adamax", betas=_B, eps=1e-3),
    ),
    _optax(
        "adamaxw",
        0.05,
        call("adamaxw"),
        call("Adamax", weight_decay=1e-4, decoupled_weight_decay=True),
    ),
    _optax("lion", 0.02, call("lion"), call("Lion", weight_decay=1e-3)),
    _optax(
        "lion-betas-decay",
        0.02,
        call("lion", b1=0.8, b2=0.95, weight_decay=0.1),
        call("Lion", betas=_B, weight_decay=0.1),
    ),
    _optax("sign-sgd", 0.02, call("sign_sgd"), call("Lion", betas=(0.0, 0.9))),
    _optax("signum", 0.02, call("signum"), call("Lion", betas=(0.9, 0.9))),
    _optax("signum-beta", 0.02, call("signum", beta=0.5), call("Lion", betas=(0.5, 0.5))),
    _keras("sgd", 0.5, call("SGD"), call("SGD")),
    _keras(
        "sgd-decay",
        0.5,
        call("SGD", weight_decay=0.1),
        call("SGD", weight_decay=0.1, decoupled_weight_decay=True),
    ),
    _keras("sgd-momentum", 0.2, call("SGD", momentum=0.9), call("SGD", momentum=0.9, lr_in_velocity=True)),
    _keras(
        "sgd-momentum-decay",
        0.2,
        call("SGD", momentum=0.9, weight_decay=0.1),
        call("SGD", momentum=0.9, lr_in_velocity=True, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    _keras(
        "sgd-nesterov",
        0.2,
        call("SGD", momentum=0.9, nesterov=True),
        call("SGD", momentum=0.9, nesterov=True, lr_in_velocity=True),
    ),
    _keras(
        "sgd-nesterov-decay",
        0.2,
        call("SGD", momentum=0.9, nesterov=True, weight_decay=0.1),
        call(
            "SGD",
            momentum=0.9,
            nesterov=True,
            lr_in_velocity=True,
            weight_decay=0.1,
            decoupled_weight_decay=True,
        ),
    ),
    _keras(
        "adagrad",
        0.2,
        call("Adagrad"),
        call("Adagrad", eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True),
    ),
    _keras(
        "adagrad-initial-eps",
        0.2,
        call("Adagrad", initial_accumulator_value=0.0, epsilon=1e-3),
        call("Adagrad", eps=1e-3, eps_inside_sqrt=True),
    ),
    _keras(
        "adagrad-decay",
        0.2,
        call("Adagrad", weight_decay=0.1),
        call(
            "Adagrad",
            eps=1e-7,
            initial_accumulator_value=0.1,
            eps_inside_sqrt=True,
            weight_decay=0.1,
            decoupled_weight_decay=True,
        ),
    ),
    _keras("rmsprop", 0.02, call("RMSprop"), call("RMSprop", alpha=0.9, eps=1e-7, eps_inside_sqrt=True)),
    _keras(
        "rmsprop-rho-eps",
        0.02,
        call("RMSprop", rho=0.8, epsilon=1e-3),
        call("RMSprop", alpha=0.8, eps=1e-3, eps_inside_sqrt=True),
    ),
    _keras(
        "rmsprop-decay",
        0.02,
        call("RMSprop", weight_decay=0.1),
        call(
            "RMSprop",
            alpha=0.9,
            eps=1e-7,
            eps_inside_sqrt=True,
            weight_decay=0.1,
            decoupled_weight_decay=True,
        ),
    ),
    _keras(
        "rmsprop-momentum",
        0.01,
        call("RMSprop", momentum=0.8),
        call("RMSprop", alpha=0.9, eps=1e-7, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True),
    ),
    _keras(
        "rmsprop-momentum-decay",
        0.01,
        call("RMSprop", momentum=0.8, weight_decay=0.1),
        call(
            "RMSprop",
            alpha=0.9,
            eps=1e-7,
            eps_inside_sqrt=True,
            momentum=0.8,
            lr_in_velocity=True,
            weight_decay=0.1,
            decoupled_weight_decay=True,
        ),
    ),
    _keras(
        "rmsprop-centered",
        0.02,
        call("RMSprop", centered=True),
        call("RMSprop", alpha=0.9, eps=1e-7, eps_inside_sqrt=True, centered=True),
    ),
    _keras(
        "rmsprop-centered-momentum",
        0.01,
        call("RMSprop", centered=True, momentum=0.8),
        call(
            "RMSprop",
            alpha=0.9,
            eps=1e-7,
            eps_inside_sqrt=True,
            centered=True,
            momentum=0.8,
            lr_in_velocity=True,
        ),
    ),
    _keras("adadelta", 10.0, call("Adadelta"), call("Adadelta", rho=0.95, eps=1e-7)),
    _keras(
        "adadelta-decay",
        10.0,
        call("Adadelta", rho=0.8, epsilon=1e-4, weight_decay=0.01),
        call("Adadelta", rho=0.8, eps=1e-4, weight_decay=0.01, decoupled_weight_decay=True),
    ),
    _keras("adam", 0.05, call("Adam"), call("Adam", eps=1e-7, eps_placement="hat")),
    _keras(
        "adam-betas-eps",
        0.05,
        call("Adam", beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        call("Adam", betas=_B, eps=1e-3, eps_placement="hat"),
    ),
    _keras(
        "adam-decay",
        0.05,
        call("Adam", weight_decay=0.1),
        call("Adam", eps=1e-7, eps_placement="hat", weight_decay=0.1, decoupled_weight_decay=True),
    ),
    _keras(
        "adam-amsgrad",
        0.05,
        call("Adam", beta_1=0.8, beta_2=0.95, amsgrad=True),
        call("Adam", betas=_B, eps=1e-7, eps_placement="hat", amsgrad=True),
    ),
    _keras("adamw", 0.05, call("AdamW"), call("AdamW", eps=1e-7, eps_placement="hat", weight_decay=0.004)),
    _keras(
        "adamw-decay",
        0.05,
        call("AdamW", beta_1=0.8, beta_2=0.95, epsilon=1e-3, weight_decay=0.1),
        call("AdamW", betas=_B, eps=1e-3, eps_placement="hat", weight_decay=0.1),
    ),
    _keras(
        "adamw-amsgrad",
        0.05,
        call("AdamW", beta_1=0.8, beta_2=0.95, epsilon=1e-3, amsgrad=True),
        call("AdamW", betas=_B, eps=1e-3, eps_placement="hat", weight_decay=0.004, amsgrad=True),
    ),
    _keras("nadam", 0.05, call("Nadam"), call("NAdam", eps=1e-7, momentum_decay=1)),
    _keras(
        "nadam-betas-eps",
        0.05,
        call("Nadam", beta_1=0.8, beta_2=0.95, epsilon=1e-3),
        call("NAdam", betas=_B, eps=1e-3, momentum_decay=1),
    ),
    _keras(
        "nadam-decay",
        0.05,
        call("Nadam", weight_decay=0.1),
        call("NAdam", eps=1e-7, momentum_decay=1, weight_decay=0.1, decoupled_weight_decay=True),
    ),
    _keras("lion", 0.02, call("Lion"), call("Lion")),
    _keras(
        "lion-betas-decay",
        0.02,
        call("Lion", beta_1=0.8, beta_2=0.95, weight_decay=0.1),
        call("Lion", betas=_B, weight_decay=0.1),
    ),
)
"""Every call of a peer that has a form here, and that form."""
