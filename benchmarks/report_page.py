"""Measures the report of 200 variants and 60 columns in headless Chromium: its first paint, and sorting a table.

python -m benchmarks.report_page
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

from normbench.results.report import render
from tests.results.tables_of_a_suite import MadeUp, write_tables

MADE_UP = MadeUp(variants=("batch_norm", *(f"variant_{number}" for number in range(199))), more=50)
SORT = """async column => {
  const size = grid => grid.querySelectorAll("td").length;
  const grid = [...document.querySelectorAll(".grid")].sort((a, b) => size(b) - size(a))[0];
  grid.scrollIntoView();
  const settled = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  await settled();
  const start = performance.now();
  grid.querySelectorAll("thead button")[column].click();
  await settled();
  const taken = performance.now() - start;
  return [grid.querySelectorAll("tbody tr").length, grid.querySelectorAll("thead th").length, taken];
}"""


def main() -> None:
    """Prints the size of the page, the time of its first paint, and the median time from a click to a sorted table."""
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        folder = Path(place)
        write_tables(folder / "tables", MADE_UP)
        page = folder / "report.html"
        page.write_text(render(folder / "tables"), encoding="utf-8")
        print(f"{page.stat().st_size / 1e6:.1f} MB")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        opened = browser.new_page(viewport={"width": 1280, "height": 900})
        opened.goto(page.as_uri())
        opened.wait_for_timeout(1000)
        paint = opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        print(f"first paint after {paint:.0f} ms")
        opened.evaluate(SORT, 0)  # Large tables are made ready for sorting when they are first seen.
        opened.wait_for_timeout(1000)
        found = [opened.evaluate(SORT, column) for column in (1, 5, 20, 40, 0)]
        print(f"{found[0][0]} rows, {found[0][1]} columns: sorted in {median(each[2] for each in found):.0f} ms")
        browser.close()


if __name__ == "__main__":
    main()
