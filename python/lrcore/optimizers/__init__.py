"""The optimizers. Each class names its arguments, their defaults and what they mean; the equations are in C++.

Parameters and bound gradients are looked at once. Do not give them other storage later (torch's ``set_`` and
``resize_``, NumPy's ``resize`` without its check): the optimizer would go on with the former memory, which may be gone.
Make a new optimizer then. The rate is asked while the optimizer is locked, so two schedules that step each other's
optimizers from two threads wait for each other for ever.

Wrong arrays raise what `Stepper.step` says; numbers out of range raise ValueError, other types TypeError.
``g``, ``p`` and ``t`` in the equations are the gradient, the parameter and the number of the step, from 1; every
operation is rounded to float32 by itself. `lrcore.functional` has each of these as a function.
"""

from __future__ import annotations

from lrcore._optimizer import Optimizer
from lrcore.optimizers.adadelta import Adadelta
from lrcore.optimizers.adagrad import Adagrad
from lrcore.optimizers.adam import Adam, AdamW
from lrcore.optimizers.adamax import Adamax
from lrcore.optimizers.lion import Lion
from lrcore.optimizers.nadam import NAdam
from lrcore.optimizers.radam import RAdam
from lrcore.optimizers.rmsprop import RMSprop
from lrcore.optimizers.sgd import SGD

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
]
