"""The runs of the suite, and how one is trained: into the run store, unless it is finished there."""

from __future__ import annotations

import functools
import importlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from normbench.data.batches import Images, on_device
from normbench.runs import fingerprint, store
from normbench.system import device as devices
from normbench.system import files, layout, preemption
from normbench.system import side_by_side as jobs
from normbench.system.device import Numerics


@dataclass(frozen=True)
class Run:
    """One run to train: its id, resolved task, variant and dataset, the fingerprint of its training code, a title, its
    kind, one of `KINDS`, and its precision and memory format where they were chosen by a measurement."""

    id: str
    task: dict[str, Any]
    variant: dict[str, Any]
    seed: int
    bound: dict[str, Any]
    code: str
    title: str
    kind: str = "classification"
    numerics: Numerics | None = None

    @property
    def name(self) -> tuple[str, str, int]:
        """Task, variant and seed, as in params.yaml."""
        return self.task["name"], self.variant["name"], self.seed


@dataclass(frozen=True)
class Kind:
    """tasks, variants: the lists of the suite, of which the first is a section of params.yaml too. verb: the stage.
    trainer: the module whose `train_run` trains a run. loop: the file whose code, with all that it imports, shapes the
    outcome. linked: where the stage leaves a folder for each task, variant and seed."""

    tasks: str
    variants: str
    verb: str
    trainer: str
    loop: Path
    linked: Path


FID_FEATURES = "fid-features"  # the task of the classifier whose features the FID compares; it is in no suite
CODE = fingerprint.PACKAGE_ROOT / "normbench"
KINDS = {
    "classification": Kind(
        "tasks", "variants", "train", "normbench.training.classify", CODE / "training/loop.py", layout.TRAINED
    ),
    "gan": Kind("gan_tasks", "gan_variants", "gan", "normbench.gan.train", CODE / "gan/loop.py", layout.GENERATED),
}


def of(
    kind: str, task: dict[str, Any], variant: dict[str, Any], seed: int, bound: dict[str, Any], code: str, title: str
) -> Run:
    """A run with its id. task, variant: as resolved. bound: as the stage `bind` wrote it."""
    run_id = store.run_id(kind, task, variant, bound["fingerprint"], seed, code)
    return Run(run_id, task, variant, seed, bound, code, title, kind)


def bound_tasks(resolved: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """What the tasks of the suite work on, by task; and by dataset, why it is not known here (yet).

    resolved: what `resolve` returns.
    """
    found: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for kind in KINDS.values():
        for task in resolved["suite"][kind.tasks]:
            dataset = resolved[f"{kind.tasks}/{task}"]["dataset"]
            folder, spec = layout.DATA / dataset, layout.RESOLVED / f"datasets/{dataset}.json"
            if not (folder / "meta.json").is_file():
                absent[dataset] = "not here yet"
            elif not spec.is_file() or files.read_json(spec) != resolved[f"datasets/{dataset}"]:
                absent[dataset] = "another one since it was changed in params.yaml"
            else:
                found[task] = {"name": dataset, "path": str(folder), **files.read_json(folder / "meta.json")}
                if (path := layout.BOUND / f"{task}.json").is_file():
                    bound = files.read_json(path)
                    if all(bound[key] == found[task][key] for key in ("name", "fingerprint")):
                        found[task] = bound  # as it stands in records, without what training has no use for
    return found, absent


def of_suite(resolved: dict[str, Any], bound: dict[str, dict[str, Any]]) -> list[Run]:
    """The runs of the suite in its order, without those of tasks that are not in `bound` (see `bound_tasks`)."""
    suite, found = resolved["suite"], []
    for name, kind in KINDS.items():
        code = fingerprint.code([kind.loop])
        for task in suite[kind.tasks]:
            for variant in suite[kind.variants]:
                specs = resolved[f"{kind.tasks}/{task}"], resolved[f"variants/{variant}"]
                for seed in suite["seeds"] if task in bound else ():
                    found.append(of(name, *specs, seed, bound[task], code, f"{task} {variant} seed {seed}"))
    return found


def linked(run: Run) -> Path:
    """Where the stage of a run leaves it for the stages after it."""
    task, variant, seed = run.name
    return KINDS[run.kind].linked / task / variant / str(seed)


def done(run: Run) -> bool:
    """Whether a run is finished: in the store, or in the output of its stage, as DVC's cache brings it."""
    return store.finished(run.id) or _linked_id(run) == run.id


def adopt(run: Run) -> None:
    """Copies a run that is finished in the output of its stage alone into the store."""
    if not store.finished(run.id) and _linked_id(run) == run.id:
        with files.atomic_folder(store.folder(run.id)) as folder:
            shutil.copytree(linked(run), folder, dirs_exist_ok=True)


def _linked_id(run: Run) -> str | None:
    path = linked(run) / store.RECORD
    return files.read_json(path)["run"] if path.is_file() else None


def trainer(kind: str) -> Callable[[Run, dict[str, Images]], None]:
    """The function that trains a run of a kind on the images of its dataset, by split, and leaves it in the store."""
    return importlib.import_module(KINDS[kind].trainer).train_run


def code_problem(run: Run) -> str | None:
    """What of the code behind a run is another where this is called, as on another machine; None where all is equal."""
    from normbench.methods import registry as methods
    from normbench.models import registry as models

    for what, file, was in (
        ("training code", KINDS[run.kind].loop, run.code),
        ("model", models.source_file(run.task["model"]), run.task["model_code"]),
        ("method", methods.source_file(run.variant["method"]), run.variant["method_code"]),
    ):
        if fingerprint.code([file]) != was:
            return f"the {what} here ({file}) is not that of the run: bring the code up to date here"
    return None


def complete(
    kind: str,
    task: str,
    variant: str,
    loop: str,
    train: Callable[[Run, dict[str, Images]], None],
    out: Path,
    settled: Callable[[list[Run], str, int], list[Run]] = lambda todo, device, threads: todo,
) -> None:
    """Has every seed of a task and variant trained that the run store lacks, and links all of them under `out`.

    kind: `classification` or `gan`. loop: the file whose code, with all that it imports, shapes the outcome.
    train: trains a run on the images of its dataset, by split, and leaves it in the store. settled: adds to runs that
    are to be trained what is open about them, for a device and a number of threads.
    """
    task_spec = files.read_json(layout.RESOLVED / f"{KINDS[kind].tasks}/{task}.json")
    variant_spec = files.read_json(layout.RESOLVED / f"variants/{variant}.json")
    bound = files.read_json(layout.BOUND / f"{task}.json")
    code = fingerprint.code([loop])
    device = devices.choose()
    devices.prepare(device)
    data = functools.cache(lambda: load(Path(bound["path"]), device))
    ids, todo = {}, []
    for seed in task_spec["seeds"]:
        title = f"{KINDS[kind].verb} {task} {variant} seed {seed}{place(task, variant, seed)}"
        run = of(kind, task_spec, variant_spec, seed, bound, code, title)
        ids[seed] = run.id
        if store.finished(run.id):
            print(f"{title}: finished before, taken from {store.folder(run.id)}", flush=True)
            store.forget(run.id)
        else:
            todo.append(run)
    todo = settled(todo, device, jobs.shares(device, len(ids))[1])
    jobs.side_by_side([functools.partial(claim_and_train, run, train, data) for run in todo], device, len(ids))
    with files.atomic_folder(out) as folder:
        for seed, run_id in ids.items():
            store.fetch(run_id, folder / str(seed))


def claim_and_train(
    run: Run, train: Callable[[Run, dict[str, Images]], None], data: Callable[[], dict[str, Images]]
) -> bool:
    """Trains a run into the store, unless another process has it done meanwhile; returns whether it was trained."""
    with store.claimed(run.id):
        trained = not store.finished(run.id)
        if trained:
            train(run, data())
        store.forget(run.id)
    if preemption.requested():  # a signal that came where it could only be noted
        raise SystemExit(preemption.EXIT_CODE)
    return trained


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
    return images(arrays(path), device)


def arrays(path: Path) -> dict[str, Any]:
    """A dataset's folder as plain arrays: images uint8 (N, H, W, C) and labels int64 (N,) of each split, mean, std."""
    meta = files.read_json(path / "meta.json")
    found: dict[str, Any] = {"mean": meta["mean"], "std": meta["std"]}
    for split in ("train", "test"):
        found[split] = tuple(np.load(path / f"{split}_{part}.npy") for part in ("images", "labels"))
    return found


def images(plain: dict[str, Any], device: str) -> dict[str, Images]:
    """What `arrays` returns, on the device."""
    found = {}
    for split in ("train", "test"):
        # Copies, as arrays that other processes read too cannot be written.
        pixels, labels = (torch.from_numpy(part if part.flags.writeable else part.copy()) for part in plain[split])
        found[split] = on_device(pixels, labels, plain["mean"], plain["std"], device)
    return found
