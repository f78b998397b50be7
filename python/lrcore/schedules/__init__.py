"""Learning-rate schedules: pure functions of the number of steps already taken.

``schedule(t)`` returns, as a float, the learning rate of the step that follows t completed steps. The first step has
t = 0. ``schedule(array)`` returns a float64 array of the same shape, with exactly the values of single calls. Schedules
are immutable values: their repr is the code that makes them, equal schedules compare equal, and they can be pickled,
or converted to a plain dictionary and back. They hold no counter; the optimizer's step count is the only clock. Past
its end, a schedule keeps its last value unless its documentation says otherwise. Only `Plateau` depends on more than
the step number: it also depends on the metrics that it has observed.

Schedules can be composed, and a composition is again a schedule:

>>> schedule = Cosine(1e-3, steps=1000).warmup(100)
>>> schedule(49), schedule(99), schedule(100), schedule(1100)
(0.0005, 0.001, 0.001, 0.0)
>>> (Constant(0.1).then(Linear(0.1, 0.0, steps=10), at=5) * 0.5)(10)
0.025
"""

from typing import TYPE_CHECKING

from lrcore import _names
from lrcore.schedules._base import Constant, Function, Rate, Schedule, Sequence, as_schedule, from_dict
from lrcore.schedules._callable import Recursive
from lrcore.schedules._cycles import CosineRestarts, Cyclic, CyclicStages, PeriodicPulse
from lrcore.schedules._decay import (
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    NaturalExponential,
    Polynomial,
    PolynomialProduct,
    Rex,
)
from lrcore.schedules._parse import parse
from lrcore.schedules._plateau import Plateau, plateaus
from lrcore.schedules._rise import InverseSqrt, Noam, OneCycle, WarmupStableDecay
from lrcore.schedules._staircase import PiecewiseConstant, StepDecay

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Cyclic",
    "CyclicStages",
    "Exponential",
    "Function",
    "InverseSqrt",
    "InverseTime",
    "Linear",
    "NaturalExponential",
    "Noam",
    "OneCycle",
    "PeriodicPulse",
    "PiecewiseConstant",
    "Plateau",
    "Polynomial",
    "PolynomialProduct",
    "Rate",
    "Recursive",
    "Rex",
    "Schedule",
    "Sequence",
    "StepDecay",
    "WarmupStableDecay",
    "as_schedule",
    "from_dict",
    "parse",
    "plateaus",
]

if not TYPE_CHECKING:  # type checkers see the imports
    __getattr__, __dir__ = _names.public_face(__name__)
