"""The page of a suite that has variants or whole tasks without a run: it shows the rest, and says what is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.runs.record import Record
from normbench.runs.run import Kind
from tests.results.made_up_suite import (
    GAN_TASK,
    GAN_VARIANTS,
    SEEDS,
    TASK,
    VARIANTS,
    place,
    write_suite,
)
from tests.results.page import Page
from tests.support.records import change

pytestmark = pytest.mark.filterwarnings("error")
DASH = "\N{EN DASH}"


def page() -> Page:
    aggregate()
    report()
    return Page(Path("results/report.html").read_text(encoding="utf-8"))


def remove(variant: str, kind: Kind) -> None:
    for seed in SEEDS:
        place(variant, seed, kind).unlink()


def diverge(variant: str, kind: Kind) -> None:
    """Every run of a variant diverges early."""
    gan = kind is Kind.GAN
    for seed in SEEDS:
        path = place(variant, seed, kind)
        change(
            Record.read(path),
            status="diverged",
            diverged={"step": 12} if gan else {"epoch": 1, "step": 30},
            metrics={},
            cost={} if gan else {"epoch_seconds": [0.25]},
            provenance={} if gan else {"corrupted": None},
        ).write(path)


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("without", [remove, diverge])
@pytest.mark.parametrize("variant", ["conv_norm", "batch_norm"])
def test_a_variant_without_a_finished_run(without: Callable[[str, Kind], None], variant: str) -> None:
    without(variant, Kind.CLASSIFICATION)
    found = page()
    board = found.table("Clean accuracy")
    assert set(board) == set(VARIANTS)
    assert board[variant][:2] == [DASH, DASH]
    assert board["fantastic_four"][0] != DASH
    (note,) = re.findall(r"No run finished, hence no numbers and no marks in charts: ([^.]+)\.", found.prose)
    assert set(note.split(", ")) == {variant, "spectral_norm"}
    assert board[variant][-1] == ("3 diverged" if without is diverge else "3 left out")


@pytest.mark.usefixtures("suite")
@pytest.mark.parametrize("without", [remove, diverge])
@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.GAN])
def test_a_task_without_a_finished_run(without: Callable[[str, Kind], None], kind: Kind) -> None:
    for variant in GAN_VARIANTS if kind is Kind.GAN else VARIANTS:
        without(variant, kind)
    found = page()
    assert {TASK, GAN_TASK} <= set(found.ids)
    assert "No run of this task finished" in found.prose
    other = found.table("FID" if kind is Kind.CLASSIFICATION else "Clean accuracy")
    assert any(cells[0] != DASH for cells in other.values())


@pytest.mark.usefixtures("suite")
def test_a_suite_of_which_no_run_finished() -> None:
    for variant in VARIANTS:
        diverge(variant, Kind.CLASSIFICATION)
    for variant in GAN_VARIANTS:
        diverge(variant, Kind.GAN)
    found = page()
    assert found.prose.count("No run of this task finished") == 2
    assert len(found.table("Seed")) > 0


@pytest.mark.usefixtures("suite")
def test_a_suite_of_gans_alone() -> None:
    write_suite(tasks=[], variants=[], datasets=["digits"])
    found = page()
    assert TASK not in found.ids
    assert found.table("FID")["spectral_norm_alone"][0] != DASH
