"""The resolved params.yaml: one small JSON file for each dataset, task and variant, which the later stages read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from normbench.gan.task import GanTask
from normbench.runs.run import Kind
from normbench.runs.variant import Variant
from normbench.suite.suite import SECTIONS, Suite
from normbench.system import files, layout
from normbench.system.errors import UserError, hint
from normbench.training.task import Task

TASKS: dict[Kind, type[Task] | type[GanTask]] = {Kind.CLASSIFICATION: Task, Kind.GAN: GanTask}


@dataclass(frozen=True)
class Resolved:
    """The values of the suite, with all names looked up and all defaults filled in.

    datasets: the input of the stage `download`, by name. tasks: by kind and name. variants: by name. corruptions: the
    input of the stage `corrupt`. evaluation: the input of the stage `evaluate`. code: the digest of each stage's code,
    by stage.
    """

    suite: Suite
    datasets: dict[str, dict[str, Any]]
    tasks: dict[Kind, dict[str, Task | GanTask]]
    variants: dict[str, Variant]
    corruptions: dict[str, Any]
    evaluation: dict[str, Any]
    code: dict[str, dict[str, Any]]

    def files(self) -> dict[str, Any]:
        """Returns the JSON value of each file in build/resolved, by its name without the ending."""
        values: dict[str, Any] = {
            "suite": self.suite.json_value(),
            "corruptions": self.corruptions,
            "evaluation": self.evaluation,
        }
        values |= {f"datasets/{name}": value for name, value in self.datasets.items()}
        for kind, section in SECTIONS.items():
            values |= {f"{section}/{name}": task.json_value() for name, task in self.tasks[kind].items()}
        values |= {f"variants/{name}": variant.json_value() for name, variant in self.variants.items()}
        return values | {f"code/{stage}": value for stage, value in self.code.items()}

    def write(self, to: Path = layout.RESOLVED) -> None:
        """Writes the files into a folder, which is replaced atomically."""
        with files.atomic_folder(to) as folder:
            for name, value in self.files().items():
                files.write_json(folder / f"{name}.json", value)

    def is_written(self) -> bool:
        """Whether build/resolved holds these values."""
        places = {layout.RESOLVED / f"{name}.json": value for name, value in self.files().items()}
        return all(path.is_file() and files.read_json(path) == value for path, value in places.items())


def task(kind: Kind, name: str) -> Task | GanTask:
    """Returns a resolved task. Raises UserError if the suite has none of that name."""
    return TASKS[kind].read(_existing(SECTIONS[kind], name))


def variant(name: str) -> Variant:
    """Returns a resolved variant. Raises UserError if the suite has none of that name."""
    return Variant.read(_existing("variants", name))


def dataset(name: str) -> dict[str, Any]:
    """Returns a resolved dataset. Raises UserError if the suite has none of that name."""
    return files.read_json(_existing("datasets", name))


def digest(stage: str) -> str:
    """Returns the digest of the code of a stage."""
    return files.read_json(layout.RESOLVED / f"code/{stage}.json")["digest"]


def _existing(section: str, name: str) -> Path:
    folder = layout.RESOLVED / section
    path = folder / f"{name}.json"
    if not path.is_file():
        known = [found.stem for found in folder.glob("*.json")]
        raise UserError(f"{path}: no such {section.removesuffix('s').replace('_', ' ')}; {hint(name, known)}")
    return path
