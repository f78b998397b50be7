"""Finding a learning rate, and telling whether one is sound.

range_test     a short training at rates from small to large: help(lrcore.tune.range_test)
diagnose       what a training's losses say about its rate
search         Bayesian search with Optuna
scale_lr       from one batch size to another
update_ratio   how far a step moves the parameters, for their size
"""

from typing import TYPE_CHECKING

from lrcore import _names
from lrcore.tune._diagnose import Diagnosis, diagnose
from lrcore.tune._measure import scale_lr, update_ratio
from lrcore.tune._range_test import RangeTest, range_test
from lrcore.tune._search import Search, Trial, search

__all__ = [
    "Diagnosis",
    "RangeTest",
    "Search",
    "Trial",
    "diagnose",
    "range_test",
    "scale_lr",
    "search",
    "update_ratio",
]

if not TYPE_CHECKING:  # type checkers know the names that there are
    __getattr__, __dir__ = _names.public_face(__name__)
