"""The page in a browser: it follows the runs, shows a new report by itself, and acts on no name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normbench.runs.run import Kind, Run
from normbench.runs.under_way import Notes
from normbench.serve import page
from normbench.serve.server import Server
from tests.serve.conftest import GAN_TASK, TASK, VARIANTS, trained

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]
Suite = dict[tuple[Kind, str, str, int], Run]
REPORT = Path("results/report.html")


@pytest.fixture
def tab(served: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A tab that notes what is wrong: errors, dialogs, and requests to others than the server."""
    monkeypatch.setattr(page, "INTERVAL", 100)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page()
        wrong: list[str] = []
        found.on("pageerror", lambda error: wrong.append(str(error)))
        found.on("console", lambda message: wrong.append(message.text))
        found.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        found.on("request", lambda request: own in request.url or wrong.append(request.url))
        own = f"http://127.0.0.1:{served.server_port}/"
        found.goto(own)
        yield found
        browser.close()
    assert [text for text in wrong if "favicon.ico" not in text and "ERR_CONNECTION_REFUSED" not in text] == []


def test_it_follows_the_runs(tab: Any, suite: Suite) -> None:
    expect = playwright.expect
    bar = tab.locator("#normbench-progress")
    expect(tab.locator("h1")).to_have_text("No report yet")
    expect(bar.get_by_role("status")).to_have_text("0 of 8 runs trained, 8 waiting; 0 scored")
    expect(bar.locator("table")).to_be_hidden()

    Notes(suite[Kind.GAN, GAN_TASK, VARIANTS[1], 1].id)(0.25, "iteration 1/4, <img src=x onerror=alert(1)>")
    expect(bar.get_by_role("status")).to_have_text("0 of 8 runs trained, 1 running, 7 waiting; 0 scored")
    cells = [GAN_TASK, VARIANTS[1], "seed 1", "", "iteration 1/4, <img src=x onerror=alert(1)>"]
    expect(bar.locator("td")).to_have_text(cells)
    assert bar.locator("progress").evaluate("element => element.value") == 0.25
    assert bar.locator("img, td script").count() == 0

    trained(suite[Kind.GAN, GAN_TASK, VARIANTS[1], 1])
    expect(bar.get_by_role("status")).to_have_text("1 of 8 runs trained, 7 waiting; 0 scored")
    expect(bar.locator("table")).to_be_hidden()


def test_a_new_report_is_shown_by_itself(tab: Any) -> None:
    REPORT.parent.mkdir()
    for title in ("One", "Two"):
        new = REPORT.with_name("new")
        new.write_text(f"<!doctype html><html><body><h1>{title}</h1></body></html>")
        new.replace(REPORT)
        playwright.expect(tab.locator("h1")).to_have_text(title)
        playwright.expect(tab.locator("#normbench-progress")).to_be_visible()


def test_the_server_has_ended(tab: Any, served: Server) -> None:
    served.shutdown()
    served.server_close()
    playwright.expect(tab.get_by_role("status")).to_contain_text("normbench serve does not answer")


def test_it_is_not_printed(tab: Any, suite: Suite) -> None:
    Notes(suite[Kind.CLASSIFICATION, TASK, "v", 0].id)(0.5, "")
    playwright.expect(tab.locator("#normbench-progress")).to_be_visible()
    tab.emulate_media(media="print")
    playwright.expect(tab.locator("#normbench-progress")).to_be_hidden()
