"""The runs of the suite: which there are, which are finished, and the adoption of finished runs that DVC has pulled."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from normbench.data import intact
from normbench.data.bound import Bound
from normbench.runs import archive, code, store
from normbench.runs.contents import RECORD
from normbench.runs.record import TrainedRecord
from normbench.runs.run import OUTPUTS, Run
from normbench.suite.resolved import Resolved, is_written
from normbench.suite.suite import Suite
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.schema import first_problem
from normbench.system.text import complain

NAMED = 5  # damaged runs that have a line of their own


def bound_tasks(resolved: Resolved) -> tuple[dict[str, Bound], dict[str, str]]:
    """Returns the dataset of each task, and the reason why a dataset is not prepared here.

    The first dictionary is by the name of the task, the second by the name of the dataset.
    """
    found: dict[str, Bound] = {}
    absent: dict[str, str] = {}
    for tasks in resolved.tasks.values():
        for name, task in tasks.items():
            dataset = task.dataset
            folder = layout.DATA / dataset
            if not (folder / "meta.json").is_file():
                absent[dataset] = "not here yet"
            elif not is_written(f"datasets/{dataset}", resolved.datasets[dataset]):
                absent[dataset] = "another one since params.yaml or its files have changed"
            else:
                found[name] = bound_dataset(dataset)
    return found, absent


def bound_dataset(name: str) -> Bound:
    """Returns the facts about a prepared dataset that its runs depend on.

    Raises UserError if they are damaged.
    """
    folder = layout.DATA / name
    meta = intact.meta(folder)
    kept = {key: meta[key] for key in Bound.model_fields if key in meta}
    kept |= {"reader_code": code.reader()} if "stream" in meta else {}
    try:
        return Bound.model_validate(kept | {"name": name, "path": str(folder)})
    except ValidationError as error:
        raise UserError(f"{folder / 'meta.json'}: {first_problem(error)}; `dvc repro` restores it") from None


def of_suite(resolved: Resolved, bound: dict[str, Bound]) -> list[Run]:
    """Returns the runs of the suite in its order, without those of tasks that are not in `bound`.

    bound: the datasets by task, as `bound_tasks` returns them.
    """
    return [
        Run(
            kind,
            *resolved.variants[variant].on(resolved.tasks[kind][task]),
            seed,
            bound[task],
            resolved.training_digest(kind),
            f"{task} {variant} seed {seed}",
        )
        for kind, task, variant, seed in resolved.suite.names()
        if task in bound
    ]


def adopt_outputs(suite: Suite) -> None:
    """Copies finished runs from the outputs of the suite's stages into the run store, unless it has them.

    After `dvc pull`, finished runs lie only in the outputs, and DVC removes the outputs of a stage before it runs the
    stage. Without this copy, one more seed would train all seeds of a stage again. Damaged runs, and runs with records
    of another version are skipped; a line names each of the first of them.
    """
    refused: list[str] = []
    for kind, task, variant in dict.fromkeys((kind, task, variant) for kind, task, variant, _ in suite.names()):
        for path in sorted((OUTPUTS[kind] / task / variant).glob(f"*/{RECORD}")):
            try:
                adopt(path.parent)
            except UserError as error:
                refused.append(str(error))
    for text in refused[:NAMED]:
        complain(f"{text}; not taken into the run store")
    if len(refused) > NAMED:
        complain(f"and {len(refused) - NAMED} more runs were not taken into the run store")


def adopt(folder: Path) -> None:
    """Copies a finished run into the store, verified, unless it is there.

    Raises UserError if the run is damaged.
    """
    run = TrainedRecord.read(folder / RECORD).run
    if store.sound(run) or store.busy(run):
        return
    archive.check_content(folder, run, folder)
    with store.claimed(run):
        if not store.sound(run):
            store.set_aside(run)
            with files.atomic_folder(store.folder(run)) as target:
                files.copy_folder(folder, target)
