"""Names and texts from outside that would act, in every place that takes one, do nothing in any file of results/."""

from __future__ import annotations

import csv
import re
import shutil
import unicodedata
from pathlib import Path

import pytest

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.cells import ACTS, NUMBER
from normbench.runs.record import Record
from normbench.system import files
from normbench.system.text import ACTING
from tests.results.made_up_suite import NAMES, OTHERS, SEEDS, SEVERITIES, TASK, place, write_suite
from tests.support.records import change

# Names of tasks and variants are names of folders too, and have no slash.
NAME = "=cmd|' C calc'!A0 `x` \\input{x} <script>ran()<b> [l](javascript:ran()) $x$ %&_#{} \u202eevil"
TEXT = "</script><script>ran()</script><img src=x onerror=ran()>\"'`|=1+1 \\input{/etc/passwd} {{7*7}} \u202e\u2066"
FREE = TEXT + "\x1b[2J\n\n| x |\n=2+2\x00\x07\u2028"  # of notes, which may have several lines
CLAIM = """
claims:
  evil:
    paper: {text}
    statement: {text}
    evidence:
      comparison: {{measure: clean_accuracy, of: {{method: group_norm}}, against: {{method: batch_norm}}}}
"""


def yaml_text(text: str) -> str:
    return '"' + "".join(f"\\U{ord(char):08X}" for char in text) + '"'


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/ of a suite in which everything that is text would act."""
    folder = tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_suite()
        corruptions = [TEXT, *NAMES[1:]]
        for variant, called in (("batch_norm", "batch_norm"), ("group_norm", NAME)):
            for seed in SEEDS:
                forged(Record.read(place(variant, seed)), called).write(place(called, seed, task=NAME))
        origin = Record.read(place(NAME, 0, task=NAME)).provenance
        origin.variant.write(Path(f"build/resolved/variants/{NAME}.json"))
        write_only = {"tasks": [NAME], "variants": ["batch_norm", NAME], "gan_tasks": [], "gan_variants": []}
        suite = files.read_json("build/resolved/suite.json") | write_only
        files.write_json("build/resolved/suite.json", suite)
        files.write_json("build/resolved/corruptions.json", {"names": corruptions, "severities": SEVERITIES, **OTHERS})
        Path("claims.yaml").write_text(CLAIM.format(text=yaml_text(TEXT)), encoding="utf-8")
        shutil.rmtree(place("batch_norm", 0).parents[1])
        assert TASK not in NAME
        aggregate()
        report()
    return folder / "results"


def forged(record: Record, variant: str) -> Record:
    """A record with other names and texts."""
    metrics, corrupted = dict(record.metrics), record.provenance.corrupted
    assert corrupted is not None
    accuracy = metrics["corruption_accuracy"]
    metrics["corruption_accuracy"] = {TEXT if name == NAMES[0] else name: each for name, each in accuracy.items()}
    metrics["columns"] = {"=x<script>": 0.5, TEXT: 0.25}
    metrics["missing"] = {"nll": TEXT}
    smoothness = metrics["smoothness"]
    smoothness["layers"][0]["name"] = TEXT
    smoothness |= {"why": TEXT} if "why" in smoothness else {}
    return change(
        record,
        metrics=metrics,
        provenance={
            "task": {"name": NAME, "model": TEXT, "model_options": {TEXT: TEXT}},
            "variant": {
                "name": variant,
                "method": "batch_norm" if variant == "batch_norm" else TEXT,
                "options": {TEXT: TEXT},
            },
            "dataset": {"name": TEXT, "note": FREE.replace("\x1b", "").translate({0: None, 7: None, 0x2028: None})},
            "corrupted": corrupted.model_copy(update={"names": [TEXT, *NAMES[1:]]}),
            "versions": {TEXT: TEXT},
            "device": {"name": TEXT, "cpu": TEXT, "system": TEXT},
        },
    )


def test_csv(results: Path) -> None:
    paths = sorted(results.rglob("*.csv"))
    assert len(paths) > 8
    seen = ""
    for path in paths:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(text.splitlines()))
        assert len({len(line) for line in lines}) == 1, path
        for cell in (cell for line in lines for cell in line):
            assert not cell.lstrip().startswith(ACTS) or NUMBER.fullmatch(cell), (path, cell)
            assert not {unicodedata.category(char) for char in cell} & ACTING, (path, cell)
        seen += text
    for part in ("<script>ran()<b>", "\\u202eevil", "{{7*7}}"):  # It was there.
        assert part in seen


def test_markdown(results: Path) -> None:
    for path in results.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<!\\)<(?!br>|/?small>|/?sub>)", text), path
        assert not re.search(r"(?<!\\)\]\(javascript", text), path
        assert not {unicodedata.category(char) for char in text.replace("\n", "")} & ACTING, path
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, (path, block)


def test_latex(results: Path) -> None:
    paths = list(results.rglob("*.tex"))
    assert any("input" in path.read_text(encoding="utf-8") for path in paths)
    for path in paths:
        text = path.read_text(encoding="utf-8")
        assert "\\input" not in text, path
        assert not {unicodedata.category(char) for char in text.replace("\n", "")} & ACTING, path


def test_json_is_data(results: Path) -> None:
    for path in results.rglob("*.json"):
        files.read_json(path)


def test_the_report_in_a_browser(results: Path) -> None:
    """No text became a script, an element or an address."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    wrong: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
        )
        page.add_init_script("window.times = 0; window.ran = () => { window.times += 1; }")
        page.goto((results / "report.html").as_uri())
        page.wait_for_load_state("load")
        page.wait_for_timeout(500)
        assert page.evaluate("window.times") == 0
        assert page.locator("img[src=x], [onerror]").count() == 0
        assert page.locator("a[href^='javascript']").count() == 0
        shown = page.locator("body").inner_text()
        browser.close()
    assert wrong == []
    assert "<script>ran()" in shown
    assert "{{7*7}}" in (results / "report.html").read_text(encoding="utf-8")
