"""A run that was stopped, in whatever way, ends as one that was not: bit for bit on the CPU."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from normbench.data.batches import on_device
from normbench.methods.batch_norm import BatchNorm
from normbench.models import registry as models
from normbench.models.build import new_classifier
from normbench.runs import store
from normbench.runs.checkpoint import Checkpoints, random_state, save_weights, set_random_state
from normbench.system.errors import UserError
from normbench.training import loop
from normbench.training.recipe import Recipe
from tests.support import forks, kill_and_resume

ROOT = Path(__file__).resolve().parents[2]


def scenario(name: str, case: str, folder: Path) -> tuple[Any, str]:
    """What a scenario of `kill_and_resume` found, and what its processes wrote to stderr."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = forks.run(kill_and_resume.__file__, str(folder), name, case, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", kill_and_resume.CASES)
def test_kill_at_random_moments(case: str, tmp_path: Path) -> None:
    found, _ = scenario("kill", case, tmp_path)
    assert found["kills"] >= kill_and_resume.KILLS
    assert found["resumed"] > 0


@pytest.mark.parametrize("case", ["batch_norm", "spectral_norm, GAN"])
def test_sigterm_saves_and_ends_with_75(case: str, tmp_path: Path) -> None:
    found, errors = scenario("terminate", case, tmp_path)
    assert found["code"] == 75
    assert errors.count("checkpoint written, the same command goes on from it") == 2


def test_a_damaged_checkpoint_is_set_aside(tmp_path: Path) -> None:
    found, errors = scenario("damage", "network_deconvolution", tmp_path)
    aside = f"{Path(found['newest']).stem}.damaged"
    assert f"{found['newest']}: damaged, set aside as {aside}; the one before it is used" in errors
    assert found["resumed"]["step"] == 0
    assert found["resumed"]["epoch"] >= 2  # and not from the beginning


def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    found, errors = scenario("full_disk", "batch_norm", tmp_path)
    assert found == {"code": 1, "intact": True, "kept": 2}
    assert "File too large" in errors
    assert "Traceback" not in errors


def test_two_processes_train_a_run_once(tmp_path: Path) -> None:
    found, errors = scenario("two", "batch_norm", tmp_path)
    assert found["codes"] == [0, 0, 0]
    assert found["resumed"] is not None  # the second went on from what the killed one had saved
    assert errors.count("clean accuracy") == 4  # a warm-up, the reference, one of the two, the one that waited


def test_who_waits_for_a_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path))
    entered = threading.Event()

    def wait() -> None:
        with store.claimed("0123"):
            entered.set()

    waiting, said = threading.Thread(target=wait), ""
    with store.claimed("0123"):
        waiting.start()
        while not said:
            said = capsys.readouterr().err
            time.sleep(0.01)
        assert not entered.is_set()
    waiting.join()
    assert entered.is_set()
    assert said == "run 0123: another process is training it; waiting for that\n"


class Stopped(Exception):
    pass


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_at_most_one_epoch_is_repeated(minutes: float, tmp_path: Path) -> None:
    """And no step at all with a checkpoint after each: seen from how often batches are asked for."""
    one, data = kill_and_resume.run("batch_norm", 0), kill_and_resume.images(0)
    places: list[tuple[int, int]] = []

    def stopping(epoch: int, step: int, steps: int, loss: float) -> None:
        places.append((epoch, step))
        if len(places) == 7:  # the third step of the second epoch
            raise Stopped

    def network() -> torch.nn.Module:
        return new_classifier(models.get("resnet8"), {"width": 4}, BatchNorm(), 1, 4, 0)

    recipe = one.task.recipe
    assert isinstance(recipe, Recipe)
    with pytest.raises(Stopped):
        loop.fit(network(), BatchNorm(), data, recipe, 0, stopping, Checkpoints(tmp_path, minutes))
    assert places[-1] == (1, 3)
    outcome = loop.fit(network(), BatchNorm(), data, recipe, 0, lambda *_: None, Checkpoints(tmp_path, minutes))
    assert outcome.resumed == {"epoch": 1, "step": 2 if minutes == 0 else 0}
    assert len(outcome.history) == kill_and_resume.EPOCHS
    assert len(outcome.epoch_seconds) == kill_and_resume.EPOCHS - (minutes == 0)


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_dropout_goes_on_with_the_same_draws(minutes: float, tmp_path: Path) -> None:
    """After an interruption within an epoch, in a process whose generator is elsewhere, the weights are the same bits."""
    chance = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (12, 32, 32, 1), generator=chance, dtype=torch.uint8)
    data = on_device(pixels, torch.arange(12) % 4, [0.5], [0.3], "cpu")
    recipe = Recipe(epochs=3, batch_size=4, lr=0.01)

    def trained(
        keeper: Checkpoints | None = None, stop: int | None = None, seed: int | None = None
    ) -> dict[str, torch.Tensor]:
        places: list[int] = []

        def report(epoch: int, step: int, steps: int, loss: float) -> None:
            places.append(step)
            if len(places) == stop:
                raise Stopped

        network = new_classifier(models.get("imagenet_vgg11"), {"width": 2}, BatchNorm(), 1, 4, 0)
        if seed is not None:
            torch.manual_seed(seed)
        loop.fit(network, BatchNorm(), data, recipe, 0, report, keeper)
        return network.state_dict()

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(value, other[key]) for key, value in one.items())

    whole = trained()
    assert same(trained(), whole)
    assert not same(trained(seed=1), whole)  # the draws matter
    with pytest.raises(Stopped):
        trained(Checkpoints(tmp_path, minutes), stop=5)
    assert same(trained(Checkpoints(tmp_path, minutes), seed=2), whole)


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    keeper = Checkpoints(tmp_path, 10)
    assert keeper.resume() is None
    for number in range(5):
        keeper.save({"number": number, "tensor": torch.full((3,), number)})
    assert [path.name[:6] for path in keeper.all()] == ["000004", "000005"]
    assert Checkpoints(tmp_path, 10).resume()["number"] == 4
    assert keeper.spent > 0


def test_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    np.random.normal()  # leaves a second value behind, which is state too
    keeper = Checkpoints(tmp_path, 10)
    keeper.save({})
    expected = random.random(), np.random.normal(), np.random.random(3).tolist(), torch.rand(3).tolist()
    assert keeper.resume() == {}
    assert (random.random(), np.random.normal(), np.random.random(3).tolist(), torch.rand(3).tolist()) == expected
    state = random_state()
    first = np.random.random(5).tolist()
    set_random_state(state)
    assert np.random.random(5).tolist() == first


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_weights_on_a_full_disk_are_an_error_of_the_system() -> None:
    """Which stages turn into one line; torch's own writer raises RuntimeError."""
    with pytest.raises(OSError, match="No space left"):
        save_weights(torch.nn.Linear(100, 100), Path("/dev/full"))


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_a_wrong_interval_is_one_line(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_CHECKPOINT_MINUTES", text)
    with pytest.raises(UserError, match=f"NORMBENCH_CHECKPOINT_MINUTES = '{text}': must be a number of minutes"):
        Checkpoints(tmp_path)


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with an object in it, and the right hash in its name, is set aside and runs nothing."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    buffer = io.BytesIO()
    torch.save({"training": Evil(), "random": {}}, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    (tmp_path / f"000001-{digest[:16]}.pt").write_bytes(buffer.getvalue())
    assert Checkpoints(tmp_path, 10).resume() is None
    assert not (tmp_path / "owned").exists()
    assert "there is none before it, so the run begins anew" in capsys.readouterr().err
