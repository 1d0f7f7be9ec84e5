"""Trains runs in processes of their own that are killed, asked to end, or left without disk space.

`python tests/support/kill_and_resume.py FOLDER SCENARIO CASE`: a fresh interpreter with one thread, so that it may fork.
What a scenario finds goes to stdout as one JSON value; an assertion that fails ends it with a traceback.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.data.batches import Images, on_device
from normbench.data.prepared import Splits
from normbench.methods import network_deconvolution
from normbench.runs import store
from normbench.runs.run import Kind, Run
from normbench.runs.train import claim_and_train
from normbench.system import files, preemption, stage
from normbench.system import side_by_side as jobs
from normbench.training.recipe import Adversary
from tests.support import sample_runs

KILLS = 10
STEPS = 4  # steps of an epoch
BATCH = 16
EPOCHS = 4

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "batch_norm": ("resnet8", "batch_norm", {}),
    "network_deconvolution": ("resnet8", "network_deconvolution", {}),
    "network_deconvolution, frozen": ("preact_resnet18", "network_deconvolution", {"block": 16}),
    "conv_norm": ("resnet8", "conv_norm", {}),
    "spectral_batch_norm": ("resnet8", "spectral_batch_norm", {"statistics": "frequency"}),
    "fantastic_four": ("resnet8", "fantastic_four", {"layers": "all"}),
    "spectral_norm": ("resnet8", "spectral_norm", {}),
    "free adversary": ("resnet8", "batch_norm", {}),
    "bfloat16": ("resnet8", "network_deconvolution", {}),
    "spectral_norm, GAN": ("sngan", "spectral_norm", {}),
    "batch_norm, GAN": ("sngan", "batch_norm", {}),
}


def images(seed: int) -> Images:
    """Returns images whose class is the number of the bright quadrant."""
    chance = np.random.default_rng(seed)
    labels = np.arange(STEPS * BATCH) % 4
    pixels = chance.integers(0, 40, (len(labels), 8, 8, 1))
    for image, label in zip(pixels, labels, strict=True):
        image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += chance.integers(100, 200)
    return on_device(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels), [0.3], [0.3], "cpu")


def splits() -> Splits:
    return Splits(images(0), images(1))


def run(case: str, seed: int, longer: int = 1) -> Run:
    """Returns the run of a case with a seed. longer: a factor of the length of its training."""
    model, method, options = CASES[case]
    variant, title = sample_runs.variant(method=method, options=options), f"{case} seed {seed}"
    settings: dict[str, Any] = {"model": model, "model_options": {"width": 4}}
    if model == "sngan":
        recipe: dict[str, Any] = {"iterations": 24 * longer, "batch_size": BATCH, "lr": 2e-3, "latent": 8}
        gan_task = sample_runs.gan_task(recipe=recipe, **settings)
        return sample_runs.run(Kind.GAN, seed, task=gan_task, variant=variant, title=title)
    recipe = {"epochs": EPOCHS * longer, "batch_size": BATCH, "crop_padding": 1}
    if "adversary" in case:
        recipe["adversary"] = Adversary(kind="free", repeats=2)
    if case == "bfloat16":
        recipe["precision"] = "bfloat16"
    task = sample_runs.task(recipe=recipe, **settings)
    return sample_runs.run(Kind.CLASSIFICATION, seed, task=task, variant=variant, title=title)


def train(one: Run) -> None:
    claim_and_train(one, splits)


def child(task: Callable[[], Any]) -> int:
    """Starts a forked process that calls the task and exits like a stage would; returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        preemption.watch()
        stage.guarded(task)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Waits for a process and returns its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def left(one: Run) -> dict[str, Any]:
    """Returns everything that a finished run stores, except times and memory: equal for equal runs."""
    folder = store.folder(one.id)
    record = store.record(one.id)
    found: dict[str, Any] = {"metrics": record.metrics, "status": record.status}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".pt":
            weights = torch.load(path, weights_only=True)
            assert weights
            found[path.name] = {
                key: value.numpy().tobytes().hex() if isinstance(value, torch.Tensor) else value
                for key, value in weights.items()
            }
        elif path.suffix in {".npz", ".png"}:
            found[path.name] = files.sha256(path)
    assert len(found) == (7 if one.kind is Kind.GAN else 4), sorted(found)
    return found


def place(name: str, folder: Path) -> None:
    """Makes a folder below `folder` the run store."""
    os.environ["NORMBENCH_STORE"] = str(folder / name)


def reference(folder: Path, one: Run) -> tuple[dict[str, Any], float]:
    """Trains a run without interruption; returns what it stores, and its seconds."""
    place("whole", folder)
    began = time.monotonic()
    assert ended(child(lambda: train(one))) == 0
    return left(one), time.monotonic() - began


def kill(folder: Path, case: str) -> dict[str, Any]:
    """Kills runs with SIGKILL at random moments, until that has hit a run in progress ten times."""
    chance = random.Random(case)
    kills, resumed, rounds = 0, 0, 0
    while kills < KILLS:
        one = run(case, seed=rounds)
        whole, seconds = reference(folder, one)
        place("killed", folder)
        while True:
            os.environ["NORMBENCH_CHECKPOINT_MINUTES"] = chance.choice(["0", "0.0005", "10"])
            pid = child(lambda one=one: train(one))
            time.sleep(chance.uniform(0, seconds / 2))
            os.kill(pid, signal.SIGKILL)
            code = ended(pid)
            assert code in (0, -signal.SIGKILL), code
            if store.finished(one.id):
                break
            kills += 1
            if kills % 8 == 7:
                assert ended(child(lambda one=one: train(one))) == 0
                break
        assert left(one) == whole, f"round {rounds}"
        resumed += store.record(one.id).cost.resumed is not None
        assert not store.unfinished(one.id).exists() or code == -signal.SIGKILL
        rounds += 1
    return {"kills": kills, "resumed": resumed, "rounds": rounds}


def terminate(folder: Path, case: str) -> dict[str, Any]:
    """Sends SIGTERM to a process that trains two runs side by side: each saves its state, and all exit with 75."""
    both = [run(case, seed, longer=12) for seed in (0, 1)]  # so that no run ends before the other has begun
    whole = [reference(folder, one)[0] for one in both]
    place("terminated", folder)
    jobs.cores = lambda: 2  # room for two runs of one thread
    pid = child(lambda: jobs.side_by_side([lambda one=one: train(one) for one in both], "cpu", 1))
    while not all(any(store.unfinished(one.id).glob("*.pt")) for one in both):
        assert not any(store.finished(one.id) for one in both), "a run ended before the other had a checkpoint"
        time.sleep(0.001)
    os.kill(pid, signal.SIGTERM)
    code = ended(pid)
    found = [torch.load(sorted(store.unfinished(one.id).glob("*.pt"))[-1], weights_only=True) for one in both]
    steps = [state["training"]["step"] for state in found]
    for one in both:
        assert ended(child(lambda one=one: train(one))) == 0
    assert [left(one) for one in both] == whole
    return {"code": code, "steps": steps}


def damage(folder: Path, case: str) -> dict[str, Any]:
    """Flips one bit of the newest checkpoint."""
    one = run(case, 0)
    whole, _ = reference(folder, one)
    place("damaged", folder)
    stop_after(one, 3)
    newest = sorted(store.unfinished(one.id).glob("*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    assert ended(child(lambda: train(one))) == 0
    assert left(one) == whole
    return {"newest": newest.name, "resumed": store.record(one.id).cost.resumed}


def stop_after(one: Run, checkpoints: int) -> None:
    """Kills a run as soon as it has saved a number of checkpoints."""
    pid = child(lambda: train(one))
    while not list(store.unfinished(one.id).glob(f"{checkpoints:06d}-*.pt")):
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    ended(pid)


def full_disk(folder: Path, case: str) -> dict[str, Any]:
    """Limits the size of files below that of a checkpoint, so that the system refuses writes as with a full disk."""
    one = run(case, 0)
    whole, _ = reference(folder, one)
    place("full", folder)
    stop_after(one, 2)
    before = {path.name: files.sha256(path) for path in store.unfinished(one.id).glob("*.pt")}

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        train(one)

    code = ended(child(limited))
    after = {path.name: files.sha256(path) for path in store.unfinished(one.id).iterdir()}
    assert ended(child(lambda: train(one))) == 0
    assert left(one) == whole
    return {"code": code, "intact": before == after, "kept": len(before)}


def two(folder: Path, case: str) -> dict[str, Any]:
    """Starts two processes for one run; then kills the one that trains a run while another waits for it."""
    one = run(case, 0)
    whole, _ = reference(folder, one)
    place("two", folder)
    pids = [child(lambda: train(one)) for _ in range(2)]
    codes = [ended(pid) for pid in pids]
    assert left(one) == whole
    shutil.rmtree(store.folder(one.id))
    holder = child(lambda: train(one))
    while not any(store.unfinished(one.id).glob("*.pt")):
        time.sleep(0.001)
    waiting = child(lambda: train(one))
    os.kill(holder, signal.SIGKILL)
    ended(holder)
    codes.append(ended(waiting))
    assert left(one) == whole
    return {"codes": codes, "resumed": store.record(one.id).cost.resumed}


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Here a frozen stem of Network Deconvolution updates its statistics in the first three of every seven steps.
    network_deconvolution.FREEZE_STEPS, network_deconvolution.FREEZE_CYCLE = 3, 7
    torch.use_deterministic_algorithms(True)
    # This run imports everything once for all children.
    place("warm-up", Path(sys.argv[1]))
    train(run(sys.argv[3], 99))
    scenarios = {f.__name__: f for f in (kill, terminate, damage, full_disk, two)}
    print(json.dumps(scenarios[sys.argv[2]](Path(sys.argv[1]), sys.argv[3])))
