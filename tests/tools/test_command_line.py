"""Refused arguments, early exits and shell completion of the commands: messages, exit statuses and results."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lrcore
from lrcore import demo
from lrcore.__main__ import main
from lrcore.demo import _network, _training


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the line that a command prints when it refuses its arguments, with exit status 2."""
    try:
        status: Any = main(argv)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    return err.strip()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("demo --optimzer Adam", r"unexpected --optimzer; did you mean --optimizer\?"),
        ("demo --epoch=2 --sed=1", r"unexpected --sed=1; did you mean --seed\?"),
        ("plot 0.1 -x", "unexpected -x"),
        ("plot 0.1 --foo", "unexpected --foo"),
        ("info 3", "unexpected 3"),
        ("bench --rules adm", r"--rules: unknown name adm; did you mean adam\?"),
        ("bench --rules sgd zzz", "--rules: unknown name zzz; expected one of sgd, .*, lion, all"),
        ("bench --backends avx", r"--backends: unknown name avx; (did you mean avx\w+\?|expected one of .*)"),
        ("bench --sizes 1.5", "--sizes: expected a whole number, got 1.5"),
        ("bench --sizes inf", "--sizes: expected a whole number, got inf"),
        ("bench --rounds many", "--rounds: expected a whole number, got many"),
        ("plot 0.1 --steps 1e-3", "--steps: expected a whole number, got 1e-3"),
        ("demo --device tpu", "--device: invalid choice: 'tpu' .*"),
        ("paint", "command: invalid choice: 'paint' .*"),
    ],
)
def test_arguments_are_refused_in_one_line(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.split()
    program = "lrcore" if words[0] == "paint" else f"lrcore {words[0]}"
    assert re.fullmatch(f"{program}: {message}; see {program} --help", refusal(capsys, *words))


@pytest.mark.parametrize(
    ("written", "meant"), [("1e3", 1000), ("20", 20), ("2.0", 2), (f"1{'0' * 17}1", 10**18 + 1)]
)
def test_whole_numbers(written: str, meant: int) -> None:
    assert lrcore._command_line.whole_number(written) == meant


@pytest.mark.parametrize("command", [["bench", "--json"], ["demo", "--out"], ["plot", "0.1", "--out"]])
def test_a_file_that_cannot_be_written_is_refused_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "picture.png"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # because root may write to any file
    message = f"lrcore {command[0]}: {command[-1]}: no permission to write {path}"
    assert refusal(capsys, *command, str(path)) == message


@pytest.fixture
def ended_at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that ends the demo's training at a given step, by Ctrl-C or by a non-finite loss."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    steps = 0

    def set_end(step: int, loss: float | None = None) -> None:
        def computed(*arguments: Any) -> float:
            nonlocal steps
            if steps == step and loss is None:
                signal.raise_signal(signal.SIGINT)
            steps += 1
            return right(*arguments) if loss is None or steps <= step else loss

        monkeypatch.setattr(_training, "loss_and_gradient", computed)

    right = _network.loss_and_gradient
    return set_end


def test_an_interrupted_demo_reports_what_it_trained(
    ended_at: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    ended_at(30)
    assert main(["demo", "--epochs", "2", "--out", str(path)]) == 130
    out, err = capsys.readouterr()
    assert err == "lrcore demo: interrupted after 30 of 46 steps\n"
    assert re.search(r"^steps +30$", out, re.MULTILINE)
    assert float(re.findall(r"^test accuracy +(\S+)$", out, re.MULTILINE)[0]) > demo._command.GUESSING
    assert out.endswith(f"picture           {path}\n")
    assert path.stat().st_size > 0


def test_a_demo_that_is_interrupted_at_once_writes_nothing(
    ended_at: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    ended_at(0)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 130
    assert capsys.readouterr() == ("", "lrcore demo: interrupted after 0 of 690 steps\n")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_train_raises(ended_at: Any) -> None:
    ended_at(3)
    with pytest.raises(KeyboardInterrupt, match="^after 3 of 690 steps$"):
        demo.train()


def test_a_demo_whose_loss_overflows_reports_and_fails(
    ended_at: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "demo.png"
    ended_at(40, float("inf"))
    assert main(["demo", "--lr", "0.01", "--epochs", "2", "--out", str(path)]) == 2
    out, err = capsys.readouterr()
    assert err == "lrcore demo: lr: 0.01 is too large; the loss became inf at step 40\n"
    assert re.search(r"^diagnosis +diverging\nreason .*\nadvice .*$", out, re.MULTILINE)
    assert path.stat().st_size > 0


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_demo_that_learned_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    pytest.importorskip("tqdm")
    assert main(["demo", "--lr", "1000", "--out", str(tmp_path / "demo.png")]) == 2
    out, err = capsys.readouterr()
    assert re.search(r"^diagnosis +(?!sound)\w+.*\nreason .*\nadvice .*$", out, re.MULTILINE)
    message = r"lrcore demo: the training failed: an accuracy of [\d.]+% is hardly better than guessing\n"
    assert re.fullmatch(message, err)


def test_a_closed_pipe_is_silent() -> None:
    """The exit status is that of a program killed by SIGPIPE."""
    many = ["Cosine(0.1, 20)"] * 30
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "lrcore", "plot", *many]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("command", [["info"], ["plot", "0.1"]])
def test_a_command_without_stdout_ends_quietly(command: list[str]) -> None:
    """A shell closes stdout with ``>&-``."""
    words = [sys.executable, "-m", "lrcore", *command]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *words], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_argcomplete_completes(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    path = tmp_path / "completions"
    line = "lrcore demo --opt"
    environment = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(path),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "lrcore"], env=os.environ | environment, check=False)
    assert path.read_text(encoding="utf-8").split() == ["--optimizer"]
