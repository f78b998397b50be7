"""Finding a learning rate, and judging whether a rate is sound.

range_test     a short training run at increasing rates: help(lrcore.tune.range_test)
diagnose       a verdict on the rate from the losses of a training run
search         Bayesian search with Optuna
scale_lr       the rate for another batch size
update_ratio   the size of an update relative to the parameters
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

if not TYPE_CHECKING:  # type checkers see the imports
    __getattr__, __dir__ = _names.public_face(__name__)
