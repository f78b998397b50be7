"""Fixtures: every rule, every backend. Tests marked `gpu` are skipped if no CUDA device works.

``--no-skips`` turns every skip into a failure, for environments that have everything the tests need.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import TypeVar

import pytest

import lrcore
from support import BACKENDS

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu`, with a reason, if no CUDA device works."""
    error = lrcore.info()["cuda_error"]
    if error is not None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device works here"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--no-skips``."""
    parser.addoption("--no-skips", action="store_true", help="report skipped tests as failures")


def pytest_configure() -> None:
    """Let SIGINT raise KeyboardInterrupt. Shells start background jobs with SIGINT ignored, and Python keeps that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped test as a failure, with ``--no-skips``."""
    report = yield
    return _without_skip(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Report a skipped module as a failure, with ``--no-skips``."""
    report = yield
    return _without_skip(report, collector.config)


def _without_skip(report: Report, config: pytest.Config) -> Report:
    if report.skipped and config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.fixture(params=lrcore.rules())
def rule(request: pytest.FixtureRequest) -> str:
    """Return each rule in turn."""
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield each backend that runs here in turn; it is in use during the test."""
    with lrcore.use_backend(request.param):
        yield str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads after a test that changes it."""
    before = lrcore.info()["threads"]
    yield
    lrcore.set_num_threads(before)
