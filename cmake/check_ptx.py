"""Check the PTX of the compiled kernels.

python check_ptx.py DIRECTORY ARCHITECTURES [--strict]

ARCHITECTURES is the number of PTX files that DIRECTORY must contain. An instruction that could change results is always
an error. Narrow accesses and uses of local memory only cost time; they are warnings, or errors with --strict.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

FORBIDDEN = r"\.approx|\.ftz|\bfma\.|\bdiv\.full|\brcp\.|\brsqrt\.|\bex2\.|\blg2\."
"""Instructions that contract, flush to zero, or do not round as IEEE-754 requires."""

FULL = "FormE2E"
"""What the names of the full sweeps have in common."""

LOCAL = r"\.local\b"
"""A thread's local memory, which holds the arrays that are not in registers."""


def kernels(ptx: str) -> dict[str, str]:
    """Return a dictionary of the kernels' texts by mangled name."""
    return {text.partition("(")[0]: text for text in ptx.split(".entry ")[1:]}


def accesses(body: str) -> dict[str, int]:
    """Count the loads and stores of one float and of four floats in global memory."""
    return {
        f"{kind}{width}": len(re.findall(rf"\b{kind}\.global(?:\.wb)?{width}\.f32", body))
        for kind in ("ld", "st")
        for width in ("", ".v4")
    }


def check_vectors(name: str, body: str) -> str | None:
    """Return a message if the memory accesses of a four-element sweep are wrong, else None.

    One branch of such a sweep updates single elements; it stores p and the states. The two other branches, for full
    blocks and for the last block, load p, g and the states, and store p and the states, as one vector of four floats
    per array. The sweep also loads the constants. A full sweep also has the average in each branch, and zeroes the
    gradients in two more branches; the compiler merges or repeats some of its stores of single elements.
    """
    count = accesses(body)
    if FULL in name:
        written, rest = divmod(count["st.v4"] - 1, 2)  # p, the states and the average
        meant = rest == 0 and 2 <= written <= 5 and written <= count["st"] <= written + 2
    else:
        written = count["st"]
        meant = 1 <= written <= 4 and count["st.v4"] == 2 * written
    meant = meant and count["ld.v4"] >= 2 * (written + 1)
    return None if meant else f"four-element accesses are not 16 bytes wide: {count}"


def lines_with(pattern: str, ptx: str) -> list[str]:
    """Return the kernels' lines that match a pattern."""
    return [
        f"{name}: {line.strip()}"
        for name, body in kernels(ptx).items()
        for line in body.splitlines()
        if re.search(pattern, line)
    ]


def check_bits(ptx: str) -> list[str]:
    """Return the forbidden instructions, and a message if there are no sweeps."""
    missing = [] if any("sweep" in name for name in kernels(ptx)) else ["no sweeps"]
    return missing + lines_with(FORBIDDEN, ptx)


def check_speed(ptx: str) -> list[str]:
    """Return the sweeps that split vectors of four, and the uses of local memory."""
    vectors = {name: body for name, body in kernels(ptx).items() if "sweep" in name and "ChunkILi4E" in name}
    narrow = [f"{name}: {fault}" for name, body in vectors.items() if (fault := check_vectors(name, body))]
    return narrow + lines_with(LOCAL, ptx)


def main(directory: str, architectures: str, strict: str = "") -> int:
    """Check the files; return the exit status."""
    slow_is = "error" if strict == "--strict" else "warning"
    texts = {path.name: path.read_text() for path in sorted(Path(directory).glob("*.ptx"))}
    found = [f"error: {name}: {each}" for name, text in texts.items() for each in check_bits(text)]
    found += [f"{slow_is}: {name}: {each}" for name, text in texts.items() for each in check_speed(text)]
    if len(texts) != int(architectures):
        found.append(f"error: expected {architectures} PTX files, got {len(texts)}")
    print(*(found or [f"PTX of {architectures} architectures: no errors"]), sep="\n")
    return 1 if any(each.startswith("error") for each in found) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
