"""Schedules from text, and the command that plots them.

Every text is either parsed into a schedule or refused with a message, which usually names a column.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.__main__ import main
from lrcore.schedules import Schedule, parse
from schedules.examples import every, has_dictionary

WRITTEN = [repr(each) for each in every() if has_dictionary(each)]
"""The printed forms of the example schedules. test_schedules.py checks that each can be parsed."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.1", schedules.Constant(0.1)),
        (" 1e-3 ", schedules.Constant(1e-3)),
        ("+1", schedules.Constant(1.0)),
        ("(Cosine)(0.1, 9)", schedules.Cosine(0.1, 9)),
        ("Cosine(lr=.1, steps=9,)", schedules.Cosine(0.1, 9)),
        ("\t\n Cosine(\n  0.1,\n  steps = 9\n).warmup( 3 )\n", schedules.Cosine(0.1, 9).warmup(3)),
        ("2 * Rex(0.1, 9)", schedules.Rex(0.1, 9) * 2.0),
        ("Rex(0.1, 9) * Rex(0.2, 3)", schedules.Rex(0.1, 9) * schedules.Rex(0.2, 3)),
        ("Rex(0.1, 9).then(0.05, at=3)", schedules.Rex(0.1, 9).then(0.05, at=3)),
        ("Sequence(((0.1, 2), 0.2))", schedules.Sequence([(0.1, 2), 0.2])),
        ("Cyclic(0.1, 0.2, 3, mode='triangular2')", schedules.Cyclic(0.1, 0.2, 3, mode="triangular2")),
        ('Cyclic(0.1, 0.2, 3, None, "triangular2")', schedules.Cyclic(0.1, 0.2, 3, mode="triangular2")),
        ("OneCycle(0.1, 20, three_phase=True)", schedules.OneCycle(0.1, 20, three_phase=True)),
    ],
)
def test_what_a_person_would_write(text: str, expected: Schedule) -> None:
    assert parse(text) == expected


def test_names() -> None:
    assert parse("Cosine(lr, steps).warmup(n)", lr=0.1, steps=90, n=3) == schedules.Cosine(0.1, 90).warmup(3)
    assert parse("lr", lr=0.5) == schedules.Constant(0.5)
    assert parse("text", text=1) == schedules.Constant(1.0)
    assert parse("Rex(0.1, 9) * half", half=np.float64(0.5)) == schedules.Rex(0.1, 9) * 0.5
    assert parse("Cosine(0.1, steps)", steps=np.int64(9)) == schedules.Cosine(0.1, 9)  # type: ignore[arg-type]
    for wrong in ("0.1", None, True, schedules.Constant(0.1), print):
        untyped: Any = wrong
        with pytest.raises(TypeError, match="^lr: expected a number"):
            parse("Cosine(lr, 9)", lr=untyped)
    for no_text in (b"0.1", None, 0.1, schedules.Constant(0.1)):
        untyped = no_text
        with pytest.raises(TypeError, match="^schedule: expected a string, got"):
            parse(untyped)


def test_numbers_are_computed() -> None:
    text = "Cosine(lr * 2 / 4, steps - 6 // 4 * 10).warmup(-(-10)) * (1 - 0.5)"
    assert parse(text, lr=0.1, steps=90) == schedules.Cosine(0.05, 80).warmup(10) * 0.5
    assert parse("2 * 3") == schedules.Constant(6)


def refusal(text: str, **names: Any) -> tuple[str, int | None]:
    """Return the error message for a refused text, and the column that it names."""
    with pytest.raises(ValueError, match="^schedule: ") as refused:
        parse(text, **names)
    message = str(refused.value)
    column = re.search(r", at column (\d+) near ", message)
    return message, None if column is None else int(column[1])


REFUSED = re.findall(
    r"\S(?: {0,2}\S)*",
    """
    ¦Constant(1).lr   Constant(1).¦__class__()   Constant(1).¦__mul__(2)   Constant(1).¦to_dict()   Constant(1).¦foo(2)
    ¦__import__('os').system('x')   ¦print('x')   Constant(¦open('x'))   ¦Function(print)   ¦Recursive(print, 1)
    ¦Warmup(Constant(1), 3)   ¦Schedule()   ¦Constant(¦Checked())   ¦as_schedule(1)   ¦parse('1')   ¦Constant
    Cosine(0.1, steps=¦steps)   Rex(0.1, 9).then(¦x, at=3)   Cosine(0.1, 9) * ¦x   Constant(¦é)   ¦Constant(1)(3)
    ¦lambda¦: 1   Cosine(¦(lambda¦: 1)(), 9)   Cosine(¦[x for x in [1]], 9)   (x ¦:= 1)   ¦1 if 1 else 2   1 ¦< 2
    Cosine(¦*[0.1, 9])   Cosine(¦**x)   Cosine(0.1, ¦**¦{})   Cosine(lr=0.1, ¦lr=0.2, steps=9)   ¦Cosine(0.1)   Cosine(0.1, end=1, ¦foo=9)
    ¦f'Constant(1)'   ¦b'Constant(1)'   ¦'Constant(1)'   ¦...   ¦1j   ¦[1]   ¦True   ¦None   ¦Constant(1), Constant(2)
    ¦Constant(1) + 1   ¦Constant(1) ** 2   ¦Constant(1) / 2   ¦Constant(1) * 'a'   ¦Constant(1) * [1]   ¦-Constant(1)
    ¦2 - 'a'   ¦True * 2   ¦2 / 0   ¦[1] * 3   ¦2 ** 3   ¦'a' * 3   Constant(¦9**9**9)   ¦-1   ¦1e400   ¦1e1000000000
    ¦Constant(-1)   ¦Constant('1')   ¦Constant(1, 2)   ¦PiecewiseConstant(1, 2)   ¦CyclicStages(['ab'])   ¦1or 2
    Constant(1)¦;   Constant(1) ¦# comment   Constant¦\\   Cosine¦(0.1, 9   Cosine(¦0.1 9)   Cosine(0.1, 9)¦)
    """,
)
"""Texts are separated by three spaces. A mark in each text precedes the part that is refused."""
SPACED = [
    "  Cosine(0.1, ¦x)",
    "\tCosine(0.1,\t¦x)",
    "\n\n Cosine(0.1,\n ¦x)",
    "Cosine(0.1,\r\n ¦x)",
    "Cosine(0.1,\r ¦x)",
]
SPACED += ["Constant(1)\n¦Constant(2)", "Constant(1¦\x00)"]


@pytest.mark.parametrize("marked", [*REFUSED, *SPACED], ids=ascii)
def test_refusals_have_the_column(marked: str) -> None:
    """If a text has two marks, the column may be that of either."""
    text = marked.replace("¦", "")
    columns = {marked.replace("¦", "", i).index("¦") + 1 for i in range(marked.count("¦"))}
    message, column = refusal(text)
    assert column is not None
    assert column in columns
    near = message.partition(' near "')[2]
    assert re.match(re.escape(text[column - 1 : column + 29].strip()) + '"(;|$)', near)


def test_long_and_deep_texts() -> None:
    for text in ("x" * 10_001, "Constant(1)" * 9091, "(" * 100_000, " " * 100_000):
        assert refusal(text) == (f"schedule: expected at most 10000 characters, got {len(text)}", None)
    assert parse("Constant(1)" + " " * 9989) == schedules.Constant(1.0)
    for blank in ("", "   ", "\n\t "):
        assert refusal(blank) == ("schedule: expected a schedule, got an empty string", None)
    deep = ["-" * 9999 + "1", "not " * 2400 + "1", "[" * 9999, "f(" * 3000, "a" + ".a" * 4900, "[[1]," * 1900]
    deep += ["Constant(1)" + ".shift(1)" * 1000, "Constant(1)" + " * 1" * 2400, "1" + "**1" * 3000]
    numbers = ["9" * 5000, "0x" + "f" * 9000, "-0x" + "f" * 9000]
    deep += [f"Constant({each})" for each in numbers]
    deep += ["1" + " if 1 else 1" * 800, "await " * 1600 + "1", "Plateau(" * 60 + "1" + ")" * 60]
    for text in deep:
        refusal(text)
    chain = schedules.Constant(1.0)
    for _ in range(20):
        chain = (chain * 0.5).shift(1)  # type: ignore[assignment]
    assert parse(repr(chain)) == chain


WORDS = [
    *re.findall(r"\w+|[^\w\s¦]+", " ".join(REFUSED)),
    "",
    ", ",
    " in ",
    " or ",
    "not ",
    "await ",
    "0x",
    "e308",
]


@st.composite
def with_mistakes(draw: st.DrawFn) -> str:
    """Return the text of a schedule after a few random replacements."""
    text = draw(st.sampled_from(WRITTEN))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = draw(st.integers(begin, min(begin + 3, len(text))))
        put = draw(st.sampled_from(WORDS) | st.text(max_size=2))
        text = text[:begin] + put + text[end:]
    return text


@given(
    st.text(max_size=60) | st.lists(st.sampled_from([*WORDS, *" ()[],='9"])).map("".join) | with_mistakes()
)
def test_any_text(text: str) -> None:
    """Any text is parsed, or refused with ValueError.

    The message names a column in the text, or after it if the text ends too early. There is no column if the
    text is empty, too long or nested too deeply.
    """
    try:
        message = "" if isinstance(parse(text), Schedule) else "no schedule"
    except ValueError as error:
        message = str(error)
    column = re.search("^schedule: .*, at column (\\d+) near ", message, re.DOTALL)
    if column:
        assert 1 <= int(column[1]) <= len(text) + 1
    else:
        assert re.match(
            "$|schedule: (too long, or nested|expected at most|expected a schedule, got)", message
        )


def test_nothing_is_run(tmp_path: Path) -> None:
    path = tmp_path / "made"
    for text in (
        f"open('{path}', 'w')",
        f"Constant(open('{path}', 'w'))",
        f"Constant(1) * open('{path}', 'w')",
    ):
        refusal(text)
    assert not path.exists()


# ---- the command


COSINE = "Cosine(1e-3, steps=1000).warmup(100)"


@pytest.mark.parametrize(
    ("suffix", "begin", "options"),
    [
        (".png", b"\x89PNG", ["0.1", "--steps", "20000"]),
        (".svg", b"<?xml", ["--log"]),
        (".pdf", b"%PDF", ["--steps", "1"]),
    ],
)
def test_command_draws_a_picture(
    suffix: str, begin: bytes, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"rates{suffix}"
    assert main(["plot", COSINE, *options, "--out", str(path)]) == 0
    assert capsys.readouterr() == (f"{path}\n", "")
    assert path.read_bytes().startswith(begin)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_command_draws_charts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints a legend and one chart, which is as long as the longest schedule.

    The drawing is as wide as the terminal allows, but no wider than 64 columns.
    """
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["plot", "0.25"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (err, len(lines), lines[0]) == ("", 1 + 15 + 2, "Constant(lr=0.25)")
    assert lines[1].split() == ["0.25", "|" + "\u2809" * 64]
    monkeypatch.setenv("COLUMNS", "42")
    assert main(["plot", COSINE, "Linear(1e-3, 0, steps=2000)"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 15 + 2
    assert lines[:2] == [f"1  {parse(COSINE)}", "2  Linear(lr=0.001, end=0.0, steps=2000)"]
    assert lines[-2].strip() == "+" + "-" * 30
    assert lines[-1].split() == ["0", "2199"]


def test_command_lists_the_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--list"]) == 0
    out = capsys.readouterr().out
    listed = re.findall(r"^(\w+)\(.*\)\n    \S", out, re.MULTILINE)
    not_in_text = {"Function", "Recursive", "Schedule"}
    assert listed == sorted(
        {each for each in schedules.__all__ if each[0].isupper()} - not_in_text - {"Rate"}
    )
    summary = str(schedules.Cosine.__doc__).partition("\n")[0]
    assert f"\nCosine(lr, steps, end=0.0)\n    {summary}\n" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([""], "schedule: expected a schedule, got an empty string"),
        (["0.1", "Cosine(1)"], "schedule: Cosine.*'steps', at column 1 near \"Cosine\\(1\\)\""),
        (["Cosine(0.1,\n 9, x)"], 'schedule: unknown name x, at column 17 near "x\\)"'),
        (["Cosine"], r'schedule: Cosine has no arguments, at column 1 near "Cosine"; write Cosine\(\.\.\.\)'),
        (["-1"], "schedule: lr: expected a finite number >= 0, got -1.0, .*"),
        (["1or 2"], "schedule: .*"),
        (["0.1", "--log"], "--log: .*"),
        (["0.1", "--steps", "0"], "--steps: .*"),
        (["0.1", "--steps", "-3"], "--steps: .*"),
        (["0.1", "--steps", "1" + "0" * 19], "--steps: .*"),
        (["0.1", "--steps", "1" + "0" * 30], "--steps: .*"),
        (["Exponential(0.1, 10)"], r"Exponential\(lr=0.1, rate=10.0\) overflows at t = .*"),
        (["0.1", "--out", "missing/rates.png"], "--out: there is no directory .*/missing"),
        (
            ["0.1", "--out", "rates.xyz"],
            r"--out: expected a name that ends in one of .*\.png .*, got rates\.xyz",
        ),
        (["0.1", "--out", "rates"], r"--out: expected a name that ends in one of .*\.png .*, got rates"),
        (["0.1", "--out", "."], r"--out: expected the name of a file, got the directory \."),
        ([], "schedule: expected at least one; lrcore plot --list lists them"),
        (["0.1"] * 36, "schedule: expected at most 35 in one chart, got 36"),
        (["Exponential(0.1, 10)", "--out", "rates.png"], r"Exponential\(lr=0.1, rate=10.0\) overflows at .*"),
    ],
)
@pytest.mark.filterwarnings("default")
def test_command_refuses(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    """The message is one line. Python's warnings about the compiled text do not appear."""
    if "--out" in argv:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *argv]) == 2
    assert re.fullmatch(f"lrcore plot: {message}\n", capsys.readouterr().err)
    assert not recwarn.list
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_command_in_every_encoding(encoding: str) -> None:
    command = [sys.executable, "-m", "lrcore", "plot", COSINE, "--steps", "500"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert text.isascii() == (encoding != "utf-8")
    assert len(text.splitlines()) == 18


def test_command_without_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["plot", "0.1", "--out", str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err == 'lrcore plot: matplotlib is not installed: pip install "lrcore[plot]"\n'
    assert main(["plot", "0.1"]) == 0
