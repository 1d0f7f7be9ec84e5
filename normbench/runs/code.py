"""The digests of the code that trains runs: each covers its entry points and everything that they use."""

from __future__ import annotations

from pathlib import Path

from normbench.methods import registry as methods
from normbench.methods.plain import PlainMethod, installed_version
from normbench.models import registry as models
from normbench.runs.run import Kind, Run
from normbench.system import digests, files
from normbench.system.errors import UserError
from normbench.system.fingerprint import Root
from normbench.training.task import Task, TaskEntry

PACKAGE = Path(__file__).resolve().parents[1]

# The functions that shape the outcome of a run of each kind, as file and name.
TRAINING = {
    Kind.CLASSIFICATION: [
        ("data/prepared.py", "load"),
        ("training/classifier.py", "prepare"),
        ("training/classifier.py", "fit"),
        ("training/classifier.py", "measure"),
    ],
    Kind.SEGMENTATION: [
        ("data/scenes.py", "load"),
        ("segmentation/trainer.py", "prepare"),
        ("segmentation/trainer.py", "fit"),
        ("segmentation/trainer.py", "measure"),
    ],
    Kind.GAN: [
        ("data/prepared.py", "load"),
        ("gan/trainer.py", "prepare"),
        ("gan/trainer.py", "fit"),
        ("gan/trainer.py", "samples"),
    ],
}


# How a plain class of layers is used as a method.
ADAPTED = Root(PACKAGE / "methods/plain.py", "adapted")
# How a classifier is trained whose recipe has a loss.
CERTIFIED = Root(PACKAGE / "training/certified.py", "fit")


# How the images of a streamed dataset are read.
STREAMED = Root(PACKAGE / "data/streamed.py", "load")


def training(kind: Kind) -> str:
    """Returns the digest of the code that trains a run of a kind, without its model and its method."""
    return digest([Root(PACKAGE / file, name) for file, name in TRAINING[kind]])


def loss(task: TaskEntry) -> str | None:
    """Returns the digest of the code that trains with a loss of the recipe's own; None if it has none."""
    return digest([CERTIFIED]) if task.recipe.loss is not None else None


def reader() -> str:
    """Returns the digest of the code that reads the images of streamed datasets."""
    return digest([STREAMED])


def model(reference: str) -> str:
    """Returns the digest of the code of a model."""
    entry = models.get(reference)
    return digest([Root(*entry.source)])


def method(reference: str) -> str:
    """Returns the digest of the code of a method; for a plain class of an installed package, of its version."""
    kind = methods.method_class(reference)
    roots = [ADAPTED] if issubclass(kind, PlainMethod) else []
    version = installed_version(kind)
    if version is not None:
        return files.hash_of([version, kind.__module__, kind.__qualname__, digest(roots)])
    return digest([*roots, Root(methods.source_file(reference), kind.__name__)])


def digest(roots: list[Root]) -> str:
    """Returns the digest of what the root definitions mean, with everything that they use."""
    return files.hash_of([[root.name for root in roots], digests.digest(roots)])


_compared: dict[tuple[str | None, ...], str | None] = {}


def problem(run: Run) -> str | None:
    """Returns how the code that would train a run differs from that in its id; None if it does not.

    It differs after an edit since params.yaml was resolved, or on another machine. It is compared once in a process.
    """
    losses = (loss(run.task), run.task.loss_code) if isinstance(run.task, Task) else (None, None)
    readers = (reader(), run.bound.reader_code) if run.bound.reader_code is not None else (None, None)
    key = (
        run.kind,
        run.code,
        run.task.model,
        run.task.model_code,
        run.variant.method,
        run.variant.method_code,
        *losses,
        *readers,
    )
    if key not in _compared:
        compared = (
            ("training code", training(run.kind), run.code),
            (f"model {run.task.model}", model(run.task.model), run.task.model_code),
            (f"method {run.variant.method}", method(run.variant.method), run.variant.method_code),
            ("training with a loss", *losses),
            ("reading of streamed images", *readers),
        )
        changed = [what for what, here, was in compared if here != was]
        _compared[key] = f"the {changed[0]} here is not that of the run: bring the code up to date" if changed else None
    return _compared[key]


def unusable(run: Run) -> str | None:
    """Returns why the network of a run of unknown origin cannot be built here; None if it can.

    Its code must be here, and the same. Code of the user's own is imported only if it is a file of this project with
    the digest that the run has, so that a foreign record cannot choose what is executed.
    """
    try:
        for what, reference, was in (
            ("model", run.task.model, run.task.model_code),
            ("method", run.variant.method, run.variant.method_code),
        ):
            place, colon, name = reference.partition(":")
            if not colon:
                continue
            file = Path(place)
            if file.suffix != ".py" or not file.resolve().is_relative_to(Path.cwd()) or not file.is_file():
                return f"its {what} {reference} is no file of this project"
            code = Root(file, name)
            # Before its import, nothing tells whether a method is a plain class.
            if was not in [digest([code]), *([digest([ADAPTED, code])] if what == "method" else [])]:
                return f"its {what} {reference} has other code here"
        return problem(run)
    except (UserError, OSError, ValueError) as error:
        return str(error).partition("\n")[0]
