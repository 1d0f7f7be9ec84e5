"""`normbench diff` in small repositories, against what was written into them."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from normbench.cli import app
from normbench.results import revisions
from normbench.results.diff import diff, direction, is_measure
from normbench.results.tables.table import PLAIN, SHARE, Row, Table
from normbench.system.errors import UserError

SEEDS = 5
COLUMNS = {"kind": PLAIN, "task": PLAIN, "variant": PLAIN, "seed": PLAIN, "status": PLAIN, "clean_accuracy": SHARE}
COLUMNS |= {"fid": SHARE, "nll": SHARE, "own": SHARE, "peak_memory_mib": PLAIN, "run": PLAIN}
# Clean accuracies by seed; the noise of a seed is common to all variants.
NOISE = [0.0, 0.004, -0.004, 0.002, -0.002]


def a_run(task: str, variant: str, seed: int, **values: Any) -> Row:
    row: Row = {"kind": "classification", "task": task, "variant": variant, "seed": seed, "status": "finished"}
    row |= {"clean_accuracy": math.nan, "fid": math.nan, "nll": math.nan, "own": math.nan, "peak_memory_mib": 3}
    return row | {"run": f"{hash_of(task, variant, seed):016x}"} | values


def hash_of(*parts: object) -> int:
    return int.from_bytes("/".join(map(str, parts)).encode()[-8:], "big")


def runs(shifts: dict[str, float], seeds: int = SEEDS, **values: Any) -> list[Row]:
    """The runs of a task; each variant has the common noise, a little of its own, and its shift."""
    found = []
    for variant, shift in shifts.items():
        for seed in range(seeds):
            own = 0.0005 * np.random.default_rng([seed, *variant.encode()]).normal()
            found.append(a_run("t", variant, seed, clean_accuracy=0.9 + NOISE[seed] + own + shift, **values))
    return found


class Repository:
    """A git repository with the tables of results/."""

    def __init__(self, path: Path):
        self.path = path
        (path / "results").mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet")

    def git(self, *arguments: str) -> None:
        names = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        subprocess.run(["git", *arguments], cwd=self.path, env=os.environ | names, check=True, capture_output=True)

    def write(self, name: str, text: str) -> None:
        (self.path / "results" / name).write_text(text, encoding="utf-8")

    def write_runs(self, rows: list[Row]) -> None:
        self.write("runs.csv", Table(COLUMNS, rows).csv())

    def write_means(self, rows: list[Row], name: str = "leaderboard.csv") -> None:
        self.write(name, Table(dict.fromkeys(rows[0], PLAIN), rows).csv())

    def commit(self, name: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "-m", name)
        self.git("tag", name)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    return Repository(tmp_path)


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["diff", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def as_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed(*arguments, "--json"))
    return found


def test_nothing_has_moved(repository: Repository) -> None:
    repository.write_runs(runs({"a": 0, "b": 0.01}))
    repository.commit("one")
    assert printed("one") == "one -> the working tree\nno number that both have has moved\n"
    found = as_json("one", "one")
    assert [found[key] for key in ("added", "removed", "other_runs", "moved", "without_runs")] == [[]] * 5


def test_verdicts_are_those_of_paired_runs(repository: Repository) -> None:
    repository.write_runs(runs({"a": 0, "b": 0, "c": 0, "d": 0}))
    repository.commit("one")
    after = runs({"a": 0, "b": 0.02, "c": -0.02, "d": 0})
    for row in after:
        if row["variant"] == "d":  # as much up as down
            row["clean_accuracy"] += 0.003 * (-1) ** row["seed"] - 0.0006
        if row["variant"] != "a":
            row["run"] = f"{row['seed']:016x}"
        row["clean_accuracy"] += 0.0001 * row["seed"] * (row["variant"] == "b")
    repository.write_runs(after)
    repository.commit("two")
    found = as_json("one", "two")
    verdicts = {row["variant"]: row["verdict"] for row in found["moved"]}
    assert verdicts == {"b": "better", "c": "worse", "d": "indistinguishable"}
    old, new = (
        {(row["variant"], row["seed"]): round(row["clean_accuracy"], 5) for row in rows}
        for rows in (runs({"b": 0, "d": 0}), after)
    )
    p_values = []
    for row in found["moved"]:
        assert (row["measure"], row["seeds"], row["why"]) == ("clean_accuracy", SEEDS, "")
        if row["variant"] == "c":  # which differs by the same number in each run, so that its p-value is 0
            continue
        values = [[rows[row["variant"], seed] for seed in range(SEEDS)] for rows in (new, old)]
        test = stats.ttest_rel(*values)
        low, high = test.confidence_interval()
        assert [row["low"], row["high"]] == pytest.approx([low, high], abs=1e-9)
        assert row["change"] == pytest.approx(row["after"] - row["before"])
        assert [row["after"], row["before"]] == pytest.approx([np.mean(each) for each in values])
        p_values.append((test.pvalue, row["p_holm"]))
    p_values.sort()
    assert [adjusted for _, adjusted in p_values] == pytest.approx([2 * p_values[0][0], p_values[1][0]])
    assert {(run["variant"], run["seed"]) for run in found["other_runs"]} == {
        (v, s) for v in "bcd" for s in range(SEEDS)
    }
    text = printed("one", "two")
    assert "runs with another id: t b, seeds 0, 1, 2, 3, 4" in text
    assert "paired by seed" in text
    (line,) = [line for line in text.splitlines() if line.split()[:3] == ["t", "c", "clean_accuracy"]]
    assert line.split()[6:] == ["-2.00", "worse"]
    # The other way round, what was better is worse.
    turned = {row["variant"]: row["verdict"] for row in as_json("two", "one")["moved"]}
    assert turned == {"b": "worse", "c": "better", "d": "indistinguishable"}


@pytest.mark.parametrize(("measure", "verdict"), [("fid", "worse"), ("nll", "worse"), ("own", "")])
def test_a_rise_is_judged_by_the_measure(repository: Repository, measure: str, verdict: str) -> None:
    repository.write_runs([a_run("t", "a", seed, **{measure: 2 + NOISE[seed]}) for seed in range(SEEDS)])
    repository.commit("one")
    risen = [a_run("t", "a", seed, **{measure: 3 - NOISE[seed]}) for seed in range(SEEDS)]
    repository.write_runs(risen)
    (row,) = as_json("one")["moved"]
    assert (row["measure"], row["verdict"]) == (measure, verdict)
    assert row["change"] == pytest.approx(1)
    assert row["why"] == ("" if verdict else "it is not known whether high values are good")


def test_fewer_than_three_common_seeds_have_no_verdict(repository: Repository) -> None:
    repository.write_runs(runs({"a": 0}, seeds=4))
    repository.commit("one")
    after = runs({"a": 0.1}, seeds=4)
    for row in after[:2]:
        row |= {"status": "diverged", "clean_accuracy": math.nan}
    repository.write_runs(after)
    failed, moved = as_json("one")["moved"]
    assert (failed["measure"], failed["before"], failed["after"]) == ("failed runs", 0, 2)
    assert (moved["seeds"], moved["verdict"], moved["p_holm"]) == (2, "", None)
    assert moved["why"] == "seeds that finished in both: 2 of at least 3"
    assert "none: seeds that finished in both: 2 of at least 3" in printed("one")


def test_rows_that_only_one_has(repository: Repository) -> None:
    repository.write_runs(runs({"a": 0, "b": 0}))
    repository.write_means([{"task": "g", "variant": "x", "fid": 3.0}], "gan.csv")
    repository.commit("one")
    repository.write_runs(runs({"a": 0, "new": 0}))
    repository.write_means([{"task": "g", "variant": "y", "fid": 3.0}], "gan.csv")
    found = as_json("one")
    assert found["added"] == [["classification", "t", "new"], ["gan", "g", "y"]]
    assert found["removed"] == [["classification", "t", "b"], ["gan", "g", "x"]]
    assert found["moved"] == []
    assert {"added: t new", "removed: g x"} <= set(printed("one").splitlines())


def test_older_results_have_means_alone(repository: Repository) -> None:
    old = {"task": "t", "variant": "a", "method": "m", "clean_accuracy": 0.9, "clean_accuracy_std": 0.1, "seconds": 3.0}
    repository.write_means([old | {"mce": 100.0, "finished": 3}])
    repository.commit("old")
    repository.write_means([old | {"mce": 90.0, "clean_accuracy": 0.95, "clean_accuracy_std": 0.2, "seconds": 9.0}])
    repository.write_runs(runs({"a": 0.05}))
    found = as_json("old")
    assert found["without_runs"] == ["old"]
    assert [(row["measure"], row["before"], row["after"], row["verdict"]) for row in found["moved"]] == [
        ("clean_accuracy", 0.9, 0.95, ""),
        ("mce", 100.0, 90.0, ""),
    ]
    assert "old has no results/runs.csv: means are compared, without verdicts" in printed("old")


def test_means_that_no_run_has_are_compared_beside_the_runs(repository: Repository) -> None:
    repository.write_runs(runs({"a": 0}))
    repository.write_means([{"task": "t", "variant": "a", "clean_accuracy": 0.9, "mce": 100.0}])
    repository.commit("one")
    repository.write_means([{"task": "t", "variant": "a", "clean_accuracy": 0.8, "mce": 110.0}])
    (row,) = as_json("one")["moved"]  # of a mean that runs.csv has, the runs decide
    assert (row["measure"], row["change"], row["why"]) == ("mce", 10.0, "only its mean is known")


def test_in_a_folder_of_a_repository(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = repository.path / "inner"
    (inner / "results").mkdir(parents=True)
    repository.write_runs(runs({"outer": 0}))
    (inner / "results/runs.csv").write_text(Table(COLUMNS, runs({"inner": 0})).csv())
    repository.commit("one")
    monkeypatch.chdir(inner)
    assert {row["variant"] for row in revisions.of("one").runs or []} == {"inner"}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nowhere", "nowhere: git knows no such revision"),
        ("--output=x", "--output=x: git knows no such revision"),
        ("empty", "empty: has no tables in results/; `make results` writes them"),
        ("torn", "torn:results/runs.csv:3: has 2 cells, but the header 11"),
        ("other", "other:results/runs.csv: has no column 'kind'"),
        ("seedless", "seedless:results/runs.csv:3: seed = 'x': is no seed"),
        ("binary", "binary:results/runs.csv:1: byte 0xFF ('\xff' in Latin-1) is not UTF-8: save the file as UTF-8"),
    ],
)
def test_what_cannot_be_compared_is_told(repository: Repository, name: str, line: str) -> None:
    repository.commit("empty")
    text = Table(COLUMNS, runs({"a": 0})).csv().splitlines()
    repository.write("runs.csv", "\n".join([*text[:2], "t,a"]) + "\n")
    repository.commit("torn")
    repository.write("runs.csv", "a,b\n1,2\n")
    repository.commit("other")
    repository.write("runs.csv", "\n".join([*text[:2], text[1].replace("t,a,0", "t,a,x")]) + "\n")
    repository.commit("seedless")
    (repository.path / "results/runs.csv").write_bytes(b"a\xff")
    repository.commit("binary")
    with pytest.raises(UserError) as error:
        revisions.of(name)
    assert str(error.value) == line
    assert not (repository.path / "x").exists()


def test_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="this folder is not in a git repository"):
        revisions.of("HEAD")
    with pytest.raises(UserError, match="the working tree: has no tables"):
        revisions.of_working_tree()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git: cannot be called"):
        revisions.of("HEAD")


def test_names_are_text(repository: Repository) -> None:
    """As a forged table could have them: they are no markup, and no formula when they are read back."""
    bad = "=1+[red]x\u202e"
    repository.write_runs(runs({bad: 0}))
    repository.commit("one")
    repository.write_runs(runs({bad: 0.1}))
    shown = printed("one")
    assert r"=1+[red]x\u202e" in shown
    assert "\u202e" not in shown
    assert diff(revisions.of("one"), revisions.of_working_tree()).moved[0].variant.startswith("=1+[red]x")


def test_times_and_spreads_are_no_measures() -> None:
    assert [name for name in ("clean_accuracy_std", "clean_verdict", "seconds", "run", "mce") if is_measure(name)] == [
        "mce"
    ]
    assert [direction(name) for name in ("attack_pgd", "fid", "my_fid")] == [1, -1, 0]
