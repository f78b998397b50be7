"""Raise ImportError in a subinterpreter, before the core is loaded, because the core would deadlock there."""

from __future__ import annotations

import importlib
import sys

_interpreters = importlib.import_module(
    "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
)

if _interpreters.get_current() != _interpreters.get_main():
    raise ImportError("lrcore only works in the main interpreter of a process, not in a subinterpreter")
