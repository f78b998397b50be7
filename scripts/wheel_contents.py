"""Check what is in a wheel: its size, its version, what it requires, and that each file in it belongs there.

    python scripts/wheel_contents.py dist/lrcore-*.whl

Exits with what is wrong.
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
    """Yield what is wrong with a wheel."""
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
        yield f"{path.stat().st_size:,} bytes, more than {LARGEST:,}"
    if content["Version"] != PROJECT["version"]:
        yield f"version {content['Version']}, and pyproject.toml says {PROJECT['version']}"
    if required != PROJECT["dependencies"]:
        yield f"requires {required}, and pyproject.toml says {PROJECT['dependencies']}"
    if not any("_core." in name for name in modules):
        yield "the extension module is missing"
    yield from (f"does not belong there: {name}" for name in sorted(names - expected - modules))
    yield from (f"is missing: {name}" for name in sorted(expected - names))


def main() -> None:
    """Check the wheels that the command line names."""
    wrong = [f"{path}: {each}" for path in sys.argv[1:] for each in complaints(Path(path))]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
