"""All seeds of a task and variant: from the run store where they are finished, else trained into it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench import device as devices
from normbench import files, fingerprint, jobs, layout, store
from normbench.data.batches import Images, on_device


@dataclass(frozen=True)
class Run:
    """One run to train: its id, resolved task, variant and dataset, the fingerprint of its training code, a title."""

    id: str
    task: dict[str, Any]
    variant: dict[str, Any]
    seed: int
    bound: dict[str, Any]
    code: str
    title: str


def complete(
    kind: str,
    task: str,
    variant: str,
    loop: str,
    train: Callable[[Run, dict[str, Images]], None],
    out: Path,
) -> None:
    """Has every seed of a task and variant trained that the run store lacks, and links all of them under `out`.

    kind: `classification` or `gan`. loop: the file whose code, with all that it imports, shapes the outcome.
    train: trains a run on the images of its dataset, by split, and leaves it in the store.
    """
    section = "tasks" if kind == "classification" else "gan_tasks"
    task_spec = files.read_json(layout.RESOLVED / f"{section}/{task}.json")
    variant_spec = files.read_json(layout.RESOLVED / f"variants/{variant}.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    code = fingerprint.code([loop])
    device = devices.choose()
    devices.prepare(device)
    data = functools.cache(lambda: load(Path(bound["path"]), device))
    ids, missing = {}, []
    for seed in task_spec["seeds"]:
        ids[seed] = store.run_id(kind, task_spec, variant_spec, bound["fingerprint"], seed, code)
        verb = "train" if kind == "classification" else "gan"
        title = f"{verb} {task} {variant} seed {seed}{place(task, variant, seed)}"
        if store.finished(ids[seed]):
            print(f"{title}: finished before, taken from {store.folder(ids[seed])}", flush=True)
        else:
            run = Run(ids[seed], task_spec, variant_spec, seed, bound, code, title)
            missing.append(functools.partial(claim_and_train, run, train, data))
    jobs.side_by_side(missing, device, len(ids))
    with files.atomic_folder(out) as folder:
        for seed, run_id in ids.items():
            store.fetch(run_id, folder / str(seed))


def claim_and_train(
    run: Run, train: Callable[[Run, dict[str, Images]], None], data: Callable[[], dict[str, Images]]
) -> None:
    """Trains a run into the store, unless another process has it done meanwhile."""
    with store.claimed(run.id):
        if not store.finished(run.id):
            train(run, data())


def place(task: str, variant: str, seed: int) -> str:
    """`, run 4 of 24`: where a run stands in the suite; nothing where that is not known."""
    try:
        suite = files.read_json(layout.RESOLVED / "suite.json")
    except OSError:
        return ""
    runs = [(t, v, s) for t in suite["tasks"] for v in suite["variants"] for s in suite["seeds"]]
    runs += [(t, v, s) for t in suite["gan_tasks"] for v in suite["gan_variants"] for s in suite["seeds"]]
    return f", run {runs.index((task, variant, seed)) + 1} of {len(runs)}" if (task, variant, seed) in runs else ""


def load(path: Path, device: str) -> dict[str, Images]:
    """`train` and `test` of a dataset's folder, on the device."""
    meta = files.read_json(path / "meta.json")
    return {
        split: on_device(
            torch.from_numpy(np.load(path / f"{split}_images.npy")),
            torch.from_numpy(np.load(path / f"{split}_labels.npy")),
            meta["mean"],
            meta["std"],
            device,
        )
        for split in ("train", "test")
    }
