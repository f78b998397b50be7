"""The microbenchmark: ``lrcore bench``, or from Python.

`measure` times what a maker gives at each rule and size, variants interleaved; `variants` is the maker for lrcore's own
steps and the limit loops. `Row` says what a figure means.
"""

from lrcore.bench._cases import LOOPS, Maker, filled, free_bytes, measure, of_limit, stepper_for, variants
from lrcore.bench._command import add_arguments, execute, run
from lrcore.bench._records import compare, load, save
from lrcore.bench._timing import Row, Variant, interleave

__all__ = [
    "LOOPS",
    "Maker",
    "Row",
    "Variant",
    "add_arguments",
    "compare",
    "execute",
    "filled",
    "free_bytes",
    "interleave",
    "load",
    "measure",
    "of_limit",
    "run",
    "save",
    "stepper_for",
    "variants",
]
