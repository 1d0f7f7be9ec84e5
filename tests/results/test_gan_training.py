"""The training of GANs in the tables and the charts: against the histories of the records, and runs that failed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from normbench.gan.recipe import COLLAPSED
from normbench.results.charts import Chart, gan_charts, looks
from normbench.results.report import TABLES, read, report
from normbench.results.tables import aggregate
from normbench.results.tables.costs import cost
from normbench.results.tables.gan_training import failure, in_order
from normbench.system.errors import UserError
from tests.results.made_up_suite import (
    GAN_LAYERS,
    GAN_TASK,
    GAN_TIMES,
    GAN_VARIANTS,
    SEEDS,
    edit,
    edit_metrics,
    gan_history,
    kids,
    place,
    rows,
)
from tests.results.page import Page
from tests.support.records import record

FINISHED = {"batch_norm": [1, 2], "spectral_norm_alone": SEEDS}  # batch_norm with seed 0 diverged


def collapse(variant: str, seed: int, iteration: int = GAN_TIMES[1]) -> None:
    """Makes a record that of a run which collapsed."""

    def changed(metrics: dict[str, Any]) -> None:
        metrics["collapsed"] = {"step": iteration}
        for entry in metrics["history"]:
            if entry["iteration"] >= iteration:
                entry["diversity"] = 0.0421

    edit_metrics(place(variant, seed, "gan"), changed)


def drawn(keep: tuple[str, ...] = TABLES) -> dict[str, Chart]:
    """The charts of the GAN task, of some of the tables of build/tables."""
    tables = {name: read(Path(f"build/tables/{name}.csv")) for name in keep}
    return {chart.key: chart for chart in gan_charts(GAN_TASK, tables, looks(GAN_VARIANTS, GAN_VARIANTS[0]))}


def panels_of(chart: Chart) -> list[dict[str, Any]]:
    return chart.spec["concat"]


def thin(panel: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the runs that failed."""
    own = [layer["data"]["values"] for layer in panel["layer"] if "layer" in layer]
    return own[0] if own else []


def test_the_curves_are_the_histories_of_the_records(suite: None) -> None:
    aggregate()
    found = rows("results/gan_curves.csv")
    expected = [
        (GAN_TASK, variant, seed, entry)
        for variant in GAN_VARIANTS
        for seed in SEEDS
        for entry in gan_history(variant, seed)
    ]
    assert len(found) == len(expected) == 1 + 5 * len(GAN_TIMES)
    for row, (task, variant, seed, entry) in zip(found, expected, strict=True):
        assert (row["task"], row["variant"], row["seed"]) == (task, variant, str(seed))
        assert row["iteration"] == str(entry["iteration"])
        for name in ("discriminator_loss", "generator_loss", "diversity"):
            assert float(row[name]) == pytest.approx(entry[name], rel=1e-5)
        assert float(row["largest_norm"]) == pytest.approx(max(entry["spectral_norms"].values()), rel=1e-5)


def test_the_norms_have_every_layer_and_layers_are_in_their_order(suite: None) -> None:
    layers = {"layers.12": 1.5, "layers.9": 2.5, "head": 3.5, "layers.0": 0.5}
    path = place("spectral_norm_alone", 0, "gan")
    edit_metrics(path, lambda metrics: metrics["history"][-1].update(spectral_norms=layers))
    aggregate()
    found = rows("build/tables/gan_norms.csv")
    assert len(found) == (1 + 5 * len(GAN_TIMES)) * len(GAN_LAYERS) + 1
    own = [row for row in found if (row["variant"], row["seed"]) == ("spectral_norm_alone", "0")]
    last = {row["layer"]: float(row["norm"]) for row in own if row["iteration"] == str(GAN_TIMES[-1])}
    assert last == layers
    assert list(last) == ["head", "layers.0", "layers.9", "layers.12"]


def test_names_of_layers_are_sorted_by_their_numbers() -> None:
    names = ["layers.10", "layers.9.0", "layers.9", "b10", "b9", "head", "\N{SUPERSCRIPT TWO}", "9", "10"]
    found = sorted(names, key=in_order)
    assert [found.index(name) for name in ("layers.9", "layers.9.0", "layers.10")] == sorted(
        found.index(name) for name in ("layers.9", "layers.9.0", "layers.10")
    )
    assert found.index("b9") < found.index("b10")
    assert found.index("9") < found.index("10")


def test_the_kid_of_each_time_is_that_of_the_record_and_the_chart_has_their_mean(suite: None) -> None:
    aggregate()
    found = [(row["variant"], row["seed"], row["classifier_kid"]) for row in rows("results/gan_curves.csv")]
    assert found[0] == ("batch_norm", "0", "")  # It diverged, and was not scored.
    for variant, seeds in FINISHED.items():
        for seed in seeds:
            own = [float(kid) for name, each, kid in found if (name, each) == (variant, str(seed))]
            assert own == pytest.approx(kids(variant, seed), rel=1e-5)
    assert "inception_kid" not in rows("results/gan_curves.csv")[0]
    chart = drawn()["kid"]
    (panel,) = panels_of(chart)
    for row in panel["data"]["values"]:
        values = [kids(row["variant"], seed)[GAN_TIMES.index(row["iteration"])] for seed in FINISHED[row["variant"]]]
        assert row["value"] == pytest.approx(1000 * sum(values) / len(values), rel=1e-3)
    assert "at the end the means lie from -1 " in chart.alt
    assert (panel["data"]["values"][-1]["value"], thin(panel)) == (-1.0, [])


def test_kids_that_a_history_has_no_entry_for_are_a_mistake(suite: None) -> None:
    path = place("spectral_norm_alone", 0, "gan")
    with pytest.raises(UserError, match=r"metrics\.over_time\.classifier_kid: has 3 numbers, the history 4 entries"):
        edit_metrics(path, lambda metrics: metrics["over_time"]["classifier_kid"].pop())


@pytest.mark.parametrize("column", ["diversity", "discriminator_loss", "generator_loss"])
def test_a_chart_has_the_means_and_the_range_of_the_records(suite: None, column: str) -> None:
    aggregate()
    chart = drawn()["diversity" if column == "diversity" else "gan_losses"]
    panel = panels_of(chart)[1 if column == "generator_loss" else 0]
    found = {(row["variant"], row["iteration"]): row for row in panel["data"]["values"]}
    assert set(found) == {(variant, time) for variant in GAN_VARIANTS for time in GAN_TIMES}
    for (variant, time), row in found.items():
        values = [
            next(entry[column] for entry in gan_history(variant, seed) if entry["iteration"] == time)
            for seed in FINISHED[variant]
        ]
        assert row["value"] == pytest.approx(sum(values) / len(values), rel=1e-3)
        assert (row["low"], row["high"]) == (pytest.approx(min(values), rel=1e-3), pytest.approx(max(values), rel=1e-3))
    (broken,) = thin(panel)
    assert (broken["variant"], broken["seed"], broken["end"]) == ("batch_norm", 0, 1)


def test_the_chart_of_norms_has_a_menu_of_the_layers_with_their_means(suite: None) -> None:
    aggregate()
    chart = drawn()["spectral_norms"]
    (menu,) = [param for param in chart.spec["params"] if param["name"] == "layer"]
    labels = menu["bind"]["labels"]
    assert labels == ["largest of all layers", *sorted(GAN_LAYERS)]
    assert menu["bind"]["options"] == list(range(len(labels)))
    assert menu["value"] == 0
    (panel,) = panels_of(chart)
    found = {(row["variant"], row["iteration"], labels[row["layer"]]): row["value"] for row in panel["data"]["values"]}
    assert len(found) == len(panel["data"]["values"]) == len(GAN_VARIANTS) * len(GAN_TIMES) * len(labels)
    for (variant, time, layer), value in found.items():
        norms = [
            next(entry["spectral_norms"] for entry in gan_history(variant, seed) if entry["iteration"] == time)
            for seed in FINISHED[variant]
        ]
        values = [max(own.values()) if layer == labels[0] else own[layer] for own in norms]
        assert value == pytest.approx(sum(values) / len(values), rel=1e-3)


def test_a_run_that_collapsed_is_a_line_of_its_own_below_the_threshold(suite: None) -> None:
    collapse("spectral_norm_alone", 2)
    aggregate()
    chart = drawn()["diversity"]
    (panel,) = panels_of(chart)
    own = [row for row in thin(panel) if row["variant"] == "spectral_norm_alone"]
    assert [row["iteration"] for row in own] == GAN_TIMES
    assert own[-1]["value"] == 0.0421 < COLLAPSED
    assert [row.get("end") for row in own] == [None, None, None, 1]
    lines = [
        layer
        for layer in panel["layer"]
        if {row["value"] for row in layer.get("data", {}).get("values", [])} == {COLLAPSED}
    ]
    assert [layer["mark"]["type"] for layer in lines] == ["line", "text"]
    assert f"below the line at {COLLAPSED:g}" in chart.note


def test_runs_of_earlier_versions_have_losses_alone(suite: None, capsys: pytest.CaptureFixture[str]) -> None:
    def early(metrics: dict[str, Any]) -> None:
        for entry in metrics["history"]:
            del entry["diversity"], entry["spectral_norms"]

    for variant in GAN_VARIANTS:
        for seed in SEEDS:
            edit_metrics(place(variant, seed, "gan"), early)
    aggregate()
    assert {(row["diversity"], row["largest_norm"]) for row in rows("results/gan_curves.csv")} == {("", "")}
    assert {"diversity", "spectral_norms"}.isdisjoint(drawn())
    assert "gan_losses" in drawn()
    report()
    assert "Spectral norms" not in Page(Path("results/report.html").read_text(encoding="utf-8")).prose
    assert capsys.readouterr().err == ""


def test_tables_of_earlier_versions_have_no_such_charts(suite: None) -> None:
    aggregate()
    assert {"fid", "cost"} <= set(drawn(("gan", "runs", "speeds", "comparisons")))
    assert {"gan_losses", "diversity", "spectral_norms"}.isdisjoint(drawn(("gan", "runs", "speeds", "comparisons")))


def test_a_run_that_failed_says_why() -> None:
    gone = record(kind="gan", status="diverged", diverged={"step": 30})
    assert failure(gone) == "diverged: at iteration 31 a loss or a weight was not finite"
    history = [{"iteration": t, "discriminator_loss": 1.0, "generator_loss": 1.0, "diversity": 2 / t} for t in (20, 40)]
    same = record(kind="gan", metrics={"history": history, "collapsed": {"step": 20}})
    assert (
        failure(same)
        == "collapsed: from iteration 20 on the diversity of its samples was below 0.1, and at the end 0.05"
    )
    assert failure(record(kind="gan")) == ""


def test_the_page_names_the_runs_that_failed_with_the_reason(suite: None) -> None:
    collapse("spectral_norm_alone", 2)
    edit(place("batch_norm", 0, "gan"), diverged={"step": 12})
    aggregate()
    report()
    page = Page(Path("results/report.html").read_text(encoding="utf-8"))
    said = " ".join(page.prose.split())
    assert "batch_norm, seed 0 diverged: at iteration 13 a loss or a weight was not finite." in said
    assert (
        f"spectral_norm_alone, seed 2 collapsed: from iteration {GAN_TIMES[1]} on the diversity of its samples was below "
        "0.1, and at the end 0.0421." in said
    )
    assert "spectral_norm_alone, seed 0, which collapsed" not in said


def test_the_page_has_tables_of_the_training(suite: None) -> None:
    aggregate()
    report()
    text = Path("results/report.html").read_text(encoding="utf-8")
    last = [gan_history("spectral_norm_alone", seed)[-1] for seed in SEEDS]
    mean = sum(entry["diversity"] for entry in last) / 3
    folds = dict(re.findall(r"<summary>([^<]*)</summary>(.*?)</details>", text, re.DOTALL))
    assert f"{mean:.3g} " in folds["By iteration: diversity of samples"]
    assert {"By iteration: loss of the generator", "Spectral norms at the end"} <= set(folds)
    norms = Page(
        "<table>" + folds["Spectral norms at the end"].partition("<table>")[2].partition("</table>")[0] + "</table>"
    )
    assert [row[0].strip() for row in norms.rows] == ["Layer", *sorted(GAN_LAYERS)]


def test_the_page_has_all_scores(suite: None) -> None:
    for seed, kid in zip(SEEDS, (0.001, 0.002, 0.006), strict=True):
        found = {"columns": {"classifier_kid": kid, "classifier_recall": 0.5}}
        edit_metrics(place("spectral_norm_alone", seed, "gan"), lambda metrics, own=found: metrics.update(own))
    aggregate()
    report()
    shown = Page(Path("results/report.html").read_text(encoding="utf-8")).table("KID")
    assert shown["spectral_norm_alone"] == ["3.00 ± 2.65", "50.0 ± 0.0"]
    assert shown["batch_norm"] == ["\N{EN DASH}", "\N{EN DASH}"]


def test_speed_is_in_iterations_too_and_in_no_table_but_that_of_costs(suite: None) -> None:
    """A run of the made-up suite takes 64 images an iteration."""
    aggregate()
    costs = [row for row in rows("results/costs.csv") if row["kind"] == "gan"]
    assert [row["iterations_per_second"] for row in costs] == 2 * [f"{(2100 + seed) / 64:.2f}" for seed in SEEDS]
    assert {row["iterations_per_second"] for row in rows("results/costs.csv") if row["kind"] != "gan"} == {""}
    assert "iterations_per_second" not in rows("results/gan.csv")[0]
    report()
    board = Page(Path("results/report.html").read_text(encoding="utf-8")).rows
    assert any("32.8 ± 0.0" in " ".join(row) for row in board)


def test_steps_of_the_discriminator_belong_to_an_iteration() -> None:
    recipe = {"batch_size": 10, "discriminator_steps": 5}
    own = record(kind="gan", cost={"images_per_second": 700.0}, provenance={"task": {"recipe": recipe}})
    assert cost(own)["iterations_per_second"] == 14
