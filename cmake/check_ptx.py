"""Fail when the compiled kernels are not what was meant: see `check`.

python check_ptx.py FILE.ptx ...
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FORBIDDEN = r"\.approx|\.ftz|\bfma\.|\bdiv\.full|\brcp\.|\brsqrt\.|\bex2\.|\blg2\.|\.local\b"
"""What rounds otherwise than IEEE-754, contracts, flushes, or keeps arrays out of registers."""

WIDE = {"load": r"\bld\.global\S*\.v4\.\w32", "store": r"\bst\.global\S*\.v4\.\w32"}


def kernels(ptx: str) -> dict[str, str]:
    """Give the text of each kernel by its mangled name."""
    return {text.partition("(")[0]: text for text in ptx.split(".entry ")[1:]}


def check(ptx: str) -> list[str]:
    """Give what is wrong: a forbidden instruction, or a sweep by quads without accesses of 16 bytes."""
    found = kernels(ptx)
    quads = {name: body for name, body in found.items() if "sweep" in name and "ChunkILi4E" in name}
    wrong = [] if quads else ["no sweeps by quads"]
    for name, body in found.items():
        wrong += [f"{name}: {line.strip()}" for line in body.splitlines() if re.search(FORBIDDEN, line)]
    for name, body in quads.items():
        wrong += [
            f"{name}: no {kind} of 16 bytes" for kind, pattern in WIDE.items() if not re.search(pattern, body)
        ]
    return wrong


def main(paths: list[str]) -> int:
    """Check the files; give the exit status."""
    wrong = [f"{path}: {each}" for path in paths for each in check(Path(path).read_text())]
    print(*(wrong or [f"PTX of {len(paths)} architectures: as meant"]), sep="\n")
    return 1 if wrong or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
