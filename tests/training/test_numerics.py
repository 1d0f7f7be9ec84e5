"""Precision and memory format: by the recipe, by rule, or measured once for a task, kept and recorded."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from normbench.methods.batch_norm import BatchNorm
from normbench.models import registry as models
from normbench.runs import run as runs
from normbench.runs.checkpoint import Checkpoints
from normbench.runs.run import Run
from normbench.suite.schema import Recipe
from normbench.system import layout
from normbench.system import side_by_side as jobs
from normbench.system.errors import UserError
from normbench.training import loop, numerics
from normbench.training.numerics import Numerics
from tests.support import kill_and_resume
from tests.support.suite_folder import SuiteFolder, records


def recipe(**fields: Any) -> dict[str, Any]:
    return Recipe(epochs=1, batch_size=16, **fields).model_dump()


def run(seed: int = 0, width: int = 16, kind: str = "classification", **fields: Any) -> Run:
    task = {"name": "t", "seed": 0, "model": "resnet8", "model_options": {"width": width}, "model_code": "c"}
    bound = {"channels": 1, "classes": 4, "image_size": 8, "fingerprint": "0" * 64}
    return runs.of(kind, task | {"recipe": recipe(**fields)}, {"name": "v"}, seed, bound, "code", "title")


@pytest.fixture
def fast_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int]]:
    """A store without choices, and a stopwatch by which bfloat16 takes half the time; what it was asked to measure."""
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    asked: list[tuple[str, int]] = []

    def measure(run: Run, threads: int) -> numerics.Times:
        asked.append((run.id, threads))
        return {"float32 channels_last": 2.0, "float32 contiguous": 3.0, "bfloat16 channels_last": 1.0}

    monkeypatch.setattr(numerics, "apart", measure)
    return asked


def test_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numerics.by_rule(recipe(), "cpu") == Numerics("float32", "channels_last")
    assert numerics.by_rule(recipe(), "mps") == Numerics("float32", "channels_last")
    chosen = recipe(precision="bfloat16", memory_format="contiguous")
    assert numerics.by_rule(chosen, "cpu") == Numerics("bfloat16", "contiguous")
    for has in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert numerics.by_rule(recipe(), "cuda").precision == ("bfloat16" if has else "float32")
    assert numerics.by_rule(recipe(precision="float32"), "cuda").precision == "float32"


def test_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule's comes first; bfloat16 where oneDNN has it; one format for a network that channels_last breaks."""
    wide, narrow = nn.Conv2d(16, 16, 1, 2), nn.Conv2d(8, 16, 1, 2)
    for has in (True, False):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda has=has: has)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
        precisions = ["float32", "bfloat16"] if has else ["float32"]
        expected = [(precision, name) for precision in precisions for name in ("channels_last", "contiguous")]
        assert numerics.candidates(recipe(), wide) == expected
        assert numerics.candidates(recipe(), narrow) == [(precision, "contiguous") for precision in precisions]
    assert numerics.candidates(recipe(precision="float32", memory_format="channels_last"), wide) == [
        ("float32", "channels_last")
    ]


def test_the_choice_is_the_rule_unless_another_clearly_wins() -> None:
    rule = Numerics("float32", "channels_last")

    def chosen(**seconds: float) -> str:
        return str(numerics.choice({name.replace("__", " "): value for name, value in seconds.items()}, rule))

    assert chosen(float32__channels_last=1.0, bfloat16__channels_last=0.81) == "float32, channels_last"
    assert chosen(float32__channels_last=1.0, bfloat16__channels_last=0.79) == "bfloat16, channels_last"
    assert chosen(float32__channels_last=1.0, float32__contiguous=0.7, bfloat16__contiguous=0.6) == (
        "bfloat16, contiguous"
    )
    assert chosen(float32__contiguous=1.0) == "float32, contiguous"  # the network left nothing else
    assert numerics.choice({}, rule) == rule


def test_measured_once_for_a_task_and_kept(fast_bfloat16: list, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds and variants share a choice, in this process and in later ones; another batch or thread has its own."""
    first = numerics.settled([run(0), run(1)], "cpu", 1)
    assert [str(each.numerics) for each in first] == ["bfloat16, channels_last"] * 2
    assert len(fast_bfloat16) == 1
    assert "t trains in bfloat16, channels_last here (a step takes 2e+03 ms in float32 channels_last" in (
        capsys.readouterr().out
    )
    assert numerics.settled([run(2)], "cpu", 1)[0].numerics == first[0].numerics
    assert len(fast_bfloat16) == 1
    assert first[0].id == run(0).id  # it is in no id
    numerics.settled([run(0)], "cpu", 2)
    numerics.settled([run(0, width=32)], "cpu", 1)
    assert [threads for _, threads in fast_bfloat16] == [1, 2, 1]


def test_a_choice_is_of_one_machine(fast_bfloat16: list) -> None:
    """Also where another one asks for it, as the driver of a cluster does."""
    other = numerics.Machine("another CPU", torch.__version__, lambda run, threads: {"float32 contiguous": 1.0})
    assert str(numerics.settled([run()], "cpu", 1, lambda: other)[0].numerics) == "float32, contiguous"
    assert str(numerics.settled([run()], "cpu", 1)[0].numerics) == "bfloat16, channels_last"


def test_without_times_it_is_the_rule_and_not_kept(
    fast_bfloat16: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(numerics, "apart", lambda run, threads: {})
        assert numerics.settled([run()], "cpu", 1)[0].numerics == Numerics("float32", "channels_last")
    assert "as steps could not be measured" in capsys.readouterr().out
    assert str(numerics.settled([run()], "cpu", 1)[0].numerics) == "bfloat16, channels_last"


@pytest.mark.skipif(not jobs.FORKS, reason="measured in this process here")
def test_a_measurement_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "step_times", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert numerics.apart(run(), 1) == {}


def test_nothing_is_measured_where_nothing_is_open(fast_bfloat16: list) -> None:
    fixed = run(precision="float32", memory_format="channels_last")
    for todo, kind in (([fixed], "cpu"), ([run(kind="gan")], "cpu"), ([run()], "cuda"), ([run()], "mps")):
        assert numerics.settled(todo, kind, 1) == todo
    assert fast_bfloat16 == []


def test_a_damaged_choice_is_named(fast_bfloat16: list) -> None:
    numerics.settled([run()], "cpu", 1)
    (path,) = (layout.store() / "numerics").iterdir()
    for content in ("{", "{}", "[]", '{"precision": "float32"}'):
        path.write_text(content)
        with pytest.raises(UserError, match=rf"{path.name}: damaged; without it, the precision is measured again"):
            numerics.settled([run()], "cpu", 1)


@pytest.mark.parametrize("width", [8, 16])
def test_the_stopwatch(width: int) -> None:
    """It takes the time of every candidate, and leaves the global generator as it was."""
    one, state = run(width=width), torch.get_rng_state()
    times = numerics.step_times(one.task, one.bound, 1)
    assert torch.equal(torch.get_rng_state(), state)
    model = models.classifier("resnet8", {"width": width}, BatchNorm(), 1, 4)
    names = [" ".join(candidate) for candidate in numerics.candidates(one.task["recipe"], model)]
    assert next(iter(times)) == names[0]
    assert set(times) <= set(names)
    assert all(0 < seconds < 60 for seconds in times.values())


def test_the_stopwatch_leaves_out_what_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def step_loss(forward: Any, model: Any, method: Any, x: Any, y: Any, recipe: dict[str, Any], device: str) -> Any:
        if recipe["precision"] == "bfloat16":
            raise RuntimeError("no such operation")
        return original(forward, model, method, x, y, recipe, device)

    original = loop.step_loss
    monkeypatch.setattr(loop, "step_loss", step_loss)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    one = run()
    assert {name.split()[0] for name in numerics.step_times(one.task, one.bound, 1)} == {"float32"}


def test_a_checkpoint_keeps_its_precision(tmp_path: Path) -> None:
    """A run that began in bfloat16 ends in it, also where the choice became another meanwhile, bit for bit."""
    data, given = kill_and_resume.images(0), kill_and_resume.run("batch_norm", 0).task["recipe"]

    class Stopped(Exception):
        pass

    def stopping(epoch: int, *_: Any) -> None:
        if epoch == 2:
            raise Stopped

    def fit(precision: str, report: Any, folder: Path) -> tuple[loop.Outcome, nn.Module]:
        torch.manual_seed(0)
        model = models.classifier("resnet8", {"width": 4}, BatchNorm(), 1, 4)
        chosen = given | {"precision": precision}
        return loop.fit(model, BatchNorm(), data, chosen, 0, report, Checkpoints(folder, 10)), model

    with pytest.raises(Stopped):
        fit("bfloat16", stopping, tmp_path / "stopped")
    resumed, model = fit("float32", lambda *_: None, tmp_path / "stopped")
    whole, same = fit("bfloat16", lambda *_: None, tmp_path / "whole")
    other, _ = fit("float32", lambda *_: None, tmp_path / "float32")
    assert resumed.resumed == {"epoch": 2, "step": 0}
    assert (resumed.precision, whole.precision, other.precision) == ("bfloat16", "bfloat16", "float32")
    assert resumed.history == whole.history != other.history
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), same.state_dict().values(), strict=True))


@pytest.mark.slow
def test_a_stage_measures_records_and_evaluates_by_it(tmp_path: Path) -> None:
    """The choice that lies in the store is taken, whatever the stopwatch would say here."""
    folder = SuiteFolder(tmp_path)
    folder.edit(", precision: float32", "")
    folder.edit("seeds: [0, 1]", "seeds: [0]")
    folder.bind()
    printed = folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    (path,) = (tmp_path / "runs/numerics").glob("*.json")
    kept = json.loads(path.read_text())
    assert f"small trains in {kept['precision']}, contiguous here (a step takes " in printed
    assert kept["images"] == {"channels": 1, "classes": 10, "image_size": 8}
    assert "float32 contiguous" in kept["step_seconds"]
    other = "float32" if kept["precision"] == "bfloat16" else "bfloat16"
    path.write_text(json.dumps(kept | {"precision": other}))
    folder.edit("variants: [batch_norm, group_norm]", "variants: [group_norm]")
    folder.edit("baseline: batch_norm", "baseline: group_norm")
    folder.run("stages.resolve")
    assert "trains in" not in folder.run("normbench", "sweep")
    trained = [each for each in records(tmp_path / "runs").values() if each["kind"] == "classification"]
    found = {each["provenance"]["variant"]["name"]: each["provenance"] for each in trained}
    assert found["batch_norm"]["numerics"]["precision"] == kept["precision"]
    assert found["batch_norm"]["numerics"]["step_seconds"] == kept["step_seconds"]
    assert found["group_norm"]["numerics"] == {key: kept[key] for key in ("memory_format", "step_seconds")} | {
        "precision": other
    }
    folder.run("stages.train", "--task", "small", "--variant", "group_norm")
    folder.run("stages.evaluate", "--task", "small", "--variant", "group_norm")
    record = json.loads((tmp_path / "build/scores/classification/small/group_norm/0.json").read_text())
    assert record["provenance"]["numerics"]["precision"] == other
    assert record["metrics"]["clean_accuracy"] > 0.15
