"""A table of the calls to PyTorch, optax and Keras that take the same steps as calls to lrcore.

A row states that a class of lrcore follows a class or function of a peer: with these calls, the parameters
agree element by element, within the row's tolerance, after each of the steps that `peers` checks, under a
learning rate that changes at every step.

Lion takes the sign of an interpolation. In every row of Lion, the float32 and float64 signs are equal: each
element of the interpolation is 0, or its magnitude is at least 2e-4 times the sum of the magnitudes of its
two terms.

In Keras, weight decay is always decoupled, and the velocity of momentum includes the learning rate.

Some calls have no row because no call to lrcore takes the same steps: optax ``amsgrad`` (it takes the maximum
of the corrected second moment, or does not correct it at all), ``radam`` (it adds epsilon to the corrected
root), ``eps_root``, and ``rmsprop`` with ``nesterov`` or ``initial_scale``; Keras ``Adamax`` (it adds epsilon
to the maximum, not to the gradient before the maximum is taken).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["CANCELLING", "ROUNDING", "ROWS", "Call", "Row", "Tolerance"]


@dataclass(frozen=True)
class Call:
    """A class or function by name, and its arguments other than parameters and learning rate."""

    name: str
    kwargs: Mapping[str, Any]

    def __str__(self) -> str:
        """Return the call as source code."""
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.kwargs.items())})"


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed ``|difference| / (1 + |p|)`` of one element, and the reason for this number."""

    limit: float
    reason: str


ROUNDING = Tolerance(
    1e-6,
    "float32 against a float64 peer: each of 60 steps rounds p (twice if decay is decoupled), the states and "
    "the step's constants, by up to 2^-24 = 6e-8 of their size; the largest difference found, in "
    "NumPy float32, is 6.8e-7",
)
CANCELLING = Tolerance(
    5e-6,
    "as for ROUNDING; in addition, L2 makes small gradients nearly constant: v - a * a then keeps only the last "
    "digits of v, which contain its rounding errors; the largest difference found, in NumPy float32, is "
    "2.1e-6",
)


@dataclass(frozen=True)
class Row:
    """A peer's call and lrcore's call for the same steps."""

    name: str
    """Name in test reports and in the stored results."""
    peer: str
    """Package: ``torch`` (the call names a class of ``torch.optim``), ``optax`` (a function) or ``keras`` (a class)."""
    lr: float
    """Scale of the learning rates; see `peers.rate`."""
    theirs: Call
    ours: Call

    @property
    def tolerance(self) -> Tolerance:
        """The largest allowed difference."""
        return CANCELLING if self.name == "torch-rmsprop-centered-l2" else ROUNDING


PEERS = {
    "torch": """
sgd 0.5: SGD()
sgd-l2 0.5: SGD(weight_decay=0.1)
sgd-maximize 0.5: SGD(weight_decay=0.1, maximize=True)
sgd-momentum 0.2: SGD(momentum=0.9)
sgd-momentum-l2 0.2: SGD(momentum=0.9, weight_decay=0.1)
sgd-momentum-maximize 0.2: SGD(momentum=0.9, weight_decay=0.1, maximize=True)
sgd-dampening 0.5: SGD(momentum=0.9, dampening=0.4)
sgd-dampening-l2 0.2: SGD(momentum=0.9, dampening=0.4, weight_decay=0.1)
sgd-nesterov 0.2: SGD(momentum=0.9, nesterov=True)
sgd-nesterov-l2 0.2: SGD(momentum=0.9, nesterov=True, weight_decay=0.1)
adagrad 0.2: Adagrad()
adagrad-l2 0.2: Adagrad(eps=1e-3, weight_decay=0.1)
adagrad-maximize 0.2: Adagrad(weight_decay=0.1, maximize=True)
adagrad-initial 0.2: Adagrad(eps=1e-3, initial_accumulator_value=0.1)
adagrad-lr-decay 0.2: Adagrad(lr_decay=0.1)
adagrad-lr-decay-l2 0.2: Adagrad(lr_decay=0.1, weight_decay=0.1)
rmsprop 0.02: RMSprop()
rmsprop-l2 0.02: RMSprop(alpha=0.9, eps=1e-3, weight_decay=0.1)
rmsprop-maximize 0.02: RMSprop(weight_decay=0.1, maximize=True)
rmsprop-momentum 0.01: RMSprop(momentum=0.8)
rmsprop-momentum-l2 0.01: RMSprop(momentum=0.8, weight_decay=0.1)
rmsprop-centered 0.02: RMSprop(centered=True)
rmsprop-centered-l2 0.02: RMSprop(alpha=0.9, eps=1e-3, centered=True, weight_decay=0.1)
rmsprop-centered-momentum 0.01: RMSprop(alpha=0.9, centered=True, momentum=0.8)
adadelta 10: Adadelta()
adadelta-l2 10: Adadelta(rho=0.8, eps=1e-4, weight_decay=0.1)
adadelta-maximize 10: Adadelta(weight_decay=0.1, maximize=True)
adam 0.05: Adam()
adam-betas-eps 0.05: Adam(betas=(0.8, 0.95), eps=1e-3)
adam-l2 0.05: Adam(weight_decay=0.1)
adam-decoupled 0.05: Adam(weight_decay=0.1, decoupled_weight_decay=True)
adam-maximize 0.05: Adam(weight_decay=0.1, maximize=True)
adam-amsgrad 0.05: Adam(betas=(0.8, 0.95), amsgrad=True)
adam-amsgrad-l2 0.05: Adam(betas=(0.8, 0.95), amsgrad=True, weight_decay=0.1)
adamw 0.05: AdamW()
adamw-decay 0.05: AdamW(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
adamw-no-decay 0.05: AdamW(weight_decay=0)
adamw-maximize 0.05: AdamW(maximize=True)
adamw-amsgrad 0.05: AdamW(betas=(0.8, 0.95), amsgrad=True)
nadam 0.05: NAdam()
nadam-momentum-decay 0.05: NAdam(betas=(0.8, 0.95), eps=1e-3, momentum_decay=0.1)
nadam-l2 0.05: NAdam(weight_decay=0.1)
nadam-decoupled 0.05: NAdam(weight_decay=0.1, decoupled_weight_decay=True)
nadam-maximize 0.05: NAdam(weight_decay=0.1, maximize=True)
radam 0.5: RAdam()
radam-betas-eps 0.5: RAdam(betas=(0.8, 0.95), eps=1e-3)
radam-unrectified 0.5: RAdam(betas=(0.8, 0.5))
radam-l2 0.5: RAdam(weight_decay=0.1)
radam-decoupled 0.5: RAdam(weight_decay=0.1, decoupled_weight_decay=True)
radam-maximize 0.5: RAdam(weight_decay=0.1, maximize=True)
adamax 0.05: Adamax()
adamax-l2 0.05: Adamax(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
adamax-maximize 0.05: Adamax(weight_decay=0.1, maximize=True)
""",
    "optax": """
sgd 0.5: sgd() is SGD()
sgd-momentum 0.2: sgd(momentum=0.9) is SGD(momentum=0.9)
sgd-nesterov 0.2: sgd(momentum=0.9, nesterov=True) is SGD(momentum=0.9, nesterov=True)
adagrad 0.2: adagrad() is Adagrad(eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True)
adagrad-initial-eps 0.2: adagrad(initial_accumulator_value=0.0, eps=1e-3)
    is Adagrad(eps=1e-3, eps_inside_sqrt=True)
rmsprop 0.02: rmsprop() is RMSprop(alpha=0.9, eps_inside_sqrt=True)
rmsprop-eps-outside 0.02: rmsprop(decay=0.8, eps=1e-3, eps_in_sqrt=False) is RMSprop(alpha=0.8, eps=1e-3)
rmsprop-momentum 0.01: rmsprop(momentum=0.8)
    is RMSprop(alpha=0.9, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True)
rmsprop-momentum-eps-outside 0.01: rmsprop(eps_in_sqrt=False, momentum=0.8)
    is RMSprop(alpha=0.9, momentum=0.8, lr_in_velocity=True)
rmsprop-centered 0.02: rmsprop(centered=True) is RMSprop(alpha=0.9, centered=True, eps_inside_sqrt=True)
rmsprop-centered-eps-outside 0.02: rmsprop(centered=True, eps_in_sqrt=False)
    is RMSprop(alpha=0.9, centered=True)
rmsprop-centered-momentum 0.01: rmsprop(centered=True, momentum=0.8)
    is RMSprop(alpha=0.9, centered=True, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True)
rmsprop-centered-momentum-eps-outside 0.01: rmsprop(centered=True, eps_in_sqrt=False, momentum=0.8)
    is RMSprop(alpha=0.9, centered=True, momentum=0.8, lr_in_velocity=True)
rmsprop-bias-correction 0.05: rmsprop(eps_in_sqrt=False, bias_correction=True) is Adam(betas=(0.0, 0.9))
adadelta 10: adadelta() is Adadelta()
adadelta-l2 10: adadelta(rho=0.8, eps=1e-4, weight_decay=0.1) is Adadelta(rho=0.8, eps=1e-4, weight_decay=0.1)
adam 0.05: adam() is Adam()
adam-betas-eps 0.05: adam(b1=0.8, b2=0.95, eps=1e-3) is Adam(betas=(0.8, 0.95), eps=1e-3)
adam-nesterov 0.05: adam(nesterov=True) is NAdam(momentum_decay=1e3)
adamw 0.05: adamw() is AdamW(weight_decay=1e-4)
adamw-decay 0.05: adamw(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1)
    is AdamW(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
nadam 0.05: nadam() is NAdam(momentum_decay=1e3)
nadam-betas-eps 0.05: nadam(b1=0.8, b2=0.95, eps=1e-3)
    is NAdam(betas=(0.8, 0.95), eps=1e-3, momentum_decay=1e3)
nadamw 0.05: nadamw() is NAdam(momentum_decay=1e3, weight_decay=1e-4, decoupled_weight_decay=True)
adamax 0.05: adamax() is Adamax()
adamax-betas-eps 0.05: adamax(b1=0.8, b2=0.95, eps=1e-3) is Adamax(betas=(0.8, 0.95), eps=1e-3)
adamaxw 0.05: adamaxw() is Adamax(weight_decay=1e-4, decoupled_weight_decay=True)
lion 0.02: lion() is Lion(weight_decay=1e-3)
lion-betas-decay 0.02: lion(b1=0.8, b2=0.95, weight_decay=0.1) is Lion(betas=(0.8, 0.95), weight_decay=0.1)
sign-sgd 0.02: sign_sgd() is Lion(betas=(0.0, 0.9))
signum 0.02: signum() is Lion(betas=(0.9, 0.9))
signum-beta 0.02: signum(beta=0.5) is Lion(betas=(0.5, 0.5))
""",
    "keras": """
sgd 0.5: SGD() is SGD()
sgd-decay 0.5: SGD(weight_decay=0.1) is SGD(weight_decay=0.1, decoupled_weight_decay=True)
sgd-momentum 0.2: SGD(momentum=0.9) is SGD(momentum=0.9, lr_in_velocity=True)
sgd-momentum-decay 0.2: SGD(momentum=0.9, weight_decay=0.1)
    is SGD(momentum=0.9, lr_in_velocity=True, weight_decay=0.1, decoupled_weight_decay=True)
sgd-nesterov 0.2: SGD(momentum=0.9, nesterov=True) is SGD(momentum=0.9, nesterov=True, lr_in_velocity=True)
sgd-nesterov-decay 0.2: SGD(momentum=0.9, nesterov=True, weight_decay=0.1)
    is SGD(momentum=0.9, nesterov=True, lr_in_velocity=True, weight_decay=0.1, decoupled_weight_decay=True)
adagrad 0.2: Adagrad() is Adagrad(eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True)
adagrad-initial-eps 0.2: Adagrad(initial_accumulator_value=0.0, epsilon=1e-3)
    is Adagrad(eps=1e-3, eps_inside_sqrt=True)
adagrad-decay 0.2: Adagrad(weight_decay=0.1)
    is Adagrad(eps=1e-7, initial_accumulator_value=0.1, eps_inside_sqrt=True,
        weight_decay=0.1, decoupled_weight_decay=True)
rmsprop 0.02: RMSprop() is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True)
rmsprop-rho-eps 0.02: RMSprop(rho=0.8, epsilon=1e-3) is RMSprop(alpha=0.8, eps=1e-3, eps_inside_sqrt=True)
rmsprop-decay 0.02: RMSprop(weight_decay=0.1)
    is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True, weight_decay=0.1, decoupled_weight_decay=True)
rmsprop-momentum 0.01: RMSprop(momentum=0.8)
    is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True)
rmsprop-momentum-decay 0.01: RMSprop(momentum=0.8, weight_decay=0.1)
    is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True, momentum=0.8, lr_in_velocity=True,
        weight_decay=0.1, decoupled_weight_decay=True)
rmsprop-centered 0.02: RMSprop(centered=True)
    is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True, centered=True)
rmsprop-centered-momentum 0.01: RMSprop(centered=True, momentum=0.8)
    is RMSprop(alpha=0.9, eps=1e-7, eps_inside_sqrt=True, centered=True, momentum=0.8, lr_in_velocity=True)
adadelta 10: Adadelta() is Adadelta(rho=0.95, eps=1e-7)
adadelta-decay 10: Adadelta(rho=0.8, epsilon=1e-4, weight_decay=0.01)
    is Adadelta(rho=0.8, eps=1e-4, weight_decay=0.01, decoupled_weight_decay=True)
adam 0.05: Adam() is Adam(eps=1e-7, eps_placement="hat")
adam-betas-eps 0.05: Adam(beta_1=0.8, beta_2=0.95, epsilon=1e-3)
    is Adam(betas=(0.8, 0.95), eps=1e-3, eps_placement="hat")
adam-decay 0.05: Adam(weight_decay=0.1)
    is Adam(eps=1e-7, eps_placement="hat", weight_decay=0.1, decoupled_weight_decay=True)
adam-amsgrad 0.05: Adam(beta_1=0.8, beta_2=0.95, amsgrad=True)
    is Adam(betas=(0.8, 0.95), eps=1e-7, eps_placement="hat", amsgrad=True)
adamw 0.05: AdamW() is AdamW(eps=1e-7, eps_placement="hat", weight_decay=0.004)
adamw-decay 0.05: AdamW(beta_1=0.8, beta_2=0.95, epsilon=1e-3, weight_decay=0.1)
    is AdamW(betas=(0.8, 0.95), eps=1e-3, eps_placement="hat", weight_decay=0.1)
adamw-amsgrad 0.05: AdamW(beta_1=0.8, beta_2=0.95, epsilon=1e-3, amsgrad=True)
    is AdamW(betas=(0.8, 0.95), eps=1e-3, eps_placement="hat", weight_decay=0.004, amsgrad=True)
nadam 0.05: Nadam() is NAdam(eps=1e-7, momentum_decay=1)
nadam-betas-eps 0.05: Nadam(beta_1=0.8, beta_2=0.95, epsilon=1e-3)
    is NAdam(betas=(0.8, 0.95), eps=1e-3, momentum_decay=1)
nadam-decay 0.05: Nadam(weight_decay=0.1)
    is NAdam(eps=1e-7, momentum_decay=1, weight_decay=0.1, decoupled_weight_decay=True)
lion 0.02: Lion() is Lion()
lion-betas-decay 0.02: Lion(beta_1=0.8, beta_2=0.95, weight_decay=0.1)
    is Lion(betas=(0.8, 0.95), weight_decay=0.1)
""",
}
"""Name, scale of the rates, the peer's call and lrcore's call.

For PyTorch, lrcore's call is left out, because names, arguments and defaults are the same. With betas of 0.8
and 0.95, the run forgets early gradients, so that AMSGrad's maximum differs from the last second moment.
"""


def _call(written: str) -> Call:
    """Return the call that is written in this source code."""
    expression: Any = ast.parse(written, mode="eval").body
    return Call(expression.func.id, {each.arg: ast.literal_eval(each.value) for each in expression.keywords})


ROWS = tuple(
    Row(f"{peer}-{name}", peer, float(lr), _call(theirs), _call(ours or theirs))
    for peer, rows in PEERS.items()
    for row in re.sub(r"\n +", " ", rows.strip()).split("\n")
    for name, lr, theirs, ours in re.findall(r"^(\S+) (\S+): (.*?)(?: is (.*))?$", row)
)
"""Every call of a peer that has an equivalent in lrcore, and the equivalent."""
