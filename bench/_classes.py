"""Classes and arguments that select each rule in lrcore and in PyTorch."""

from __future__ import annotations

from typing import Any

CLASSES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "sgd": ("SGD", {}, ("fused", "foreach")),
    "sgd_momentum": ("SGD", {"momentum": 0.9}, ("fused", "foreach")),
    "sgd_nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}, ("fused", "foreach")),
    "adagrad": ("Adagrad", {}, ("foreach",)),
    "rmsprop": ("RMSprop", {}, ("foreach",)),
    "rmsprop_momentum": ("RMSprop", {"momentum": 0.9}, ("foreach",)),
    "rmsprop_centered": ("RMSprop", {"centered": True}, ("foreach",)),
    "adadelta": ("Adadelta", {}, ("foreach",)),
    "adam": ("Adam", {}, ("fused", "foreach")),
    "adam_amsgrad": ("Adam", {"amsgrad": True}, ("fused", "foreach")),
    "nadam": ("NAdam", {}, ("foreach",)),
    "radam": ("RAdam", {}, ("foreach",)),
    "adamax": ("Adamax", {}, ("foreach",)),
    "lion": ("Lion", {}, ()),
}
"""Rule -> the class and arguments that select it in both lrcore and torch.optim, and torch's implementations of it."""
