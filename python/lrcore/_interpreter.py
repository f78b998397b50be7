"""Refuse other interpreters of a process than its main one, before the core is loaded, which would wait for itself there."""

from __future__ import annotations

import importlib
import sys

_interpreters = importlib.import_module(
    "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
)

if _interpreters.get_current() != _interpreters.get_main():
    raise ImportError("lrcore works in the main interpreter of a process, and in no other")
