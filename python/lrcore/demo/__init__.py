"""`lrcore demo`: train a small network on handwritten digits, and draw how its loss fell.

The network, in `_network.py`, is written for NumPy and CuPy alike. All parameters live in one `lrcore.Pack`, all
gradients in another like it, and one fused step moves them all, on the CPU or on a GPU; see `_training.py`.
"""

from lrcore.demo._network import Digits, load
from lrcore.demo._report import plot, report
from lrcore.demo._training import RATES, Result, find_lr, train

__all__ = ["RATES", "Digits", "Result", "find_lr", "load", "plot", "report", "train"]
