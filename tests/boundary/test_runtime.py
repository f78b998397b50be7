"""Backends, threads, `lrcore.info`, and the environment variables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import __main__ as lrcore_command
from lrcore import _lrcore_core
from opcodes import at_each_opcode, interrupt
from support import BACKENDS, assert_runs, python, run_in_threads

in_use = _lrcore_core.active_backend
ONES = np.ones(3, np.float32)


def test_backends_are_listed_best_first() -> None:
    names = lrcore.backends()
    # Roots by products take less time than the divider's on Intel's processors alone.
    is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    of_avx512 = ["avx512_pair", "avx512"] if is_intel else ["avx512", "avx512_pair"]
    assert names == [name for name in (*of_avx512, "avx2", "portable", "cuda") if name in names]
    assert "portable" in names
    assert ("cuda" in names) == (lrcore.info()["cuda_error"] is None)
    if not os.environ.get("LRCORE_BACKEND"):
        assert lrcore.info()["backend"] == names[0]
    with lrcore.use_backend("emulated"):  # a backend for tests only
        assert lrcore.info()["backend"] == "emulated"
        assert "emulated" not in (*lrcore.backends(), *lrcore.info()["architectures"])


@pytest.fixture
def two() -> Iterator[tuple[str, str, str]]:
    """Yield the backend in use and two others; restore the first one afterwards."""
    before = in_use()
    others = [each for each in reversed(BACKENDS) if each != before]
    if len(others) < 2:
        pytest.skip("this CPU does not run a third backend")
    yield before, others[0], others[1]
    lrcore.use_backend(before)
    assert in_use() == before


BLOCKS = {
    "a()": "AA.",
    "a(b)": "AABB",
    "a(!)": "AAA.",
    "a.()": "A.A.",
    "a(b())": "AABABB",
    "a(b[])": "AABBA.",
    "a(b[)]": "AABBB.",
    "b[a()]": "BBAAB.",
    "b[a(])": "BBAAA.",
    "ab([)]": "ABABB.",
    "ba([])": "BAABA.",
    "ba[(])": "BABAA.",
    "a(b[(())])([()])": "AABBAAABA.ABABA.",
}
"""Actions on two objects, a and b, and the backend in use after each action.

Actions: a letter calls `use_backend` and keeps the object that it returns; a dot chooses the initial backend;
"!" is a call that is refused; () enter and leave a block of a, and [] a block of b. Backends: A or B is the
backend of that object, a dot the initial one.
"""


@pytest.mark.parametrize("signs", BLOCKS)
def test_the_latest_call_or_block_that_stands_is_in_use(signs: str, two: tuple[str, str, str]) -> None:
    """Choices apply to all threads. A block only undoes its own choice; a call within it stays in effect."""
    before, *names = two
    made: dict[str, Any] = {}

    def act(sign: str) -> None:
        if sign == "!":
            with pytest.raises(ValueError, match="^backend: "):
                lrcore.use_backend("fast")
        elif sign == ".":
            lrcore.use_backend(before)
        elif sign in "ab":
            made[sign] = lrcore.use_backend(names["ab".index(sign)])
        elif sign in "([":
            made["ab"["([".index(sign)]].__enter__()
        else:
            assert made["ab"[")]".index(sign)]].__exit__(ZeroDivisionError, None, None) is None

    for place, (sign, after) in enumerate(zip(signs, BLOCKS[signs], strict=True)):
        run_in_threads(1, lambda _, sign=sign: act(sign))  # type: ignore[misc]
        assert in_use() == dict(zip(".AB", two, strict=True))[after], signs[: place + 1]


def test_choices_before_any_opcode_of_a_block(two: tuple[str, str, str]) -> None:
    """Code such as a signal handler can choose a backend, with a block or a call, at any opcode of a block.

    The inner block leaves no trace; the call stays in effect after the outer block.
    """
    before, name, other = two

    def block(name: str) -> None:
        with lrcore.use_backend(name):
            assert in_use() in (name, other)

    for _ in at_each_opcode(lambda: block(name), lambda: block(other)):
        assert in_use() == before
    for _ in at_each_opcode(lambda: block(name), lambda: lrcore.use_backend(other)):
        assert in_use() == other
        lrcore.use_backend(before)


def test_choices_that_no_longer_matter_are_forgotten(two: tuple[str, str, str]) -> None:
    before, name, _ = two
    kept = [lrcore.use_backend(name) for _ in range(100)]
    for _ in range(100):
        lrcore.use_backend(name)
        with lrcore.use_backend(before):
            pass
    assert len(lrcore._runtime._choices) <= 3
    with kept[50]:
        assert in_use() == name
    lrcore.use_backend(before)
    assert len(lrcore._runtime._choices) <= 3


@pytest.mark.parametrize("name", ["sse2", "cuda", "", "AVX2", "\ud800"])
def test_unknown_backend(name: str) -> None:
    before = in_use()
    shown = re.escape(name.encode("utf-8", "backslashreplace").decode())
    with pytest.raises(ValueError, match=f"^backend: expected one of .*portable, got '{shown}'"):
        lrcore.use_backend(name)
    with pytest.raises(TypeError, match="^backend: expected a name, got int"):
        lrcore.use_backend(3)  # type: ignore[arg-type]
    assert in_use() == before


def test_a_backend_that_this_cpu_lacks() -> None:
    missing = set(lrcore.info()["architectures"]) - set(lrcore.backends())
    if not missing:
        pytest.skip("this CPU runs every backend that was built")
    for name in missing:
        with pytest.raises(RuntimeError, match=f"^backend: this CPU cannot run '{name}'"):
            lrcore.use_backend(name)


def test_environment() -> None:
    """The environment is read at import time, and never afterwards."""
    assert_runs(
        """
        import os
        os.environ.update(LRCORE_BACKEND="emulated", LRCORE_NUM_THREADS="many")
        assert (lrcore.info()["backend"], lrcore.info()["threads"]) == ("portable", 3)
        """,
        LRCORE_BACKEND="portable",
        LRCORE_NUM_THREADS="3",
    )
    is_best = 'assert lrcore.info()["backend"] == lrcore.backends()[0]'
    assert_runs(is_best, LRCORE_BACKEND="", LRCORE_NUM_THREADS="")


def test_wrong_values_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = in_use(), _lrcore_core.num_threads()
    number = "expected an integer from 1 to 2147483647, got '"
    wrong: list[tuple[str, Callable[[str], object], str, tuple[str, ...]]] = [
        ("LRCORE_BACKEND", _lrcore_core.use_backend, "backend: expected one of ", ("fast", "cuda", "AVX2", "\udcff")),
        ("LRCORE_NUM_THREADS", lrcore._runtime._use_threads, number, ("0", "many", "1.5", str(2**31), "9" * 5000, "\udcff")),
    ]  # fmt: skip
    for variable, choose, words, values in wrong:
        for value in values:
            monkeypatch.setenv(variable, value)
            (error,) = lrcore._runtime._apply_environment(variable, choose)
            assert str(error).startswith(f"{variable}: {words}")
            assert len(str(error)) < 200
    assert (in_use(), _lrcore_core.num_threads()) == before


@pytest.mark.parametrize("variable", ["LRCORE_BACKEND", "LRCORE_NUM_THREADS"])
def test_a_wrong_environment_is_refused_at_each_use(variable: str) -> None:
    """The import and functions that use neither setting do not raise an error.

    The program may not need the settings.
    """
    assert_runs(
        f"""
        ones = np.ones(3, np.float32)
        for use in (
            lambda: lrcore.Adam(ones),
            lambda: lrcore.functional.sgd(ones, ones, step=1, lr=0.5),
            lrcore.info,
        ):
            for _ in range(2):
                try:
                    use()
                except ValueError as error:
                    assert str(error).startswith("{variable}: ") and "got 'fast'" in str(error)
                else:
                    raise AssertionError(use)
        assert (ones == 1).all()
        assert lrcore.schedules.parse("Cosine(0.5, steps=10).warmup(5)")(5) == 0.5
        assert lrcore.plot.schedules
        assert lrcore.Pack({{"w": (3, 2)}}).flat.size == 6
        assert lrcore.rules() and "portable" in lrcore.backends()
        """,
        **{variable: "fast"},
    )


@pytest.fixture
def begin_wrongly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Yield a function that simulates an import with two invalid variables set; then restore the state."""
    runtime = lrcore._runtime
    before, threads = in_use(), lrcore.info()["threads"]
    errors = [ValueError(f"{name}: wrong") for name in ("LRCORE_BACKEND", "LRCORE_NUM_THREADS")]
    outside = runtime._Choice(before, lambda: None, errors[:1])
    monkeypatch.setattr(runtime, "_choices", [])
    monkeypatch.setattr(runtime, "_threads_errors", [])

    def begin() -> None:
        _lrcore_core.use_backend(before)
        _lrcore_core.set_num_threads(threads)
        runtime._choices[:] = [outside]
        runtime._threads_errors[:] = errors[1:]

    begin()
    yield begin
    begin()


def limit_by_threadpoolctl(count: int) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    lrcore.register_threadpoolctl()
    threadpoolctl.threadpool_limits(count, user_api="lrcore")


def refusal() -> str:
    """Return the variable that the error names when an optimizer is constructed."""
    with pytest.raises(ValueError, match=": wrong$") as refused:
        lrcore.SGD(ONES.copy())
    return str(refused.value).partition(":")[0]


@pytest.mark.usefixtures("begin_wrongly")
@pytest.mark.parametrize("limit", [lrcore.set_num_threads, limit_by_threadpoolctl])
def test_a_choice_of_the_program_answers_a_wrong_variable(limit: Callable[[int], object]) -> None:
    """The error for a variable persists after a refused choice, and after a choice of the other setting.

    A block suppresses the error while it lasts. An optimizer made in the block keeps working after it.
    """
    for no_answer in (lambda: lrcore.use_backend("faster"), lambda: lrcore.set_num_threads(0)):
        with pytest.raises(ValueError, match="^(backend|num_threads): expected"):
            no_answer()
    assert refusal() == "LRCORE_BACKEND"
    with lrcore.use_backend("portable"):
        assert refusal() == "LRCORE_NUM_THREADS"
    limit(2)
    p = ONES.copy()
    for _ in range(2):
        assert refusal() == "LRCORE_BACKEND"
        with lrcore.use_backend("portable"):
            opt = lrcore.SGD(p, lr=0.25, grads=ONES)
            opt.step()
        assert refusal() == "LRCORE_BACKEND"
        opt.step()
    assert (p == 0).all()
    with lrcore.use_backend("portable"):
        lrcore.use_backend("emulated")
    lrcore.functional.sgd(p, ONES, step=1, lr=0.5)
    assert (lrcore.info()["backend"], lrcore.info()["threads"]) == ("emulated", 2)


def test_answers_that_are_interrupted(begin_wrongly: Callable[[], None]) -> None:
    """If code raises or reads the state at any opcode, a choice is completely in effect or not at all."""
    others = [each for each in ("portable", "emulated") if each != in_use()]
    count = _lrcore_core.num_threads() + 1
    looked: set[str] = set()

    def look() -> None:
        try:
            info = lrcore.info()
        except ValueError as error:
            looked.add(str(error))
        else:
            looked.add("answered")
            assert (info["backend"], info["threads"]) == (others[0], count)

    def whole() -> None:
        begin_wrongly()
        lrcore.use_backend(others[0])
        lrcore.set_num_threads(count)

    for intrude in (interrupt, look):
        for _ in at_each_opcode(whole, intrude):
            look()
        assert looked == {"LRCORE_BACKEND: wrong", "LRCORE_NUM_THREADS: wrong", "answered"}
        looked.clear()


@pytest.mark.usefixtures("begin_wrongly")
def test_commands_in_a_wrong_environment(capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that use the backend or the threads print one line with the error; other commands work."""
    for arguments in (["info"], ["bench", "--rules", "sgd", "--sizes", "100", "--rounds", "1"]):
        assert lrcore_command.main(arguments) == 2
        assert capsys.readouterr() == ("", f"lrcore {arguments[0]}: LRCORE_BACKEND: wrong\n")
    assert lrcore_command.main(["plot", "Cosine(0.1, steps=80)"]) == 0
    assert capsys.readouterr().err == ""


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The output lists each command, and examples that use existing commands."""
    assert lrcore_command.main([]) == 0
    said = capsys.readouterr().out
    for each in lrcore_command.COMMANDS:
        assert re.search(rf"^ +{each.name} +{each.help}$", said, re.MULTILINE)
    examples = re.findall(r"^  lrcore (\w+) ", said.partition("examples:\n")[2], re.MULTILINE)
    assert len(examples) >= 3
    assert {*examples} <= {each.name for each in lrcore_command.COMMANDS}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity mask")
def test_threads_follow_the_affinity_mask() -> None:
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import lrcore; "
    assert python(bind + "print(lrcore.info()['threads'])").stdout == "1\n"


def test_threadpoolctl_sees_and_limits_the_threads() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    lrcore.register_threadpoolctl()
    before = lrcore.info()["threads"]
    (ours,) = [each for each in threadpoolctl.threadpool_info() if each["user_api"] == "lrcore"]
    assert ours["num_threads"] == before
    assert ours["version"] == lrcore.__version__
    with threadpoolctl.threadpool_limits(before + 1, user_api="lrcore"):
        assert lrcore.info()["threads"] == before + 1
    assert lrcore.info()["threads"] == before


def test_info() -> None:
    info = lrcore.info()
    assert set(info) == {
        "version", "compiler", "fp_mode", "cuda", "architectures", "cuda_architectures", "cpu", "backends", "backend",
        "threads", "devices", "cuda_error",
    }  # fmt: skip
    assert bool(info["cuda_architectures"]) == info["cuda"]
    assert (info["devices"] == ["cpu"]) == isinstance(info["cuda_error"], str)
    assert info["threads"] >= 1
    assert (info["version"], info["cpu"] != "") == (lrcore.__version__, True)
    moved = {name: rule.bytes_per_element for name, rule in lrcore.rules().items()}
    assert (moved["sgd"], moved["lion"], moved["adam"], moved["adam_amsgrad"]) == (12, 20, 28, 36)


def test_import_brings_nothing_heavy() -> None:
    """NumPy is the only dependency; nothing is compiled or started at import."""
    done = python(
        """
        import os, sys, threading
        def threads():  # an emulator has a thread of its own
            return os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task"))
        before = threads()
        import lrcore
        assert threading.active_count() == 1
        assert threads() == before
        for params in (iter([]), []):  # the error for PyTorch's parameters does not import PyTorch
            try:
                lrcore.SGD(params)
            except TypeError as error:
                assert "write lrcore.torch" not in str(error)
        print(*sys.modules)
        """,
        OPENBLAS_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    heavy = {"torch", "cupy", "sklearn", "matplotlib", "tqdm", "threadpoolctl", "scipy"}
    assert not heavy & {*done.stdout.split()}


def test_a_package_that_is_not_compiled_says_what_to_do() -> None:
    """A source tree has no compiled core. If another module is missing, the original error is raised."""
    done = python("import sys; sys.modules['lrcore._lrcore_core'] = None; import lrcore")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: lrcore._lrcore_core: expected the compiled extension, got none in {Path(lrcore.__file__).parent}; "
        "if that is the source tree, run `pip install .` in its root, and start Python in another directory"
    )
    done = python("import sys; sys.modules['numpy'] = None; import lrcore")
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: import of numpy halted")


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
def test_extensions_show_nothing_of_the_standard_library() -> None:
    """A process may load a second C++ standard library; symbols exported by both would be merged."""
    for extension in Path(_lrcore_core.__file__).parent.glob("_lrcore_*.so"):
        listing = ["nm", "-D", "--defined-only", "--format=posix", str(extension)]
        shown = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
        assert f"PyInit_{extension.name.partition('.')[0]}" in {line.split()[0] for line in shown}
        assert [line for line in shown if not line.startswith(("PyInit_", "lrcore_"))] == []
