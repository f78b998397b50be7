"""The microbenchmark, for ``lrcore bench`` and for use from Python.

`measure` times the variants of each rule and size, interleaved. `variants` returns lrcore's own steps, and the
loops that bound their speed. `Row` describes the results.
"""

from lrcore.bench._cases import (
    LOOPS,
    MakeVariants,
    aligned_full,
    boundaries,
    free_bytes,
    measure,
    share_of_bound,
    stepper_for,
    variants,
)
from lrcore.bench._command import add_arguments, execute, run
from lrcore.bench._records import compare, load, save
from lrcore.bench._timing import Row, Variant, interleave

__all__ = [
    "LOOPS",
    "MakeVariants",
    "Row",
    "Variant",
    "add_arguments",
    "aligned_full",
    "boundaries",
    "compare",
    "execute",
    "free_bytes",
    "interleave",
    "load",
    "measure",
    "run",
    "save",
    "share_of_bound",
    "stepper_for",
    "variants",
]
