"""The resolved params.yaml: one small JSON file for each dataset, task and variant, which the later stages read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from normbench.gan.evaluation import Scoring
from normbench.gan.task import GanTask
from normbench.runs.run import Kind
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Variant
from normbench.segmentation.task import SegmentationTask
from normbench.suite.suite import DIGESTS, SECTIONS, TRAINING_STAGES, Suite
from normbench.system import files, layout
from normbench.system.errors import UserError, hint
from normbench.system.schema import first_problem
from normbench.training.task import Task

CORRUPTIONS = {"names", "severities", "seed", "engine", "constants", "source"}  # keys of resolved corruptions
DATASET = {"name", "source", "source_code", "image_size"}  # some of the keys of a resolved dataset
TASKS: dict[Kind, type[Task] | type[SegmentationTask] | type[GanTask]] = {
    Kind.CLASSIFICATION: Task,
    Kind.SEGMENTATION: SegmentationTask,
    Kind.GAN: GanTask,
}


@dataclass(frozen=True)
class Resolved:
    """The values of the suite, with all names looked up and all defaults filled in.

    datasets: the input of the stage `download`, by name. tasks: by kind and name. variants: by name. corruptions: the
    input of the stage `corrupt`. evaluation, gan_evaluation: the input of the stages `evaluate` and `fid`. code: the
    digest of each stage's code, by stage.
    """

    suite: Suite
    datasets: dict[str, dict[str, Any]]
    tasks: dict[Kind, dict[str, AnyTask]]
    variants: dict[str, Variant]
    corruptions: dict[str, Any]
    evaluation: dict[str, Any]
    gan_evaluation: Scoring
    code: dict[str, dict[str, Any]]

    def training_digest(self, kind: Kind) -> str:
        """Returns the digest of the code that trains the runs of a kind."""
        return self.code[TRAINING_STAGES[kind]][DIGESTS[kind]]

    def files(self) -> dict[str, Any]:
        """Returns the JSON value of each file in build/resolved, by its name without the ending."""
        values: dict[str, Any] = {
            "suite": self.suite.json_value(),
            "corruptions": self.corruptions,
            "evaluation": self.evaluation,
            "gan_evaluation": self.gan_evaluation.json_value(),
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
        return all(is_written(name, value) for name, value in self.files().items())


def is_written(name: str, value: Any) -> bool:
    """Whether a file of build/resolved holds a value; a damaged file does not. name: without the ending."""
    try:
        return bool(files.read_json(layout.RESOLVED / f"{name}.json") == value)
    except (OSError, UserError):
        return False


def task(kind: Kind, name: str) -> AnyTask:
    """Returns a resolved task. Raises UserError if the suite has none of that name."""
    return TASKS[kind].read(_existing(SECTIONS[kind], name))


def variant(name: str) -> Variant:
    """Returns a resolved variant. Raises UserError if the suite has none of that name."""
    return Variant.read(_existing("variants", name))


def dataset(name: str) -> dict[str, Any]:
    """Returns a resolved dataset. Raises UserError if the suite has none of that name."""
    return _object(_existing("datasets", name), DATASET, None)


def corruptions() -> dict[str, Any]:
    """Returns the resolved corruptions. Raises UserError, with the command that mends it, if the file is damaged."""
    return _object(layout.RESOLVED / "corruptions.json", CORRUPTIONS, {"references", "outside", "stored"})


def evaluation() -> dict[str, Any]:
    """Returns the settings of the scores. Raises UserError, with the command that mends it, if the file is damaged."""
    return _object(layout.RESOLVED / "evaluation.json", {"corrupted_examples"}, None)


def gan_evaluation() -> Scoring:
    """Returns how GANs are scored. Raises UserError, with the command that mends it, if the file is damaged."""
    known = set(Scoring.model_fields)
    try:
        return Scoring.model_validate(_object(layout.RESOLVED / "gan_evaluation.json", known, set()))
    except ValidationError as error:
        raise damaged("gan_evaluation", first_problem(error)) from None


def digest(stage: str) -> str:
    """Returns the digest of the code of a stage. Raises UserError like `corruptions`."""
    return _object(layout.RESOLVED / f"code/{stage}.json", {"digest"}, None)["digest"]


def training_digest(kind: Kind) -> str:
    """Returns the digest of the code that trains the runs of a kind. Raises UserError like `corruptions`."""
    return _object(layout.RESOLVED / f"code/{TRAINING_STAGES[kind]}.json", {DIGESTS[kind]}, None)[DIGESTS[kind]]


def corruption_code() -> dict[str, str]:
    """Returns the digest of the code of each corruption of the suite, by name. Raises UserError like `corruptions`."""
    found = _object(layout.RESOLVED / "code/corrupt.json", {"digest", "corruptions"}, None)
    return {name: files.hash_of([found["digest"], code]) for name, code in found["corruptions"].items()}


def damaged(name: str | Path, problem: str) -> UserError:
    """Returns the error for a damaged file of build/resolved, with the command that mends it. name: as `is_written`."""
    mend = "`dvc repro resolve` restores it (without DVC: `python -m stages.resolve`)"
    return UserError(f"{layout.RESOLVED / name}.json: {problem}; {mend}")


def _object(path: Path, needed: set[str], others: set[str] | None) -> dict[str, Any]:
    """Returns the object in a file of build/resolved, which has the needed keys and no others than these (None: any).

    These files may also be damaged where no model reads them.
    """
    try:
        found = files.read_json(path)
    except OSError as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
    except UserError:
        problem = "is damaged"
    else:
        if isinstance(found, dict) and needed <= found.keys() and (others is None or found.keys() <= needed | others):
            return found
        problem = "is damaged"
    raise damaged(path.relative_to(layout.RESOLVED).with_suffix(""), problem)


def _existing(section: str, name: str) -> Path:
    folder = layout.RESOLVED / section
    path = folder / f"{name}.json"
    if not path.is_file():
        known = [found.stem for found in folder.glob("*.json")]
        raise UserError(f"{path}: no such {section.removesuffix('s').replace('_', ' ')}; {hint(name, known)}")
    return path
