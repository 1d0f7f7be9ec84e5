"""Suites with nothing of one kind, and records that are missing or not to be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from normbench.results.report import report
from normbench.results.tables import GAN, LEADERBOARD, aggregate
from normbench.results.tables.curves import CURVES
from normbench.system import files
from normbench.system.errors import UserError
from tests.results.made_up_suite import NAMES, OTHERS, classification_record, edit, place, rows, write_suite


def test_only_what_the_suite_names_is_read(suite: None) -> None:
    write_suite(variants=["group_norm", "batch_norm"], gan_tasks=[], gan_variants=[])
    place("conv_norm", 0).write_text("not JSON", encoding="utf-8")
    aggregate()
    assert {row["variant"] for row in rows("results/leaderboard.csv")} == {"group_norm", "batch_norm"}
    assert Path("results/gan.csv").read_text(encoding="utf-8") == ",".join(GAN) + "\n"


def test_tables_without_classification_have_their_header(suite: None) -> None:
    write_suite(tasks=[], variants=[], baseline=None)
    aggregate()
    for name, columns in (("leaderboard", LEADERBOARD), ("curves", CURVES)):
        assert Path(f"results/{name}.csv").read_text(encoding="utf-8") == ",".join(columns) + "\n"
    header = "task,variant,corruption,severity_1,severity_2,severity_3,severity_4,severity_5,mean,missing\n"
    assert Path("results/corruptions.csv").read_text(encoding="utf-8") == header
    assert Path("results/robustness.csv").read_text() == "task,variant,relative_mce,batch_mce,warnings,missing\n"
    assert Path("results/leaderboard.md").read_text(encoding="utf-8").count("\n|") == 2
    report()
    assert "mCE" not in Path("results/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("kind", "stage"), [("classification", "evaluate"), ("gan", "fid")])
def test_a_missing_record_is_named_and_leaves_the_old_tables(suite: None, kind: str, stage: str) -> None:
    aggregate()
    before = Path("results/leaderboard.csv").read_bytes()
    path = place("batch_norm", 1, kind)
    path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))) as error:
        aggregate()
    assert "\n" not in str(error.value)
    assert f"`python -m stages.{stage} --task {path.parts[3]} --variant batch_norm`" in str(error.value)
    assert Path("results/leaderboard.csv").read_bytes() == before


def test_a_record_of_an_older_version_is_one_line(suite: None) -> None:
    path = place("batch_norm", 1)
    files.write_json(path, files.read_json(path) | {"format": 1})
    with pytest.raises(
        UserError, match=f"{path}: is a record of another version of normbench, .*trained again"
    ) as error:
        aggregate()
    assert "\n" not in str(error.value)


def test_a_record_of_other_severities_is_refused(suite: None) -> None:
    files.write_json("build/resolved/corruptions.json", {"names": NAMES, "severities": [1, 2, 3, 4], **OTHERS})
    with pytest.raises(UserError, match=r"batch_norm/0\.json: evaluated on 19 corruptions at severities \[1, 2, 3"):
        aggregate()


def test_a_record_that_was_not_scored_is_refused(suite: None) -> None:
    whole = classification_record("conv_norm", 2).metrics
    trained = {name: whole[name] for name in ("history", "training_set", "clean_accuracy")}
    edit(place("conv_norm", 2), metrics=trained, provenance={"corrupted": None})
    with pytest.raises(UserError, match=r"conv_norm/2\.json: evaluated on 0 corruptions at severities \[\]") as error:
        aggregate()
    assert "`python -m stages.evaluate --task digits-resnet8 --variant conv_norm` again" in str(error.value)
