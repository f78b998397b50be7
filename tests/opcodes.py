"""Call a function before each opcode of the library, as a signal handler would be called."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import lrcore

LIBRARY = str(Path(lrcore.__file__).parent)


def at_each_opcode(action: Callable[[], object], intrude: Callable[[], object]) -> Iterator[int]:
    """Yield n = 0, 1, ..., each after a run of `action` that calls `intrude` after n opcodes of the library.

    If `intrude` raises Intrusion, it propagates through `action` and is caught here. The garbage collector
    is disabled during a run. Otherwise, it could finalize garbage from other tests in the middle of `action`,
    and Python prints exceptions raised in finalizers instead of propagating them.
    """
    for number in itertools.count():
        left = number
        intruded = False

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left, intruded
            if not frame.f_code.co_filename.startswith(LIBRARY):
                return None
            frame.f_trace = trace  # Python 3.13 traces opcodes only in a frame that is already traced
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode":
                left -= 1
                if left < 0 and not intruded:
                    intruded = True
                    intrude()  # not traced
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = (
            True  # Python 3.12 traces opcodes only once a frame has requested them
        )
        collects = gc.isenabled()
        gc.disable()
        sys.settrace(trace)
        try:
            action()
        except Intrusion:
            assert intruded
        finally:
            sys.settrace(before)
            if collects:
                gc.enable()
        if not intruded:
            assert number > 0, "no opcode was traced"
            return
        yield number


class Intrusion(BaseException):
    """Raised by `interrupt`, as KeyboardInterrupt is raised by Ctrl-C."""


def interrupt() -> None:
    """Raise an Intrusion in the middle of the running code."""
    raise Intrusion
