"""The page as a whole, of made-up tables: that it stands alone, and shows the numbers and verdicts of the tables."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from normbench.corruptions.constants import GROUPS
from normbench.results.page.leaderboard import unsaid
from normbench.results.page.run_panels import anchors, panels
from normbench.results.page.verdicts import Verdicts
from normbench.results.report import read, render, script_json
from normbench.results.words import effects, interval, quantity, resolution
from tests.results.page import Page
from tests.results.tables_of_a_suite import GAN_TASK, TASK, MadeUp, write_tables

DASH = "\N{EN DASH}"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    write_tables(folder)
    return folder


@pytest.fixture(scope="module")
def page(tables: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("normbench.results.vega.bundle", lambda: "window.vegaEmbed = async () => {};")
        return render(tables)


@pytest.fixture
def quick(plain_charts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither drawings nor the scripts that draw."""
    monkeypatch.setattr("normbench.results.vega.bundle", lambda: "")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def edit(path: Path, change: Any) -> None:
    """Changes the rows of a CSV file by a function."""
    found = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(found).to_csv(path, index=False)


def group(tables: Path, variant: str, members: tuple[str, ...]) -> float:
    """The mean accuracy of a variant on some corruptions, in percent."""
    found = [
        float(row["mean"])
        for row in rows(tables / "corruptions.csv")
        if row["variant"] == variant and row["corruption"] in members
    ]
    return 100 * sum(found) / len(found)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    found = Page(page)
    assert "link" not in found.seen
    assert len(found.ids) == len(set(found.ids))
    inner = [load.removeprefix("#") for load in found.loads if load.startswith("#")] + found.uses
    assert set(inner) <= set(found.ids)
    rest = [load for load in found.loads if not load.startswith("#")]
    assert all(load.startswith("data:image/png;base64,") for load in rest)
    outward = [link for link in found.links if not link.startswith("#")]
    assert {link.removeprefix("#") for link in found.links if link.startswith("#")} <= set(found.ids)
    assert all(link.startswith("https://arxiv.org/abs/") for link in outward)
    without = re.sub(r"<script.*?</script>|<svg xmlns=\"[^\"]+\"", "", page, flags=re.DOTALL)
    assert len(re.findall(r"https?://", without)) == len(outward)
    assert not re.search(r"url\((?!#)|@import", without)
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?<![\w.\"=)])/(home|tmp|root|work|usr)/", without)


def test_the_leaderboard_has_the_numbers_of_the_table(page: str, tables: Path) -> None:
    shown = Page(page).table("Clean accuracy")
    found = rows(tables / "leaderboard.csv")
    assert list(shown) == [row["variant"] for row in found]
    for row in found:
        cells = shown[row["variant"]]
        for place, name in ((0, "clean_accuracy"), (1, "corruption_accuracy")):
            assert cells[place] == f"{100 * float(row[name]):.2f} ± {100 * float(row[f'{name}_std']):.2f}"
        assert cells[2] == f"{float(row['mce']):.1f}"
        assert cells[3:8] == [f"{group(tables, row['variant'], members):.2f}" for members in GROUPS.values()]
        failed = int(row["failed"])
        assert cells[-2:] == [f"{row['finished']}/{row['runs']}", f"{failed} diverged" if failed else "0"]


def test_marks_are_the_verdicts_of_the_table(page: str, tables: Path) -> None:
    found = Page(page)
    start = next(place for place, row in enumerate(found.rows) if "Clean accuracy" in map(str.strip, row))
    verdicts = {
        row["variant"] if row["other"] == "batch_norm" else row["other"]: row["verdict"]
        for row in rows(tables / "comparisons.csv")
        if row["measure"] == "clean_accuracy" and "batch_norm" in (row["variant"], row["other"])
    }
    opposite = {"better": "worse", "worse": "better"}
    names = [row["variant"] for row in rows(tables / "leaderboard.csv")]
    for place, name in enumerate(names[1:], 2):
        expected = opposite.get(verdicts[name], verdicts[name])  # the baseline comes first in the table
        assert found.classes[start + place][1] & {"better", "worse", "indistinguishable"} == {expected}
    leads = [name for place, name in enumerate(names, 1) if "leads" in found.classes[start + place][1]]
    assert leads == ["batch_norm", *(name for name in names[1:] if verdicts[name] == "indistinguishable")]
    assert len(leads) < len(names)


def test_page_is_the_same_for_the_same_tables(tables: Path, quick: None) -> None:
    assert render(tables) == render(tables)


def test_every_variant_has_a_look_of_its_own_and_the_baseline_most_of_all(tmp_path: Path, quick: None) -> None:
    write_tables(tmp_path, MadeUp(variants=tuple(f"v{number}" for number in range(14)), gan_tasks=(), gan_variants=()))
    board = re.search(r"<tbody>(.*?)</tbody>", render(tmp_path), re.DOTALL)
    assert board is not None
    glyphs = re.findall(r'<path d="([^"]+)" fill="([^"]+)"', board[1])
    assert len(glyphs) == len(set(glyphs)) == 14
    assert [colour for _, colour in glyphs].count(glyphs[0][1]) == 1


def test_fewer_than_three_seeds_give_no_marks(tmp_path: Path, quick: None) -> None:
    write_tables(tmp_path, MadeUp(seeds=(0, 1)))
    text = render(tmp_path)
    found = Page(text)
    marked = {"better", "worse", "indistinguishable", "leads"}
    assert not any(classes & marked for row in found.classes for classes in row)
    assert "2 seeds a variant: a verdict needs three." in found.prose
    assert "would have been shown" not in found.prose
    assert "2 seeds, and a verdict needs 3" in data_of(text)["tasks"][TASK]["measures"][0]["reasons"]


def test_what_the_numbers_can_show_stands_below_the_table(page: str) -> None:
    prose = " ".join(Page(page).prose.split())
    assert "Tested on 360 images: one image is 0.28 points. 3 seeds a variant." in prose
    assert "clean accuracy 3 points" in prose  # the smallest effects of the made-up table


def test_recipes_list_what_differs_from_the_defaults(page: str) -> None:
    assert "resnet8 (width 16) on digits: epochs 4, batch_size 64, crop_padding 1. Computed in" in Page(page).prose


def test_certificates_of_nothing_are_a_sentence(page: str) -> None:
    found = Page(page)
    assert "The bounds certify no test image of any variant within 8/255 and 36/255." in found.prose
    assert not any("Certified" in map(str.strip, row) for row in found.rows)


def test_certificates_of_something_are_columns(tables: Path, tmp_path: Path, quick: None) -> None:
    shutil.copytree(tables, tmp_path / "t")
    edit(tmp_path / "t/smoothness.csv", lambda found: found.assign(certified_36="0.25"))
    found = Page(render(tmp_path / "t"))
    assert "certify no test image" not in found.prose
    assert any("Certified" in map(str.strip, row) for row in found.rows)


def test_the_robustness_table_has_spreads(page: str, tables: Path) -> None:
    shown = Page(page).table("Relative mCE")["group_norm"]
    values = [float(row["ece"]) for row in rows(tables / "runs.csv") if row["variant"] == "group_norm" and row["ece"]]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    assert shown[0] == f"{100 * mean:.2f} ± {100 * deviation:.2f}"


def test_speeds_that_cannot_be_compared_say_why(page: str) -> None:
    found = Page(page)
    speeds = {name: cells[11] for name, cells in found.table("Clean accuracy").items()}
    assert speeds["group_norm"] == DASH
    assert speeds["no_norm"] == "0.75"
    assert "timed side by side with other runs" in found.prose


def test_samples_of_all_seeds_stand_beside_real_images(page: str) -> None:
    pictures = re.findall(r'<img [^>]*alt="([^"]+)"', page)
    samples = [f"Samples of {name}, seed {seed}" for name in MadeUp().gan_variants for seed in MadeUp().seeds]
    assert pictures[: 1 + len(samples)] == ["A grid of real images", *samples]


def test_tables_that_only_some_suites_have(tables: Path, tmp_path: Path, quick: None) -> None:
    shutil.copytree(tables, tmp_path / "t")
    assert "Across tasks" not in Page(render(tmp_path / "t")).prose
    (tmp_path / "t/overall.csv").write_text(
        "variant,tasks,iqm,iqm_low,iqm_high,improvement,improvement_low,improvement_high,average_rank,"
        "critical_difference\nbatch_norm,2,0.9,0.85,0.95,0.5,0.4,0.6,1.5,1.25\n"
    )
    (tmp_path / "t/published.csv").write_text("task,variant,ours,verdict,note\nt,v,0.5,differs,<b>\n")
    (tmp_path / "t/claims.csv").write_text("claim,paper,statement,outcome,evidence\nc,p,s,supported,e\n")
    found = Page(render(tmp_path / "t"))
    assert found.table("Interquartile mean")["batch_norm"] == ["90.00 [85.00, 95.00]", "50.0 [40.0, 60.0]", "1.50"]
    assert "less than 1.25 are not told apart" in found.prose
    assert found.table("Statement")["c"] == ["p", "s", "supported", "e"]
    assert found.table("Ours")["t"] == ["v", "0.5", "differs", "<b>"]


def test_curves_are_a_table_of_the_finished_runs(page: str, tables: Path) -> None:
    """Of the last variant the run of the last seed diverged."""
    shown = {
        name: re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for name, row in table_of(page, "By epoch: training loss")
    }
    assert list(shown) == ["1", "2", "3", "4"]
    kept = [row for row in rows(tables / "curves.csv") if row["variant"] == "fantastic_four" and row["epoch"] == "2"]
    losses = [float(row["loss"]) for row in kept if row["seed"] in ("0", "1")]
    assert shown["2"][-1].startswith(f"{sum(losses) / 2:.3g} <")
    assert len(shown["2"]) == 1 + len(MadeUp().variants)


def test_energies_are_tables(tables: Path, tmp_path: Path, quick: None) -> None:
    """A block whose maps are too small for a band has no number."""
    shutil.copytree(tables, tmp_path / "t")
    small = {"energy_low": lambda found: found["energy_low"].where(found["block"] != "2", "0.0")}
    edit(tmp_path / "t/features.csv", lambda found: found.assign(**small))
    text = render(tmp_path / "t")
    assert len(re.findall(r"<summary>Spectral energy, %: ", text)) == 4
    (first, *_) = (row for _, row in table_of(text, "Spectral energy, %: low, to 1/6 cycle a pixel"))
    cells = [cell.partition(" ")[0] for cell in re.findall(r"<td[^>]*>(.*?)</td>", first)]
    assert cells == ["30", DASH, "30", DASH]


def table_of(page: str, label: str) -> list[tuple[str, str]]:
    """The rows of a folded table, each with its name."""
    found = re.search(rf"<summary>{re.escape(label)}.*?<tbody>(.*?)</tbody>", page, re.DOTALL)
    assert found is not None
    return re.findall(r'<tr data-name="([^"]+)">(.*?)</tr>', found[1])


def test_names_that_pandas_html_or_scripts_would_read_otherwise(tmp_path: Path, quick: None) -> None:
    names = (
        "batch_norm",
        "NA",
        "1",
        "null",
        "</script><script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "\"a'b",
    )
    write_tables(tmp_path, MadeUp(variants=names))
    text = render(tmp_path)
    found = Page(text)
    assert list(found.table("Clean accuracy")) == list(names)
    assert "<img src=x" not in text
    assert "alert(1)</script>" not in text
    assert data_of(text)["tasks"][TASK]["variants"] == list(names)


def test_values_in_scripts() -> None:
    value = {"</script>": "<!--", "&": "\u2028\u2029", "]]>": [None, 1.5, True]}
    text = script_json(value)
    assert json.loads(text) == value
    assert not re.search(r"[<>&\u2028\u2029]", text)
    with pytest.raises(ValueError, match="JSON"):
        script_json(math.nan)


def test_all_pairs_are_there_for_the_script(page: str, tables: Path) -> None:
    """The script finds a pair by its place in the order of `itertools.combinations`."""
    found = data_of(page)["tasks"]
    for task, measure, names in ((TASK, "clean_accuracy", MadeUp().variants), (GAN_TASK, "fid", MadeUp().gan_variants)):
        (data,) = [each for each in found[task]["measures"] if each["key"] == measure]
        assert found[task]["variants"] == list(names)
        known = {
            (row["variant"], row["other"]): row for row in rows(tables / "comparisons.csv") if row["measure"] == measure
        }
        for place, pair in enumerate(itertools.combinations(names, 2)):
            row = known[pair]
            for key, column in (("difference", "difference"), ("low", "low"), ("high", "high")):
                hundredths = (100 if measure == "fid" else 10_000) * float(row[column])
                assert abs(data[key][place] - hundredths) <= 0.5 + 1e-6
            assert data["p"][place] == pytest.approx(float(row["p_holm"]), rel=0.05)
            assert row["verdict"].startswith(data["verdict"][place])
            assert data["reasons"][ord(data["missing"][place]) - ord("a")] == row["missing"]


@pytest.mark.parametrize("table", ["agreement", "classes", "corruptions"])
def test_the_page_does_without_a_table(table: str, tables: Path, tmp_path: Path, quick: None) -> None:
    shutil.copytree(tables, tmp_path / "t")
    header = (tmp_path / f"t/{table}.csv").read_text().split("\n")[0]
    (tmp_path / f"t/{table}.csv").write_text(header + "\n")
    Page(render(tmp_path / "t"))


def comparisons(*pairs: tuple[str, str, float, str]) -> Verdicts:
    listed = [
        {"measure": "m", "variant": first, "other": second, "difference": difference, "low": difference - 1}
        | {"high": difference + 2, "p_holm": 0.5, "smallest_effect": 3.0, "verdict": verdict, "missing": "", "seeds": 3}
        for first, second, difference, verdict in pairs
    ]
    return Verdicts(pd.DataFrame(listed))


def test_a_comparison_from_its_other_side() -> None:
    found = comparisons(("a", "b", 0.5, "better"))
    there, back = found.of("m", "a", "b"), found.of("m", "b", "a")
    assert there is not None
    assert back is not None
    assert (back.difference, back.low, back.high, back.verdict) == (-0.5, -2.5, 0.5, "worse")
    assert back.reversed() == there
    assert found.of("m", "a", "a") is found.of("n", "a", "b") is None
    assert found.verdict("m", "a", None) == ""


@pytest.mark.parametrize(
    ("verdicts", "highest", "leaders"),
    [
        (("better", "better", "better"), True, {"a"}),
        (("indistinguishable", "better", "better"), True, {"a", "b"}),
        (("indistinguishable", "indistinguishable", "better"), True, {"a", "b", "c"}),
        (("better", "better", "indistinguishable"), False, {"b", "c"}),
        (("", "", ""), True, set()),
    ],
)
def test_leaders(verdicts: tuple[str, str, str], highest: bool, leaders: set[str]) -> None:
    """a is better than b, and b than c, if high values are good."""
    found = comparisons(
        *((*pair, 1.0, verdict) for pair, verdict in zip([("a", "b"), ("a", "c"), ("b", "c")], verdicts, strict=True))
    )
    assert found.leaders("m", {"a": 3.0, "b": 2.0, "c": 1.0, "d": math.nan}, highest) == leaders


def test_smallest_effects_are_those_against_the_baseline() -> None:
    found = comparisons(("a", "b", 1, ""), ("c", "a", 1, ""), ("b", "c", 1, ""))
    assert found.smallest_effects("m", "a") == [3.0, 3.0]
    assert found.smallest_effects("m", None) == []


def test_reasons_of_speeds() -> None:
    row = {"variant": "v", "images_per_second": math.nan, "seconds": 1.0, "ratio": math.nan}
    assert unsaid(row | {"missing": "ratio: side by side; images_per_second: too short"}) == {
        "ratio": "side by side",
        "images_per_second": "too short",
    }
    assert unsaid(row | {"missing": "no run: none finished"}) == dict.fromkeys(
        ("images_per_second", "ratio"), "no run: none finished"
    )
    assert unsaid(row | {"missing": math.nan}) == {}


def test_panels_have_all_of_every_run(tables: Path, page: str) -> None:
    described = json.loads((tables / "runs.json").read_text())
    data = data_of(page)
    found = [{key: data["pool"][place] for key, place in run.items()} for run in data["runs"].values()]
    assert found == described
    assert list(data["runs"]) == [f"run-{run['run']}" for run in described]
    assert set(data["runs"]) <= set(Page(page).ids)


def test_a_run_of_two_variants_has_two_panels(tables: Path) -> None:
    table = read(tables / "runs.csv").head(2).assign(run="abc")
    assert anchors(table) == ["run-abc", "run-abc-2"]
    described = json.loads((tables / "runs.json").read_text())[:2]
    assert list(panels(described, table)["runs"]) == ["run-abc", "run-abc-2"]


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (math.nan, math.nan, DASH),
        (0.0, 0.0, "0.00 ± 0.00"),
        (999.0, math.nan, "999.00"),
        (28_091.3, 4_401.69, "2.81 ± 0.44 \N{MULTIPLICATION SIGN}104"),
        (4.3e7, 5.8e7, "4.30 ± 5.80 \N{MULTIPLICATION SIGN}107"),
    ],
)
def test_large_numbers_have_a_power_of_ten(mean: float, deviation: float, text: str) -> None:
    assert quantity(mean, deviation).striptags() == text


@pytest.mark.parametrize(("images", "text"), [(359, "0.28"), (10_000, "0.010"), (50_000, "0.002"), (2, "50")])
def test_resolution(images: int, text: str) -> None:
    assert resolution(images) == f"one image is {text} points"


def test_intervals_and_effects() -> None:
    assert interval(-0.5, 1.25, ".2f") == "[\N{MINUS SIGN}0.50, +1.25]"
    assert interval(math.nan, math.nan, ".2f") == ""
    assert effects([0.012, 0.034], 100, "points") == "1.2 to 3.4 points"
    assert effects([2.0, 2.0], 1, "") == "2"
    assert effects([0.041, 4.87], 100, "points") == "4.1 to 490 points"
