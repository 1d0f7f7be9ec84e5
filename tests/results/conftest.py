"""The made-up suite in a folder of its own, and its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from markupsafe import Markup

from normbench.results.report import report
from normbench.results.tables import aggregate
from tests.results.made_up_suite import write_suite


@pytest.fixture
def plain_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts have no drawing, which takes most of the seconds of a page; their specifications stay."""
    monkeypatch.setattr("normbench.results.charts.chart.svg", lambda spec, alt: escaped_svg(alt))


def escaped_svg(alt: str) -> Markup:
    return Markup('<svg role="img" aria-label="{}"></svg>').format(alt)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_charts: None) -> None:
    """The working directory has the records of the suite."""
    monkeypatch.chdir(tmp_path)
    write_suite()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole suite was aggregated. Tests leave these files as they are."""
    path = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        write_suite()
        aggregate()
    return path


@pytest.fixture(scope="session")
def page(folder: Path) -> str:
    """The report of that suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report()
    return (folder / "results/report.html").read_text(encoding="utf-8")
