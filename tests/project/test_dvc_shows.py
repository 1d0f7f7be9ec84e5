"""What `dvc metrics` and `dvc plots` show of tables, with the templates and settings of this checkout."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from playwright.sync_api import sync_playwright
from ruamel.yaml import YAML

from normbench.results.tables.metrics import metrics, write_metrics
from normbench.results.tables.table import PLAIN, Row, Table
from normbench.results.vega import bundle
from tests.support import forks
from tests.support.project import ROOT, environment

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
# What keeps a browser from calling home; what it then requests is the page's.
QUIET = "--disable-gpu --disable-background-networking --disable-component-update --disable-sync --disable-quic"
CLEAN = {"good": 0.98, "middle": 0.95, "poor": 0.9}
MEAN_IOU = {"good": 0.6, "middle": 0.5, "poor": 0.3}
FID = {"good": 3.5, "middle": 7.0, "poor": 20.0}


class Shown:
    """A repository with made-up tables and the plots of dvc.yaml, but none of its stages."""

    def __init__(self, path: Path):
        self.path = path
        (path / "results").mkdir(parents=True)
        self.write("leaderboard", [board_row(name, value) for name, value in CLEAN.items()])
        self.write(
            "segmentation", [{"task": "s", "variant": name, "mean_iou": value} for name, value in MEAN_IOU.items()]
        )
        self.write(
            "gan", [{"task": "g", "variant": name, "fid": v, "fid_std": 0.5, "failed": 0} for name, v in FID.items()]
        )
        self.write(
            "curves",
            [
                {"task": "t", "variant": name, "seed": seed, "epoch": epoch, "loss": 2 / (epoch + seed + 1)}
                for name in CLEAN
                for seed in range(2)
                for epoch in range(1, 4)
            ],
        )
        self.git("init", "--quiet")
        self.dvc("init", "--quiet")
        shutil.copytree(ROOT / ".dvc/plots", path / ".dvc/plots")
        shutil.copy(ROOT / ".dvc/config", path / ".dvc/config")
        whole = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
        with (path / "dvc.yaml").open("w", encoding="utf-8") as file:
            YAML().dump({key: whole[key] for key in ("metrics", "plots")}, file)

    def write(self, name: str, rows: list[Row]) -> None:
        text = Table(dict.fromkeys(rows[0], PLAIN), rows).csv()
        (self.path / f"results/{name}.csv").write_text(text, encoding="utf-8")

    def git(self, *arguments: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, cwd=self.path, check=True, capture_output=True)

    def dvc(self, *arguments: str) -> str:
        done = forks.run("-m", "dvc", *arguments, cwd=self.path, env=environment(ROOT))
        assert done.returncode == 0, done.stderr
        return done.stdout


def board_row(name: str, value: float) -> Row:
    row: Row = {"task": "t", "variant": name, "clean_accuracy": value, "clean_accuracy_std": 0.01}
    row |= {"corruption_accuracy": value - 0.1, "corruption_accuracy_std": math.nan}
    return row | {"mce": 100 * (1 - value), "failed": 1}


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("shown") / "repository")


@pytest.fixture(scope="module")
def specs(shown: Shown) -> dict[str, Any]:
    """The filled specification of each plot, by its title."""
    found = json.loads(shown.dvc("plots", "show", "--json"))
    assert "errors" not in found
    return {name: plot[0]["content"] for name, plot in found["data"].items()}


@pytest.mark.parametrize("title", ["clean accuracy", "corruption accuracy", "mean IoU", "FID"])
def test_the_best_is_at_the_top(specs: dict[str, Any], title: str) -> None:
    picture = vl_convert.vegalite_to_svg(specs[title])
    labels = re.findall(r"<text [^>]*translate\([-\d.]+,([-\d.]+)\)[^>]*>(good|middle|poor)</text>", picture)
    assert [name for _, name in sorted(labels, key=lambda label: float(label[0]))] == ["good", "middle", "poor"]


def test_losses_have_a_line_and_a_band_for_each_variant(specs: dict[str, Any]) -> None:
    picture = vl_convert.vegalite_to_svg(specs["training loss"])
    for mark in ("line", "area"):
        assert len(re.findall(rf'aria-roledescription="{mark} mark"', picture)) == len(CLEAN)


@pytest.fixture(scope="module")
def page(shown: Shown) -> Path:
    shown.dvc("plots", "show")
    return shown.path / "dvc_plots/index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *QUIET.split()])


def test_plots_need_no_network(page: Path, browser: Any) -> None:
    requests: list[str] = []
    errors: list[str] = []
    tab = browser.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    assert "build/vega.js, which is not here" in tab.inner_text("body")  # in a clone without results of its own
    scripts = page.parents[1] / "build/vega.js"
    scripts.parent.mkdir()
    scripts.write_text(bundle(), encoding="utf-8")
    tab.reload()
    tab.wait_for_function("document.querySelectorAll('svg.marks').length == 5")
    assert "not here" not in tab.inner_text("body")
    assert errors == []
    assert set(requests) == {page.as_uri(), scripts.as_uri()}


def test_metrics_have_a_row_for_each_variant(shown: Shown) -> None:
    board = [board_row(name, value) for name, value in CLEAN.items()]
    board[0] |= {"clean_accuracy": math.nan, "mce": math.nan}
    gan: list[Row] = [{"task": "g", "variant": "good", "fid": 3.5, "failed": 0}]
    write_metrics(metrics(board, gan, []), shown.path / "results/metrics")
    head, *lines = shown.dvc("metrics", "show").splitlines()
    assert head.split() == ["Path", "clean", "corrupted", "failed", "fid", "mce"]
    cells = {line.split()[0].removeprefix("results/metrics/"): line.split()[1:] for line in lines}
    assert cells == {
        "g/good.json": ["-", "-", "0", "3.5", "-"],
        "t/good.json": ["-", "0.88", "1", "-", "-"],
        "t/middle.json": ["0.95", "0.85", "1", "-", "5.0"],
        "t/poor.json": ["0.9", "0.8", "1", "-", "10.0"],
    }
    assert max(map(len, [head, *lines])) < 80
    shown.git("add", "--all")
    shown.git("commit", "--quiet", "-m", "one")
    board[1]["clean_accuracy"] = 0.96
    write_metrics(metrics(board[:2], gan, []), shown.path / "results/metrics")
    changed = json.loads(shown.dvc("metrics", "diff", "--json"))
    assert changed["results/metrics/t/middle.json"] == {
        "clean": {"old": 0.95, "new": 0.96, "diff": pytest.approx(0.01)}
    }
    assert changed["results/metrics/t/poor.json"]["mce"]["old"] == 10.0
    assert changed["results/metrics/t/poor.json"]["mce"]["new"] is None
    assert len(changed) == 2


def test_metrics_of_segmentation_fit_on_a_line(shown: Shown) -> None:
    row: Row = {"task": "s", "variant": "good", "mean_iou": 0.51, "corruption_mean_iou": 0.42, "failed": 0}
    row["pixel_accuracy"] = math.nan
    write_metrics(metrics([], [], [row]), shown.path / "results/metrics")
    lines = shown.dvc("metrics", "show").splitlines()
    assert [line.split() for line in lines] == [
        ["Path", "corrupted_iou", "failed", "mean_iou"],
        ["results/metrics/s/good.json", "0.42", "0", "0.51"],
    ]
    assert max(map(len, lines)) < 80
