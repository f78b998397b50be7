"""What a signal handler may do: run, or raise, before any opcode of the library."""

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
    """Run `action` again and again, with `intrude` before its first opcode in the library, its second, and so on.

    It yields the number of opcodes before after each run that was intruded upon. Where `intrude` raises, so does the
    action, and the exception ends there. Garbage waits meanwhile: what other tests left would be finalized in the middle of
    `action`, and Python only prints what is raised there.
    """
    for number in itertools.count():
        left = number
        intruded = False

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left, intruded
            if not frame.f_code.co_filename.startswith(LIBRARY):
                return None
            frame.f_trace = trace  # Python 3.13 looks for the opcodes of a frame that is traced already
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            if event == "opcode":
                left -= 1
                if left < 0 and not intruded:
                    intruded = True
                    intrude()  # which is not traced
            return trace

        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = (
            True  # Python 3.12 looks for opcodes once a frame has asked for them
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
    """What an intrusion raises, as Ctrl-C raises KeyboardInterrupt."""


def interrupt() -> None:
    """Raise in the middle of whatever runs."""
    raise Intrusion
