"""`compare`: trains methods side by side on one dataset and returns the leaderboard as a data frame."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from pydantic import ValidationError

from normbench.checks import subjects
from normbench.data.bound import Bound, Corrupted
from normbench.data.prepared import Splits, load
from normbench.evaluation.evaluate import Chosen
from normbench.evaluation.subject import Subject, scored_images
from normbench.functional import placement
from normbench.methods.base import Method
from normbench.methods.plain import taken_for
from normbench.models import registry as models
from normbench.models.build import load_weights
from normbench.models.trial import size_problem
from normbench.notebook import dataset as datasets
from normbench.notebook.measuring import chosen, measured
from normbench.notebook.surroundings import about, undisturbed
from normbench.notebook.variants import Compared, compared
from normbench.results.frame import run_frame
from normbench.results.predicted import Arrays, prediction_table
from normbench.results.tables.comparisons import comparisons
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.leaderboard import leaderboard
from normbench.results.tables.means import Runs
from normbench.results.tables.outcomes import Known, Predictions, radii_of
from normbench.runs import classification, provenance
from normbench.runs.contents import WEIGHTS
from normbench.runs.record import Record, problem_of
from normbench.runs.run import Kind, Run
from normbench.runs.train import recorded
from normbench.suite import agreement, code, feasible
from normbench.suite.document import dotted
from normbench.suite.schema import CorruptedExamples
from normbench.system import device as devices
from normbench.system.errors import UserError, hint
from normbench.system.mistakes import mistakes
from normbench.system.progress import Progress
from normbench.system.schema import first_problem
from normbench.system.size import sides
from normbench.system.text import complain
from normbench.training import classifier
from normbench.training.keeper import Nobody
from normbench.training.recipe import Recipe
from normbench.training.task import Task

# What a recipe is if it is not told: that of the default suite (suites/digits.yaml).
RECIPE: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 64,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "crop_padding": 1,
}
SEVERITIES = (1, 2, 3, 4, 5)
BASELINE = "batch_norm"


class Comparison(pd.DataFrame):
    """The leaderboard of a comparison: a data frame with a row for each variant, and four attributes.

    Columns: those of results/leaderboard.csv. Rows: the highest clean accuracy first.

    runs: a data frame with a row for each run, as `normbench.results.load` returns it.
    comparisons: a data frame with a row for each measure and two variants, with intervals and verdicts, as
        results/comparisons.csv.
    predictions: a data frame with a row for each finished run and test image, clean and under each corruption and
        severity: `variant`, `seed`, `corruption` (`clean` for none), `severity` (0 for none), `image` (its number in
        the test set, from 0), `label` and `predicted` (the class).
    records: the record of each run by (variant, seed), with all that was measured in its `metrics`.

    Whatever pandas makes of this one frame keeps them: copies, selections, sorted frames, pickles. A frame that is made
    of several, as by `pandas.concat`, has none of them.
    """

    _metadata = ["runs", "comparisons", "predictions", "records"]

    runs: pd.DataFrame
    comparisons: pd.DataFrame
    predictions: pd.DataFrame
    records: dict[tuple[str, int], Record]

    @property
    def _constructor(self) -> type[Comparison]:
        return Comparison


def compare(
    methods: Any,
    dataset: Any = "digits",
    seeds: int | Sequence[int] = 3,
    *,
    model: str = "resnet8",
    model_options: dict[str, Any] | None = None,
    image_size: int | tuple[int, int] | None = None,
    baseline: str | None = None,
    scores: Any = (),
    corruptions: str | Sequence[str] = "all",
    severities: int | Sequence[int] = SEVERITIES,
    corrupted_examples: int | None = None,
    seed: int = 0,
    quiet: bool = False,
    **recipe: Any,
) -> Comparison:
    """Trains each method with each seed, scores it on clean and corrupted test images, and returns the leaderboard.

    The numbers are those that `dvc repro` gives for the same settings, bit for bit on a CPU. There is no run store, so
    every call trains anew, one run after the other in this process. A class that is compared is first tried on a few
    images.

    methods: a list of names (`"batch_norm"`), references (`"my_norms.py:MyNorm"`, `"package.module:MyNorm"`), classes
        (a plain `nn.Module` as `adapted` in `normbench/methods/plain.py` takes it, or a subclass of `Method`), `Method`
        objects, and pairs of a name, reference or class and its options (`("group_norm", {"groups": 4})`). A mapping
        `{name: method}` gives the variants other names.
    dataset: the name of a dataset of the params.yaml in the working directory, or else of a source without required
        options (`"digits"`, `"cifar10"`); or four arrays or tensors: training images, training labels, test images and
        test labels, as a list or under these names in a mapping (`train_images`, ...). Images are integers from 0 to
        255, (N, H, W, C), (N, C, H, W) or grey (N, H, W); labels are whole numbers from 0.
    seeds: how many runs there are of each variant, or their seeds.
    model, model_options: as `model` and `model_options` of a task. image_size: the size to which images are resized,
        in pixels, for a square or (height, width); None for that of the dataset.
    baseline: the variant to which the mCE is relative; by default batch_norm or, without it, the first.
    scores: further scores, by name or with settings (`{"attacks": {"examples": 100}}`), as in `evaluation`. Their
        numbers are columns of `runs`, and the rest is in `records`.
    corruptions, severities: names or references, and some of 1 to 5. corrupted_examples: how many test images are
        scored with corruptions; None for all.
    seed: the suite's, of random draws that all runs share.
    quiet: whether to show no progress on stderr.
    recipe: keys of a task's recipe, such as `epochs`, `batch_size` and `lr`; by default they are the default suite's.

    Images are kept in a temporary folder during the call, and nothing else is left but downloaded archives: in
    NORMBENCH_DOWNLOADS or the user's cache (`~/.cache/normbench/downloads` on Linux), but for a dataset of params.yaml
    where the pipeline has them. The global generators and torch's settings are as before the call. The device is the
    one that normbench chooses (NORMBENCH_DEVICE selects another).

    Raises UserError, before any training, for arguments that are not valid.
    """
    with undisturbed(quiet), TemporaryDirectory(prefix="normbench-") as folder:
        variants, further = compared(methods), chosen(scores)
        names, levels = datasets.corruption_names(corruptions, severities)
        reference = _baseline(baseline, [each.variant.name for each in variants])
        task = _task(dataset, model, model_options or {}, seed, _seeds(seeds), recipe)
        evaluation = _evaluation(corrupted_examples, further)
        bound = datasets.prepared(dataset, image_size, Path(folder) / "data")
        _check(task, bound, variants, evaluation, quiet)
        runs = _runs(task, variants, bound)
        corrupted = datasets.corrupted(bound, names, levels, seed, Path(folder) / "corrupted")
        every = Every(task, bound, corrupted, load(bound, devices.choose()), further, evaluation, Path(folder))
        for run, method in runs:
            every.train(run, method)
        return every.comparison(reference)


@dataclass(frozen=True)
class Every:
    """All runs of a comparison, and what they share.

    folder: for the files of a run. records, predictions: of the runs that have ended, by variant and seed.
    """

    task: Task
    bound: Bound
    corrupted: Corrupted
    data: Splits
    scores: list[Chosen]
    evaluation: dict[str, Any]
    folder: Path
    records: dict[tuple[str, int], Record] = field(default_factory=dict)
    predictions: dict[tuple[str, int], Arrays] = field(default_factory=dict)

    def train(self, run: Run, method: Method) -> None:
        """Trains and scores a run."""
        key, started = (run.variant.name, run.seed), provenance.now()
        with TemporaryDirectory(dir=self.folder) as files:
            with Progress(run.title, run.steps) as progress:
                trained = classification.train_with(method, run, self.task, self.data, Nobody(), progress)
                progress.close(trained.summary)
            record = recorded(run, trained, Path(files), self.data.device, started)
            if not record.finished:
                self.records[key] = record
                return
            subject = self.subject(method, run.seed, Path(files) / WEIGHTS)
            with about(f"{run.variant.name}: what it computes is not all in its parameters and buffers"):
                agreement.check(record, Path(files), subject)
        scores, seconds = measured(subject, [None, *self.scores], run.title)
        inputs = {"corrupted": self.corrupted, "evaluation": self.evaluation}
        self.records[key] = record.with_scores(scores.metrics, seconds, inputs)
        self.predictions[key] = scores.predictions

    def subject(self, method: Method, seed: int, weights: Path) -> Subject:
        """The network with its stored weights, and the test images, prepared as the stage `evaluate` does."""
        recipe, device = self.task.recipe, self.data.device
        devices.prepare(device, recipe.precision, recipe.deterministic)
        devices.use_threads(recipe.threads, device)
        model = models.get(self.task.model, "classifier")
        untrained = functools.partial(classifier.network, self.task, model, method, self.bound, seed)
        network = placement.placed(load_weights(untrained(), weights), device, recipe.memory_format).eval()
        return Subject(
            model=network,
            initial=lambda: placement.placed(untrained(), device, recipe.memory_format).eval(),
            images=self.data.test.made_for(network, recipe.memory_format),
            corrupted=self.corrupted,
            index=scored_images(len(self.data.test), self.task.seed, self.evaluation["corrupted_examples"]),
            precision=recipe.precision,
            seed=self.task.seed,
        )

    def comparison(self, baseline: str) -> Comparison:
        """The tables of all runs."""
        runs: Runs = {}
        for (variant, _), record in self.records.items():
            runs.setdefault((self.task.name, variant), []).append(record)
        labels = self.data.test.labels.cpu().numpy()
        known: Known = {
            (self.task.name, *key): Predictions.of(dict(found), labels, radii_of(self.records[key]))
            for key, found in self.predictions.items()
        }
        compared = comparisons({Kind.CLASSIFICATION: runs}, known)
        chosen = Corruptions(names=self.corrupted.names, severities=self.corrupted.severities)
        table = leaderboard(runs, baseline, chosen, compared)
        found = Comparison(table.rows, columns=list(table.columns))
        found.runs = run_frame((self.task.name, variant, record) for (variant, _), record in self.records.items())
        found.comparisons = pd.DataFrame(compared.rows, columns=list(compared.columns))
        found.predictions = prediction_table(self.predictions, labels)
        found.records = self.records
        return found


def _task(
    dataset: Any, model: str, model_options: dict[str, Any], seed: int, seeds: list[int], recipe: dict[str, Any]
) -> Task:
    """The task of all runs. Raises UserError, with one line for each, for what is not valid."""
    with about(f"model = {model!r}"):
        entry = models.get(model, "classifier")
    wrong = {name: entry.option_problem(name, value) for name, value in model_options.items()}
    lines = [f"model_options: {name} = {model_options[name]!r}: {text}" for name, text in wrong.items() if text]
    if lines:
        raise UserError(*lines)
    checked = _recipe(recipe)
    lines = [
        f"{dotted(keys)} = {getattr(checked, str(keys[0]))!r}: {text}" for keys, text in feasible.of_recipe(checked)
    ]
    if lines:
        raise UserError(*lines)
    name = dataset if isinstance(dataset, str) else datasets.ARRAYS_NAME
    given = {
        "name": f"{name}-{entry.name}",
        "dataset": name,
        "model": model,
        "model_options": entry.options() | entry.typed(model_options),
        "recipe": checked,
        "seed": seed,
        "seeds": seeds,
        "model_code": code.model(model),
    }
    try:
        task = Task.model_validate(given)
        return task.model_copy(update={"loss_code": code.loss(task)})
    except ValidationError as error:
        raise UserError(first_problem(error)) from None


def _recipe(given: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(RECIPE | given)
    except ValidationError as error:
        own = [
            name for name, each in inspect.signature(compare).parameters.items() if each.kind is not each.VAR_KEYWORD
        ]
        lines = []
        for keys, text in mistakes(error, Recipe, RECIPE | given).items():
            if len(keys) == 1 and keys[0] not in Recipe.model_fields:
                text = f"unknown; {hint(keys[0], [*own, *Recipe.model_fields])}"
            value = f" = {given[str(keys[0])]!r}" if len(keys) == 1 else ""
            lines.append(f"{dotted(keys)}{value}: {text}")
        raise UserError(*lines) from None


def _seeds(seeds: Any) -> list[int]:
    """The seeds of the runs. Raises UserError unless they are different whole numbers of at least 0."""
    given = range(int(seeds)) if isinstance(seeds, Integral) else seeds if isinstance(seeds, Iterable) else ()
    found = [int(each) if isinstance(each, Integral) else -1 for each in given]
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise UserError(f"seeds = {seeds!r}: a number of runs is needed, or different whole numbers of at least 0")
    return found


def _baseline(baseline: str | None, names: list[str]) -> str:
    if baseline is None:
        return BASELINE if BASELINE in names else names[0]
    if baseline not in names:
        raise UserError(f"baseline = {baseline!r}: is not compared; {hint(baseline, names)}")
    return baseline


def _evaluation(corrupted_examples: Any, scores: list[Chosen]) -> dict[str, Any]:
    """The settings of the scores as the section `evaluation` has them."""
    try:
        checked = CorruptedExamples(corrupted_examples=corrupted_examples)
    except ValidationError as error:
        raise UserError(first_problem(error)) from None
    return checked.json_value() | {score.name: settings.json_value() for score, settings in scores}


def _check(task: Task, bound: Bound, variants: list[Compared], evaluation: dict[str, Any], quiet: bool) -> None:
    """Raises UserError for what cannot be trained or scored on a dataset, and for mistakes in own methods."""
    model = models.get(task.model)
    unfit = size_problem(model, task.model_options, *sides(bound.image_size), bound.channels)
    if unfit:
        raise UserError(f"model = {task.model!r}: {unfit}")
    problems = feasible.of_task(task, bound, [], evaluation)
    lines = [f"{dotted(keys[1:] if keys[0] == 'recipe' else keys)}: {text}" for keys, text in problems]
    if lines:
        raise UserError(*lines)
    devices.use_threads(1, "cpu")
    notes: list[str | None] = []
    for each in variants:
        notes.append(taken_for(type(each.method)))
        if each.own or ":" in task.model or subjects.last_batch(task, bound) == 1:
            notes += subjects.check(task, model, each.method, bound, f"variant {each.variant.name}")
    if not quiet:
        complain(*(f"note: {note}" for note in dict.fromkeys(notes) if note))


def _runs(task: Task, variants: list[Compared], bound: Bound) -> list[tuple[Run, Method]]:
    """All runs, with their methods. Raises UserError for one that could have no record."""
    digest, total = code.training(Kind.CLASSIFICATION), len(variants) * len(task.seeds)
    found: list[tuple[Run, Method]] = []
    for each, seed in itertools.product(variants, task.seeds):
        title = f"{each.variant.name} seed {seed}, run {len(found) + 1} of {total}"
        run = Run(Kind.CLASSIFICATION, task, each.variant, seed, bound, digest, title)
        problem = problem_of(run)
        if problem is not None:
            raise UserError(problem)
        found.append((run, each.method))
    return found
