"""Fail when the compiled kernels are not what was meant.

python check_ptx.py DIRECTORY ARCHITECTURES [--strict], where so many files of PTX lie

An instruction that gives other bits is always an error. Narrow accesses and local memory, which are only slow, are warnings,
and errors with --strict.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FORBIDDEN = r"\.approx|\.ftz|\bfma\.|\bdiv\.full|\brcp\.|\brsqrt\.|\bex2\.|\blg2\."
"""Instructions that round otherwise than IEEE-754, contract or flush."""

LOCAL = r"\.local\b"
"""Memory of a thread, where arrays lie that are not in registers."""


def kernels(ptx: str) -> dict[str, str]:
    """Return the text of each kernel by its mangled name."""
    return {text.partition("(")[0]: text for text in ptx.split(".entry ")[1:]}


def accesses(body: str) -> dict[str, int]:
    """Count the loads and stores of global memory, of one float and of four."""
    return {
        f"{kind}{width}": len(re.findall(rf"\b{kind}\.global(?:\.wb)?{width}\.f32", body))
        for kind in ("ld", "st")
        for width in ("", ".v4")
    }


def check_vectors(body: str) -> str | None:
    """Say what is wrong with the accesses of a sweep by vectors of four.

    One branch updates single elements, and stores p and the states. Two more, of full blocks and of the last block, load
    these and g by vectors of four and store them so, one to a stream. The constants are loaded in addition.
    """
    count = accesses(body)
    written = count["st"]
    meant = 1 <= written <= 4 and count["st.v4"] == 2 * written and count["ld.v4"] >= 2 * (written + 1)
    return None if meant else f"accesses of four elements are not by 16 bytes: {count}"


def lines_with(pattern: str, ptx: str) -> list[str]:
    """Return the lines of kernels that match a pattern."""
    return [
        f"{name}: {line.strip()}"
        for name, body in kernels(ptx).items()
        for line in body.splitlines()
        if re.search(pattern, line)
    ]


def check_bits(ptx: str) -> list[str]:
    """Return the instructions that give other bits, and whether there are no sweeps."""
    missing = [] if any("sweep" in name for name in kernels(ptx)) else ["no sweeps"]
    return missing + lines_with(FORBIDDEN, ptx)


def check_speed(ptx: str) -> list[str]:
    """Return the sweeps that take vectors of four apart, and the uses of local memory."""
    vectors = {name: body for name, body in kernels(ptx).items() if "sweep" in name and "ChunkILi4E" in name}
    narrow = [f"{name}: {fault}" for name, body in vectors.items() if (fault := check_vectors(body))]
    return narrow + lines_with(LOCAL, ptx)


def main(directory: str, architectures: str, strict: str = "") -> int:
    """Check the files; return the exit status."""
    slow_is = "error" if strict == "--strict" else "warning"
    texts = {path.name: path.read_text() for path in sorted(Path(directory).glob("*.ptx"))}
    found = [f"error: {name}: {each}" for name, text in texts.items() for each in check_bits(text)]
    found += [f"{slow_is}: {name}: {each}" for name, text in texts.items() for each in check_speed(text)]
    if len(texts) != int(architectures):
        found.append(f"error: {len(texts)} files of PTX, expected {architectures}")
    print(*(found or [f"PTX of {architectures} architectures: as meant"]), sep="\n")
    return 1 if any(each.startswith("error") for each in found) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
