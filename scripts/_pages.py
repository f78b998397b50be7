"""What the scripts that make pages of docs/ share: docstrings, equations and calls of others as Markdown, and the check.

A page is made from a template, `<name>.in.md`, in which ``{{Name}}`` stands for a class and the paragraphs behind it, up to
the next heading or name, say when to choose it.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import equations

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tests"))

PEERS = {"torch": "PyTorch", "optax": "optax", "keras": "Keras", "transformers": "transformers"}
"""What the pages call the other packages."""


def notice(script: str, template: str) -> str:
    """Return the first line of a page that a script makes."""
    return f"<!-- Made by scripts/{Path(script).name} from {template} and the docstrings: edit those. -->\n"


def sections(cls: type) -> dict[str, str]:
    """Return the parts of a docstring: "" is what it begins with."""
    parts = re.split(r"^(\w+)\n-+\n", inspect.getdoc(cls) or "", flags=re.MULTILINE)
    return dict(zip(["", *parts[1::2]], (each.strip() for each in parts[::2]), strict=True))


def wrapped(text: str, indent: str = "") -> str:
    """Break prose into lines, but not within code."""
    whole = re.sub(r"`[^`]*`", lambda code: re.sub(r"\s+", "\0", code.group()), text.replace("``", "`"))
    lines = textwrap.wrap(
        whole, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\0", " ")


def about(cls: type) -> list[str]:
    """Return what a docstring begins with: its paragraphs, and its equations as a display."""
    paragraphs = []
    for each in re.split(r"\n\n(?! )", sections(cls)[""]):
        if each.startswith("::"):
            paragraphs.append(f"```math\n{equations.display(equations.block(each))}\n```")
        else:
            paragraphs.append(wrapped(each))
    return [summary(cls), *paragraphs[1:]]


def summary(cls: type) -> str:
    """Return the first sentence of a docstring, without the name of the class where it begins with that."""
    first = wrapped(sections(cls)[""].split("\n\n")[0]).removeprefix(f"{cls.__name__}: ")
    return first[0].upper() + first[1:]


def signature(cls: type) -> str:
    """Return the call that makes an object, with its defaults."""
    taken = inspect.signature(cls)
    plain = taken.replace(
        parameters=[each.replace(annotation=each.empty) for each in taken.parameters.values()],
        return_annotation=taken.empty,
    )
    return wrapped_call(f"{cls.__name__}{plain}")


def wrapped_call(call: str) -> str:
    """Break a call that is long into lines, but not within its tuples."""
    if len(call) <= 76:
        return call
    name, _, rest = call.removesuffix(")").partition("(")
    whole = re.sub(r"\([^)]*\)", lambda found: found[0].replace(" ", "\0"), rest)
    lines = textwrap.wrap(whole, 76, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join([f"{name}(", *lines, ")"]).replace("\0", " ")


def parameters(text: str) -> Iterable[str]:
    """Yield the arguments of a docstring, as items of a list."""
    for names, kind, what in re.findall(r"^(\w.*?)(?: : (.*))?\n((?: +.*\n?)+)", text, flags=re.MULTILINE):
        code = ", ".join(f"`{name}`" for name in names.split(", "))
        yield wrapped(f"- {code}: {f'{kind}. ' if kind else ''}{' '.join(what.split())}", "  ")


def page(cls: type, choice: str, picture: Iterable[str], own: Iterable[str], calls: Iterable[str]) -> str:
    """Return the page of a class.

    Parameters
    ----------
    cls : type
        What it is of.
    choice : str
        When to choose it.
    picture, own : iterable of str
        What the page has behind the arguments, and before the reference.
    calls : iterable of str
        The calls of other packages, as items of a list.
    """
    parts, elsewhere = sections(cls), [*calls]
    return "\n\n".join(
        [
            f"# {cls.__name__}",
            *about(cls),
            f"```text\n{signature(cls)}\n```",
            "\n".join(parameters(parts["Parameters"])),
            *picture,
            *(["## When to choose it", choice] if choice else []),
            *own,
            "## Reference",
            wrapped(parts["References"]),
            *(["## Elsewhere", "\n".join(elsewhere)] if elsewhere else []),
        ]
    )


class Template:
    """A template, and what it says of each class.

    Parameters
    ----------
    path : Path
        The file.
    names : collection of str
        What may stand in it, each once. What does not comes at the end.

    Raises
    ------
    ValueError
        When a name is unknown or there twice.
    """

    def __init__(self, path: Path, names: Collection[str]) -> None:
        self.path = path
        self._text = path.read_text(encoding="utf-8")
        placed: list[str] = re.findall(r"^{{(\w+)}}$", self._text, re.MULTILINE)
        self._missing = [name for name in names if name not in placed]
        if sorted([*placed, *self._missing]) != sorted(names):
            raise ValueError(f"{path.name}: expected each of {sorted(names)} once, got {placed}")
        found = re.findall(r"^{{(\w+)}}\n\n((?:(?!#|{{).*\n)*)", self._text, re.MULTILINE)
        self.when: dict[str, str] = {name: text.strip() for name, text in found}

    def choice(self, name: str) -> str:
        """Return when to choose a class; empty if the template does not say."""
        return self.when.get(name, "")

    def fill(self, pieces: Mapping[str, str], script: str) -> str:
        """Return the page in which each name is replaced by its piece."""
        filled: str = re.sub(r"^{{(\w+)}}$", lambda found: pieces[found[1]], self._text, flags=re.MULTILINE)
        added = "".join(f"\n{pieces[name]}\n" for name in self._missing)
        return notice(script, self.path.name) + filled + added


def differing(pages: Mapping[Path, str]) -> list[str]:
    """Tell which pages are not what a script gives, and which others lie in folders that are theirs alone."""
    found = [
        f"{path.relative_to(DOCS)} is not what the script gives"
        for path, text in pages.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    folders = {path.parent for path in pages} - {DOCS}
    lying = {path for folder in folders for path in folder.glob("*.md") if not path.name.endswith(".in.md")}
    return sorted(found + [f"{path.relative_to(DOCS)} belongs to nothing" for path in lying - {*pages}])


def write(pages: Mapping[Path, str]) -> None:
    """Write the pages."""
    for path, text in pages.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def main(about: str, make: Callable[[], Any], problems: Callable[[], list[str]]) -> int:
    """Run a script: make everything, or with --check tell what differs."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="tell what is missing or differs")
    if parser.parse_args().check:
        found = problems()
        print("\n".join(found or ["all is as the script gives it"]))
        return bool(found)
    make()
    return 0
