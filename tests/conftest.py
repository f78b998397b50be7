"""Fixtures: every rule, every backend. Tests marked `gpu` are skipped where no CUDA device works.

With ``--no-skips`` a test that is skipped has failed, for environments that have all that the tests need.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TypeVar

import pytest

import lrcore
from support import BACKENDS

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, by name, where none works."""
    error = lrcore.info()["cuda_error"]
    if error is not None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device works here"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--no-skips``."""
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a failure of a skip."""
    report = yield
    return _without_skip(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make a failure of a module that is skipped."""
    report = yield
    return _without_skip(report, collector.config)


def _without_skip(report: Report, config: pytest.Config) -> Report:
    if report.skipped and config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped: {report.longrepr}"
    return report


@pytest.fixture(params=lrcore.rules())
def rule(request: pytest.FixtureRequest) -> str:
    """Each rule in turn."""
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that runs here in turn, in use during the test."""
    with lrcore.use_backend(request.param):
        yield str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back after a test that changes it."""
    before = lrcore.info()["threads"]
    yield
    lrcore.set_num_threads(before)
