"""`normbench tune` on the digits: the same trials for every variant, on images that are held out."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from normbench.suite import trial
from normbench.sweep import command as sweeping
from normbench.sweep import local
from normbench.system import side_by_side
from normbench.system.errors import UserError
from normbench.tuning import command
from tests.support.suite_folder import PARAMS, SuiteFolder


@pytest.fixture(scope="module")
def bound(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """The small suite with runs of one epoch; its data are ready."""
    folder = SuiteFolder(tmp_path_factory.mktemp("suite"))
    folder.edit("epochs: 2", "epochs: 1")
    folder.edit("gan_tasks: [small-gan]", "gan_tasks: []")
    folder.edit("gan_variants: [batch_norm]", "gan_variants: []")
    folder.edit("  batch_norm: {method: batch_norm}", "  batch_norm: {method: batch_norm} # the usual one")
    folder.bind()
    return folder


def copied(bound: SuiteFolder, to: Path) -> SuiteFolder:
    """A copy of the folder, with its params.yaml."""
    shutil.copytree(bound.path, to)
    params = (bound.path / "params.yaml").read_text()
    folder = SuiteFolder(to)
    (to / "params.yaml").write_text(params)
    return folder


@pytest.fixture(scope="module")
def folder(bound: SuiteFolder, tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    """The same after two trials of each variant, through the command line."""
    folder = copied(bound, tmp_path_factory.mktemp("tuned") / "suite")
    folder.printed = folder.run("normbench", "tune", "--trials", "2", "--jobs", "2")
    return folder


def tuned(path: Path) -> dict[str, dict]:
    """By variant, what params.yaml has as tuned for the task."""
    variants = YAML(typ="safe").load((path / "params.yaml").read_text())["variants"]
    return {name: entry["tuned"]["small"] for name, entry in variants.items() if "tuned" in entry}


@pytest.mark.slow
def test_from_the_command_line(folder: SuiteFolder) -> None:
    """Both variants have tried the same values; the store keeps the studies and none of their runs."""
    assert "[4/4]" in folder.printed
    assert "validation accuracy" in folder.printed
    found = tuned(folder.path)
    assert set(found) == {"batch_norm", "group_norm"}
    assert {each["trials"] for each in found.values()} == {2}
    assert "# the usual one" in (folder.path / "params.yaml").read_text()
    runs = folder.path / "runs"
    assert sorted(path.stem for path in (runs / "studies").glob("*.journal")) == sorted(
        e["study"] for e in found.values()
    )
    assert sorted(path.name for path in runs.iterdir()) == [".progress", "locks", "studies"]
    journals = [path.read_text() for path in (runs / "studies").glob("*.journal")]
    for each in found.values():
        assert all(f'"lr":{each["lr"]}' in journal for journal in journals)
    # What was chosen is trained, and planned.
    planned = folder.run("normbench", "plan", "--no-measure")
    assert "4 of 4 runs to train" in planned
    assert "stale" not in planned.split("\n", 1)[1].replace("stale    missing", "")


@pytest.fixture
def here(folder: SuiteFolder, monkeypatch: pytest.MonkeyPatch) -> SuiteFolder:
    """The folder of the suite, whose data are ready, as the current one."""
    monkeypatch.chdir(folder.path)
    monkeypatch.delenv("NORMBENCH_STORE", raising=False)
    monkeypatch.setattr(sweeping, "commands", lambda resolved: [])
    monkeypatch.setattr(trial, "check", lambda subjects: None)
    return folder


@pytest.mark.slow
def test_a_longer_study_goes_on_and_a_repeated_one_trains_nothing(
    here: SuiteFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tuned(here.path)
    command.tune(["group_norm"], ["small"], 3, 1, 0.2)
    printed = capsys.readouterr()
    assert "2 of 3 trials finished" in printed.out + printed.err
    assert "[1/1]" in printed.out + printed.err
    after = tuned(here.path)
    assert after["batch_norm"] == before["batch_norm"]
    assert (after["group_norm"]["trials"], after["group_norm"]["study"]) == (3, before["group_norm"]["study"])
    monkeypatch.setattr(local, "train_all", None)
    command.tune(["group_norm"], [], 2, None, 0.2)  # the first two of them
    assert tuned(here.path)["group_norm"] == before["group_norm"]


@pytest.mark.slow
def test_variants_that_are_equal_share_a_study(here: SuiteFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the tuned values of one do not change what its study is."""
    text = (here.path / "params.yaml").read_text()
    monkeypatch.setattr(local, "train_all", None)
    try:
        here.edit("variants: [batch_norm,", "variants: [again, batch_norm,")
        here.edit("\nvariants:\n", "\nvariants:\n  again: {method: batch_norm}\n")
        command.tune(["again", "batch_norm"], [], 2, None, 0.2)
        found = tuned(here.path)
        assert found["again"] == found["batch_norm"]
    finally:
        (here.path / "params.yaml").write_text(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["batchnorm"], [], 2, None, 0.2), "--variant batchnorm: not in the suite; did you mean 'batch_norm'?"),
        (([], ["smal"], 2, None, 0.2), "--task smal: not in the suite; did you mean 'small'?"),
        (([], [], 0, None, 0.2), "--trials 0: must be at least 1"),
        (([], [], 1, 0, 0.2), "--jobs 0: must be at least 1"),
        (([], [], 1, None, 1.0), "--validation 1: must be above 0 and below 1"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(UserError) as caught:
        command.tune(*arguments)
    assert str(caught.value) == said


@pytest.mark.slow
@pytest.mark.skipif(not side_by_side.FORKS, reason="needs processes that are forked")
def test_what_a_killed_command_has_finished_is_kept(bound: SuiteFolder, folder: SuiteFolder, tmp_path: Path) -> None:
    """By kill -9 in the middle; the same command goes on, and ends with what an undisturbed one has found."""
    killed = copied(bound, tmp_path / "suite")
    process = killed.start("normbench", "tune", "--trials", "2", "--jobs", "1")
    studies, end = killed.path / "runs/studies", time.monotonic() + 200
    while time.monotonic() < end and not any('"number":0' in path.read_text() for path in studies.glob("*.journal")):
        assert process.poll() is None
        time.sleep(0.01)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not tuned(killed.path)
    printed = killed.run("normbench", "tune", "--trials", "2", "--jobs", "1")
    assert re.search("batch_norm: [12] of 2 trials finished", printed)
    assert tuned(killed.path) == tuned(folder.path)
