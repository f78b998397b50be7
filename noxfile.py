"""What CI does, as sessions: ``nox -s tests``, ``nox -s lint``, ..."""

from __future__ import annotations

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests", "lint"]

CPP = ("csrc/*.h", "csrc/*.cpp", "csrc/*/*.h", "csrc/*/*.cpp", "csrc/*/*.cu", "bench/*.cpp")
PYPROJECT = nox.project.load_toml("pyproject.toml")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests against an installed build."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def peers(session: nox.Session) -> None:
    """Run the live comparisons with PyTorch, optax, Keras and transformers, and step the arrays of the first two.

    PyTorch's optimizers also give and take their state.
    """
    session.install("torch==2.13.0")  # the release that the stored vectors are from
    session.install("optax", "keras", "transformers", ".[test]")
    files = ("parity", "schedule_parity", "arrays", "torch_state", "search")
    session.run("pytest", *(f"tests/test_{each}.py" for each in files), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types; warnings are errors."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.install("numpy", "nox", "pytest", "hypothesis")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    files = session.run("git", "ls-files", *CPP, external=True, silent=True)
    session.run("clang-format", "--dry-run", "-Werror", *str(files).split())


@nox.session
def instructions(session: nox.Session) -> None:
    """Hold the instructions that each sweep takes against the recorded counts. Needs valgrind."""
    session.install(*PYPROJECT["build-system"]["requires"], "cmake", "ninja")
    session.run("python", "bench/instructions.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Give what reads files and texts whatever comes: ``nox -s fuzz -- -runs=1000000``. Atheris is there up to Python 3.13."""
    session.install(".[io]", "atheris>=3", env={"LRCORE_CUDA": "OFF"})
    for target in ("state_file", "schedule_text"):
        session.run("python", f"fuzz/{target}.py", *(session.posargs or ["-runs=20000", "-seed=1"]))


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests under AddressSanitizer and UndefinedBehaviorSanitizer."""
    # What a GPU would run is emulated on the host, so the sanitizers see it too.
    session.install(
        ".[test]", "--config-settings=cmake.define.LRCORE_SANITIZE=ON", env={"LRCORE_CUDA": "OFF"}
    )
    libraries = ("libasan.so", "libstdc++.so")  # the sanitizer looks for C++'s exceptions when it starts
    paths = [session.run("g++", f"-print-file-name={each}", external=True, silent=True) for each in libraries]
    # Python itself is not instrumented, and leaks at exit by design.
    env = {"LD_PRELOAD": " ".join(str(path).strip() for path in paths), "ASAN_OPTIONS": "detect_leaks=0"}
    session.run("pytest", *session.posargs, env=env)
