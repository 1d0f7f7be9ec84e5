"""Results from scratch, twice, are the same numbers, on any number of cores and whatever else these do meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from normbench.runs.record import Record
from normbench.runs.run import Kind
from tests.support import forks
from tests.support.suite_folder import SuiteFolder, outcome, records, same_outcome

ALL = os.sched_getaffinity(0) if sys.platform == "linux" else {0}  # the cores of this process
STAGES = [
    ["stages.train", "--task", "small", "--variant", "batch_norm"],
    ["stages.train", "--task", "small", "--variant", "group_norm"],
    ["stages.evaluate", "--task", "small", "--variant", "batch_norm"],
    ["stages.evaluate", "--task", "small", "--variant", "group_norm"],
    ["stages.gan", "--task", "small-gan", "--variant", "batch_norm"],
    ["stages.real", "--task", "small-gan"],
    ["stages.fid", "--task", "small-gan", "--variant", "batch_norm"],
]


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Inside it so many other processes take all of the time that a core has for them."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextlib.contextmanager
def cores(which: list[int]) -> Iterator[None]:
    """Inside it, what this process starts has these cores alone, as with `taskset`. Nothing happens except on Linux."""
    if sys.platform != "linux":
        yield
        return
    os.sched_setaffinity(0, which)
    try:
        yield
    finally:
        os.sched_setaffinity(0, ALL)


def scored(folder: SuiteFolder) -> dict[str, Record]:
    """The records with their scores, without times, by their place."""
    scores = folder.path / "build/scores"
    return {path.relative_to(scores).as_posix(): outcome(Record.read(path)) for path in scores.rglob("*.json")}


def files(folder: SuiteFolder) -> dict[str, bytes]:
    """What lies beside the records: predictions of single images, and pictures that were generated."""
    scores = folder.path / "build/scores"
    found = [path for path in scores.rglob("*") if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(scores).as_posix(): path.read_bytes() for path in found}


@pytest.mark.slow
def test_from_scratch_twice_under_different_load(tmp_path: Path) -> None:
    """The first time is on one core. The second is on all, beside the load, with two runs side by side.

    The GAN has two threads, also on one core.
    """
    first = SuiteFolder(tmp_path / "first")
    first.edit(
        "\nvariants:",
        "\nevaluation: {attacks: {examples: 20, long_examples: 0}, smoothness: {examples: 20}}\nvariants:",
    )
    first.edit("iterations: 30", "threads: 2, iterations: 30")
    first.bind()
    shutil.copytree(first.path, tmp_path / "second")
    second = SuiteFolder(tmp_path / "second")
    shutil.copy(first.path / "params.yaml", second.path)
    with cores([min(ALL)]), forks.surrounded(first.environment):
        for stage in STAGES:
            first.run(*stage)
    second.environment.pop("LOKY_MAX_CPU_COUNT")
    with busy(2):
        for stage in STAGES:
            second.run(*stage)
    assert len(scored(first)) == 6
    assert scored(second) == scored(first)
    assert files(second) == files(first)
    assert len(files(first)) == 8  # pictures of the GAN and of its film strip, and predictions
    one, other = records(first.path / "runs"), records(second.path / "runs")
    assert set(one) == set(other)
    assert len(one) == 7  # with the classifier of the FID
    for run in one:
        same_outcome(first.path / "runs" / run, second.path / "runs" / run)
    beside = [{record.provenance.device.side_by_side for record in found.values()} for found in (one, other)]
    assert beside[0] == {1}
    assert beside[1] == ({1, 2} if sys.platform == "linux" and len(ALL) > 1 else {1})
    threads = [
        {(record.kind, record.provenance.numerics.threads) for record in found.values()} for found in (one, other)
    ]
    assert threads[0] == threads[1] == {(Kind.CLASSIFICATION, 1), (Kind.GAN, 2)}
