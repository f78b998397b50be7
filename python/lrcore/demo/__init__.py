"""`lrcore demo`: train a small network on handwritten digits, and draw its loss.

The network, in `_network.py`, works with both NumPy and CuPy. All parameters are in one `lrcore.Pack` and all gradients
in another. One fused step updates all parameters, on the CPU or on a GPU; see `_training.py`.
"""

from lrcore.demo._network import Digits, load
from lrcore.demo._report import plot, report
from lrcore.demo._training import RATES, Result, find_lr, train

__all__ = ["RATES", "Digits", "Result", "find_lr", "load", "plot", "report", "train"]
