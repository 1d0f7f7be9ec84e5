"""What the scripts of the page do, in headless Chromium: sort, filter, columns, differences, comparison, runs, charts."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normbench.results.report import render
from tests.results.conftest import escaped_svg
from tests.results.tables_of_a_suite import TASK, MadeUp, write_tables

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)
NAMES = ("batch_norm", "group_norm", "no_norm", "conv_norm", "fantastic_four", "</script>\"'")
BOARD = f"#{TASK} > div:first-of-type"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("browser")
    write_tables(found / "tables", MadeUp(variants=NAMES))
    with pytest.MonkeyPatch.context() as patch:  # The drawings take seconds, and the script replaces them.
        patch.setattr("normbench.results.charts.chart.svg", lambda spec, alt: escaped_svg(alt))
        (found / "report.html").write_text(render(found / "tables"), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """The page in a window of its own; no test may leave an error in the console, or a request that leaves the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    opened = context.new_page()
    problems: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: problems.append(message.text))
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto((folder / "report.html").as_uri())
    yield opened
    context.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in requests)


def names(page: Any) -> list[str]:
    """The variants of the leaderboard that are shown, from top to bottom."""
    rows = page.locator(f"{BOARD} tbody tr:not([hidden])")
    return rows.evaluate_all("rows => rows.map(row => row.dataset.name)")


def cells(page: Any, head: str) -> list[str]:
    """The texts of a column of the leaderboard."""
    return page.evaluate(
        """([board, head]) => {
          const table = document.querySelector(`${board} table`);
          const at = [...table.tHead.rows[0].cells].findIndex(cell => cell.dataset.key === head);
          return [...table.tBodies[0].rows].map(row => row.cells[at].innerText.trim());
        }""",
        [BOARD, head],
    )


def test_sorting_by_click_and_key(page: Any) -> None:
    assert names(page) == list(NAMES)
    head = page.locator(f'{BOARD} th[data-key="mce"]')
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"  # where low values are good, these come first
    assert names(page) == list(NAMES)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page) == list(reversed(NAMES))
    clean = page.locator(f'{BOARD} th[data-key="clean_accuracy"]')
    clean.locator("button").focus()
    page.keyboard.press("Space")
    assert clean.get_attribute("aria-sort") == "descending"
    assert head.get_attribute("aria-sort") is None
    values = [float(text.split()[-3]) for text in cells(page, "clean_accuracy")]
    assert values == sorted(values, reverse=True)
    page.locator(f'{BOARD} th[data-key=""] button').click()
    assert names(page) == sorted(NAMES, key=lambda name: (name[0].isalpha(), name))


def test_empty_cells_come_last_in_both_directions(page: Any) -> None:
    button = page.locator(f'{BOARD} th[data-key="ratio"] button')
    for _ in range(2):
        button.click()
        assert names(page)[-1] == "group_norm"


def test_filtering_by_name_and_by_verdict(page: Any) -> None:
    page.locator(f"{BOARD} .filter").fill("NORM")
    assert names(page) == ["batch_norm", "group_norm", "no_norm", "conv_norm"]
    assert page.locator(f"{BOARD} .count").inner_text() == "4 of 6 rows"
    page.locator(f"{BOARD} select.verdict").select_option("worse")
    assert names(page) == ["conv_norm"]
    page.locator(f"{BOARD} .filter").fill("")
    assert names(page) == ["conv_norm", "fantastic_four", NAMES[-1]]
    page.locator(f"{BOARD} select.verdict").select_option("none")
    assert names(page) == ["batch_norm"]


def test_columns_come_and_go(page: Any) -> None:
    shown = page.locator(f'{BOARD} th[data-key="attack_fgsm"]')
    assert not shown.is_visible()
    page.locator(f"{BOARD} .menu summary").click()
    page.locator(f'{BOARD} .menu input[value="attack_fgsm"]').check()
    assert shown.is_visible()
    page.locator(f'{BOARD} .menu input[value="clean_accuracy"]').uncheck()
    assert not page.locator(f'{BOARD} th[data-key="clean_accuracy"]').is_visible()
    page.keyboard.press("Escape")
    assert not page.locator(f"{BOARD} .menu fieldset").is_visible()


def test_differences_to_a_variant(page: Any, folder: Path) -> None:
    before = cells(page, "clean_accuracy")
    page.locator(f"{BOARD} .reference").select_option("no_norm")
    with (folder / "tables/comparisons.csv").open(encoding="utf-8", newline="") as file:
        known = {
            (row["variant"], row["other"]): row for row in csv.DictReader(file) if row["measure"] == "clean_accuracy"
        }
    shown = dict(zip(names(page), cells(page, "clean_accuracy"), strict=True))
    assert shown["no_norm"] == "reference"
    for name in ("batch_norm", "conv_norm"):
        row, sign = (known[name, "no_norm"], 1) if (name, "no_norm") in known else (known["no_norm", name], -1)
        ends = sorted(sign * 100 * float(row[key]) for key in ("low", "high"))
        texts = [f"{value:+.2f}".replace("-", "\u2212") for value in (sign * 100 * float(row["difference"]), *ends)]
        assert shown[name].endswith("{} [{}, {}]".format(*texts))
        assert shown[name].startswith("\u2248")
    page.locator(f'{BOARD} th[data-key="clean_accuracy"] button').click()
    assert names(page)[0] == "batch_norm"
    page.locator(f"{BOARD} .reference").select_option("")
    assert sorted(cells(page, "clean_accuracy")) == sorted(before)


def test_two_variants_side_by_side(page: Any) -> None:
    pair = page.locator(f"#{TASK} .compare")
    pair.scroll_into_view_if_needed()
    pair.locator(".first").select_option("conv_norm")
    pair.locator(".second").select_option("batch_norm")
    table = pair.locator("table").first
    row = table.locator("tbody tr").first.locator("td").all_inner_texts()
    mirrored_verdict = {"\u25bc worse": "\u25b2 better"}
    assert row[3] == "\u25bc worse"
    assert row[2].startswith("\u2212")
    pair.locator(".swap").click()
    swapped = table.locator("tbody tr").first.locator("td").all_inner_texts()
    assert swapped[:2] == row[1::-1]
    assert swapped[2].startswith("+" + row[2].split()[0].removeprefix("\u2212"))
    assert swapped[3] == mirrored_verdict[row[3]]
    titles = pair.locator("summary").all_inner_texts()
    assert titles == ["Accuracy by corruption", "Accuracy by class"]
    assert pair.locator("table").nth(1).locator("tbody tr").count() == 19
    last = pair.locator("table").last.locator("td").all_inner_texts()
    assert last == ["90.00", "5.00", "3.00", "2.00"]
    pair.locator(".second").select_option("batch_norm")
    assert "Choose two different variants" in pair.inner_text()


def test_the_panel_of_a_run(page: Any) -> None:
    page.locator(f"{BOARD} tbody a").first.click()
    panel = page.locator("#panel")
    assert panel.is_visible()
    assert panel.locator("h2").inner_text() == f"batch_norm, seed 0, {TASK}"
    assert f"python -m stages.train --task {TASK} --variant batch_norm" in panel.inner_text()
    assert "git checkout 0123456789abcdef" in panel.inner_text()
    panel.get_by_text("seed 1", exact=True).click()
    page.wait_for_function("document.querySelector('#panel h2').textContent.includes('seed 1')")
    page.keyboard.press("Escape")
    assert not panel.is_visible()
    assert "#run-" not in page.url


def test_a_name_in_a_command_is_one_word(page: Any) -> None:
    page.locator(f"{BOARD} tbody a").last.click()
    assert "--variant '</script>\"'\"'\"''" in page.locator("#panel").inner_text()


def test_charts_are_interactive_once_they_are_seen(page: Any) -> None:
    figure = page.locator("figure.chart", has_text="Accuracy by corruption").first
    figure.scroll_into_view_if_needed()
    figure.locator("svg.marks").wait_for()
    before = figure.locator("svg.marks").inner_html()
    slider = figure.locator("input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([figure, before]) => figure.querySelector('svg.marks').innerHTML !== before",
        arg=[figure.element_handle(), before],
    )


def test_without_scripts_everything_is_there(browser: Any, folder: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto((folder / "report.html").as_uri())
    assert opened.locator(f"{BOARD} tbody tr").count() == len(NAMES)
    assert opened.locator("figure.chart svg").first.is_visible()
    assert not opened.locator(".tools").first.is_visible()
    assert opened.locator(f'{BOARD} th[data-key="attack_fgsm"]').is_visible()
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_keeps_anybody_out(scheme: str, width: int, browser: Any, folder: Path) -> None:
    """axe finds nothing, and only tables and charts are wider than the window."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened = context.new_page()
    opened.goto((folder / "report.html").as_uri())
    for figure in opened.locator("figure.chart").all()[:4]:
        figure.scroll_into_view_if_needed()
        figure.locator("svg.marks").wait_for()
    opened.locator(f"#{TASK} .compare").scroll_into_view_if_needed()
    opened.locator(f"#{TASK} .compare table").first.wait_for()
    opened.evaluate("for (const each of document.querySelectorAll('details.fold')) each.open = true")
    found = axe.run(opened)
    assert [(each["id"], each["nodes"][0]["html"]) for each in found.response["violations"]] == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_a_printed_page_has_everything_in_its_width(browser: Any, folder: Path) -> None:
    """On A4 no table is cut off, and a page that was read in the dark is black on white."""
    context = browser.new_context(viewport={"width": 794, "height": 1123}, color_scheme="dark")
    opened = context.new_page()
    opened.goto((folder / "report.html").as_uri())
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not opened.locator(".tools").first.is_visible()
    ends = opened.locator(f"#{TASK} table, #{TASK} figure.chart").evaluate_all(
        "all => all.filter(each => each.offsetParent).map(each => each.getBoundingClientRect().right)"
    )
    assert len(ends) > 3
    assert max(ends) <= 795
    assert opened.locator(f"{BOARD} tbody tr").count() == len(NAMES)
    context.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose table of scores is large."""
    found = tmp_path_factory.mktemp("large")
    variants = ("batch_norm", *(f"variant_{number}" for number in range(45)))
    write_tables(found / "tables", MadeUp(variants=variants, more=50, gan_tasks=(), gan_variants=()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normbench.results.charts.chart.svg", lambda spec, alt: escaped_svg(alt))
        (found / "report.html").write_text(render(found / "tables"), encoding="utf-8")
    return found / "report.html"


# The lines of the large table from top to bottom as they are seen, and as they are in the document.
LINES = """() => {
  const rows = [...document.querySelector(".large tbody").rows];
  const seen = rows.toSorted((a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top);
  return [seen, rows].map(each => each.map(row => row.dataset.name));
}"""


def test_a_large_table_is_sorted_at_once_and_the_document_follows(browser: Any, large: Path) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto(large.as_uri())
    table = opened.locator(".large").first
    table.scroll_into_view_if_needed()
    opened.locator(".loose").first.wait_for()
    before = opened.evaluate(LINES)[1]
    head = '.large th[data-key=""] button'
    seen, kept = opened.evaluate(f"() => {{ document.querySelector('{head}').click(); return ({LINES})(); }}")
    assert seen == sorted(before, key=lambda name: (name[0], int(name.rpartition("_")[2]) if name[0] == "v" else 0))
    assert kept == before
    opened.evaluate(f"document.querySelector('{head}').click()")  # while the document follows the first order
    opened.wait_for_function(f"() => {{ const [seen, rows] = ({LINES})(); return rows.join() === seen.join(); }}")
    assert opened.evaluate(LINES) == [seen[::-1], seen[::-1]]
    context.close()


@pytest.mark.parametrize("anchor", ["runs", "columns", TASK])
def test_links_lead_to_their_sections(anchor: str, browser: Any, large: Path) -> None:
    """Although what lies between is laid out only when it comes near."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.goto(large.as_uri())
    opened.locator(f'nav a[href="#{anchor}"]').click()
    top = f"Math.abs(document.getElementById('{anchor}').getBoundingClientRect().top - 16) < 3"
    bottom = "innerHeight + scrollY > document.documentElement.scrollHeight - 3"
    opened.wait_for_function(f"{top} || ({bottom})")
    opened.wait_for_timeout(500)
    assert opened.evaluate(f"{top} || ({bottom})")
    assert opened.locator(f"#{anchor} h2").first.is_visible()
    context.close()


# Of each drawn chart: its title, the panels' columns as `fit.js` has them, and how far it and its parts reach.
DRAWN = """() => [...document.querySelectorAll("figure.chart")].map(figure => {
  const place = figure.querySelector(".drawing").getBoundingClientRect();
  const picture = figure.querySelector("svg.marks").getBoundingClientRect();
  const views = [...figure.querySelectorAll("svg.marks [class*='concat_'] > g > path.background")]
    .map(each => each.getBoundingClientRect());
  const rows = new Set(views.map(each => Math.round(each.top)));
  return {
    title: figure.querySelector("h3").textContent, room: place.width, width: picture.width,
    panels: views.map(each => each.width), across: Math.round(views.length / rows.size),
  };
})"""


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_charts_fit_the_width(width: int, browser: Any, folder: Path) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.goto((folder / "report.html").as_uri())
    for figure in opened.locator("figure.chart").all():
        figure.scroll_into_view_if_needed()
        figure.locator("svg.marks").wait_for()
    found = opened.evaluate(DRAWN)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    for chart in found:
        assert 0.75 * chart["room"] <= chart["width"] <= chart["room"] + 1, chart
        assert all(panel >= 100 for panel in chart["panels"]), chart
    across = {chart["title"]: chart["across"] for chart in found if len(chart["panels"]) > 1}
    expected = {360: 1, 800: 2, 1400: 2}[width]
    assert across["Feature maps by depth"] == expected
    assert across["Norms of layers"] == 1  # of one column at any width
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_names_stand_beside_points_where_there_is_room(width: int, browser: Any, folder: Path) -> None:
    """On a phone the legend alone has them."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    opened = context.new_page()
    opened.goto((folder / "report.html").as_uri())
    figure = opened.locator("figure.chart", has_text="What accuracy costs").first
    figure.scroll_into_view_if_needed()
    figure.locator("svg.marks").wait_for()
    texts = figure.locator("svg.marks text").evaluate_all("all => all.map(each => each.textContent)")
    times = {name: texts.count(name) for name in NAMES}
    assert set(times.values()) <= {1, 2}
    assert max(times.values()) == (1 if width == 360 else 2), times
    context.close()


def test_charts_fit_again_when_the_window_changes(page: Any) -> None:
    figure = page.locator("figure.chart", has_text="Feature maps by depth").first
    figure.scroll_into_view_if_needed()
    figure.locator("svg.marks").wait_for()
    wide = figure.locator("svg.marks").bounding_box()["width"]
    page.set_viewport_size({"width": 400, "height": 900})
    page.wait_for_function(
        "figure => figure.querySelector('svg.marks').getBoundingClientRect().width < 400",
        arg=figure.element_handle(),
    )
    assert wide > 400
