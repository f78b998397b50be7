"""Check the size, version, dependencies and files of a wheel.

    python scripts/wheel_contents.py dist/lrcore-*.whl

Exits with status 1 and a list of the problems if there are any.
"""

from __future__ import annotations

import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import BytesParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LARGEST = 3_000_000  # bytes
EXTENSIONS = re.compile(r"lrcore/_lrcore_(core|cuda)\.[\w-]+\.so")
METADATA = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def complaints(path: Path) -> Iterator[str]:
    """Yield the problems of a wheel."""
    info = f"lrcore-{PROJECT['version']}.dist-info"
    package = ROOT / "python"
    expected = {
        *(
            str(file.relative_to(package))
            for file in package.glob("lrcore/**/*.py*")
            if file.suffix != ".pyc"
        ),
        "lrcore/py.typed",
        *(f"{info}/{name}" for name in METADATA),
    }
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        content = BytesParser().parsebytes(wheel.read(metadata))
    modules = {name for name in names if EXTENSIONS.fullmatch(name)}
    required = [each for each in content.get_all("Requires-Dist", []) if "extra ==" not in each]

    if path.stat().st_size > LARGEST:
        yield f"size: expected at most {LARGEST:,} bytes, got {path.stat().st_size:,}"
    if content["Version"] != PROJECT["version"]:
        yield f"version: expected {PROJECT['version']} as in pyproject.toml, got {content['Version']}"
    if required != PROJECT["dependencies"]:
        yield f"dependencies: expected {PROJECT['dependencies']} as in pyproject.toml, got {required}"
    if not any("_core." in name for name in modules):
        yield "the extension module is missing"
    yield from (f"unexpected file: {name}" for name in sorted(names - expected - modules))
    yield from (f"missing file: {name}" for name in sorted(expected - names))


def main() -> None:
    """Check the wheels that are given on the command line."""
    wrong = [f"{path}: {each}" for path in sys.argv[1:] for each in complaints(Path(path))]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
