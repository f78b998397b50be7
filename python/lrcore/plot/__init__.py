"""Figures of schedules, range tests and training runs with matplotlib: ``pip install "lrcore[plot]"``.

Each function draws on `ax`, or on a new pyplot figure if `ax` is not given, and returns the Axes.

>>> import lrcore
>>> cosine = lrcore.schedules.Cosine(1e-3, steps=1000)
>>> ax = lrcore.plot.schedules(cosine.warmup(100), cosine, steps=1200)
>>> ax.get_xlabel(), ax.get_ylabel()
('step', 'learning rate')
>>> ax.figure.savefig("rates.png")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

from lrcore import _names
from lrcore.plot._figures import range_test, schedules, training

__all__ = ["range_test", "schedules", "training"]

if not TYPE_CHECKING:  # type checkers see the imports
    __getattr__, __dir__ = _names.public_face(__name__)
