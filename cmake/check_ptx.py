"""Fail when the compiled kernels are not what was meant: see `check`.

python check_ptx.py DIRECTORY ARCHITECTURES, where so many files of PTX lie
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FORBIDDEN = r"\.approx|\.ftz|\bfma\.|\bdiv\.full|\brcp\.|\brsqrt\.|\bex2\.|\blg2\.|\.local\b"
"""What rounds otherwise than IEEE-754, contracts, flushes, or keeps arrays out of registers."""


def kernels(ptx: str) -> dict[str, str]:
    """Give the text of each kernel by its mangled name."""
    return {text.partition("(")[0]: text for text in ptx.split(".entry ")[1:]}


def accesses(body: str) -> dict[str, int]:
    """Count the loads and stores of global memory, of one float and of four."""
    return {
        f"{kind}{width}": len(re.findall(rf"\b{kind}\.global(?:\.wb)?{width}\.f32", body))
        for kind in ("ld", "st")
        for width in ("", ".v4")
    }


def check_quads(body: str) -> str | None:
    """Say what is wrong with the accesses of a sweep by quads.

    Single elements are the business of one branch, which stores p and the states. Two more, where all quads of a thread
    are there and where some are not, load these and g by quads and store them so: two to a stream or, without states,
    four. The constants are loaded besides.
    """
    count = accesses(body)
    written = count["st"]
    quads = 2 * (4 if written == 1 else 2)
    meant = (
        1 <= written <= 4 and count["st.v4"] == quads * written and count["ld.v4"] >= quads * (written + 1)
    )
    return None if meant else f"accesses of quads are not by 16 bytes: {count}"


def check(ptx: str) -> list[str]:
    """Give what is wrong: a forbidden instruction, or a sweep by quads that takes them apart."""
    found = kernels(ptx)
    quads = {name: body for name, body in found.items() if "sweep" in name and "ChunkILi4E" in name}
    wrong = [] if quads else ["no sweeps by quads"]
    for name, body in found.items():
        wrong += [f"{name}: {line.strip()}" for line in body.splitlines() if re.search(FORBIDDEN, line)]
    return wrong + [f"{name}: {fault}" for name, body in quads.items() if (fault := check_quads(body))]


def main(directory: str, architectures: str) -> int:
    """Check the files; give the exit status."""
    paths = sorted(Path(directory).glob("*.ptx"))
    wrong = [f"{path.name}: {each}" for path in paths for each in check(path.read_text())]
    if len(paths) != int(architectures):
        wrong.append(f"{len(paths)} files of PTX, expected {architectures}")
    print(*(wrong or [f"PTX of {architectures} architectures: as meant"]), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
