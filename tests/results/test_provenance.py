"""What the page says about the origin of its numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from normbench.data.labels import LabelNoise
from normbench.results.report import report
from normbench.results.tables import aggregate
from normbench.results.tables.facts import Facts, distinct, of_task
from normbench.results.words import machine, overview, recipe
from normbench.runs.record import Device
from normbench.runs.run import Kind
from tests.results.made_up_suite import GAN_TASK, TASK, edit, place, write_suite
from tests.support.records import record

GPU = {"type": "cuda", "name": "Some GPU", "cuda": "12.8"}


def page() -> str:
    aggregate()
    report()
    return Path("results/report.html").read_text(encoding="utf-8")


def test_it_counts_what_differs_and_keeps_no_path(suite: None) -> None:
    edit(place("conv_norm", 1), provenance={"device": GPU, "numerics": {"threads": None}})
    aggregate()
    facts = Facts.read(Path("build/tables/provenance.json"))
    assert [(each.value.name, each.runs) for each in facts.devices] == [("Some CPU", 29), ("Some GPU", 1)]
    (git,) = facts.git
    assert (git.value.revision, git.value.dirty, git.runs) == ("0123456789abcdef" * 2 + "01234567", True, 30)
    assert facts.runs == 30
    assert facts.datasets["digits"].fingerprint == "5a" * 32
    assert facts.datasets["digits"].origin == "digits.npz"
    assert set(facts.tasks[Kind.CLASSIFICATION]) == {TASK}
    assert set(facts.tasks[Kind.GAN]) == {GAN_TASK}
    about = facts.variants["network_deconvolution"].about
    assert about is not None
    assert "arXiv 1905.11926" in about
    assert "/home" not in Path("build/tables/provenance.json").read_text(encoding="utf-8")


def test_distinct_values_are_counted_in_the_order_of_their_first_appearance() -> None:
    found = distinct([{"torch": "2"}, {"torch": "1"}, {"torch": "2"}])
    assert [(each.value["torch"], each.runs) for each in found] == [("2", 2), ("1", 1)]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"name": "Some CPU", "type": "cpu"}, "Some CPU, 8 cores, Linux"),
        ({"name": "Some CPU", "type": "cpu", "cores": None}, "Some CPU, Linux"),
        ({"name": "Some GPU", "type": "cuda", "cuda": "12.8"}, "Some GPU, CUDA 12.8, Linux"),
        ({"name": "Some CPU", "type": "cpu", "side_by_side": 3}, "Some CPU, 8 cores, Linux, 3 runs side by side"),
    ],
)
def test_a_device_in_words(facts: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"cpu": "Some CPU", "cores": 8, "system": "Linux", "side_by_side": 1}
    assert machine(Device(**(given | facts))) == text


def test_numerics_are_told_once_for_each_task(suite: None) -> None:
    text = " ".join(re.findall(r'<p class="recipe">(.*?)</p>', page()))
    assert text.count("Computed in float32, channels_last, 1 thread a run on a CPU.") == 2
    assert not re.search("precision float32|memory_format|threads 1", text)


def test_numerics_are_those_of_the_runs() -> None:
    """A run leaves the memory format of the recipe where a kernel is broken; threads are known of CPUs alone."""
    task = {"recipe": {"precision": "bfloat16", "threads": 2}}
    gpu = record(provenance={"task": task, "device": GPU, "numerics": {"precision": "bfloat16", "threads": None}})
    used = {"precision": "bfloat16", "memory_format": "contiguous", "threads": 2}
    cpu = record(provenance={"task": task, "numerics": used})
    assert recipe(of_task([gpu])).endswith(". Computed in bfloat16, channels_last.")
    text = "Computed in bfloat16, channels_last and contiguous, 2 threads a run on a CPU."
    assert recipe(of_task([gpu, gpu, cpu])).endswith(text)


def test_a_task_in_words() -> None:
    noise = LabelNoise(kind="cyclic", fraction=0.25)
    plain = record()
    changed = record(provenance={"task": {"label_noise": noise, "train_fraction": 0.5, "model": "/home/me/net.py:Net"}})
    assert recipe(of_task([plain])).startswith(
        "resnet8 (width 16) on digits: epochs 4, batch_size 64, crop_padding 1. "
    )
    start = "net.py:Net (width 16) on digits, 50 % of its training images, label noise (kind cyclic, fraction 0.25): "
    assert recipe(of_task([changed])).startswith(start)
    assert recipe(of_task([record(kind="gan")])).startswith("sngan (width 32) on digits: iterations 40. ")


def test_the_suite_in_words(suite: None) -> None:
    aggregate()
    facts = Facts.read(Path("build/tables/provenance.json"))
    assert overview(facts.suite) == "8 variants on 1 task and 2 variants on 1 GAN task, 3 seeds each (0, 1, 2)"


def test_costs_of_different_devices_are_told(suite: None) -> None:
    """But not where all costs that a reader sees are those of one device."""
    write_suite(variants=["batch_norm", "conv_norm"], gan_tasks=[], gan_variants=[])
    told = "do not compare them"
    assert told not in page()
    for seed in (0, 1):
        edit(place("conv_norm", seed), provenance={"device": {"side_by_side": 2}})
    assert told not in page()
    edit(place("conv_norm", 2), provenance={"device": {"name": "Some GPU"}})
    assert told in page()
