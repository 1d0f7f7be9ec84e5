"""Resolves params.yaml into one small JSON for each dataset, task and variant, and digests of the code of each stage.

A later stage depends on such files and never on params.yaml itself, so a new variant changes no existing file.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any, Literal

from normbench.checks import corruption
from normbench.checks.method import problems as method_problems
from normbench.corruptions import SMALLEST_SIDE as SMALLEST_HERE
from normbench.corruptions import registry as corruptions
from normbench.corruptions.constants import BENCHMARK
from normbench.corruptions.imagecorruptions_engine import SMALLEST_SIDE, check_name, check_sides
from normbench.data import outside
from normbench.data.sources import registry as sources
from normbench.data.sources.base import COMMON_KEYS, Source
from normbench.evaluation.registry import SCORES
from normbench.gan.evaluation import Scoring
from normbench.gan.inception import OFFICIAL
from normbench.gan.task import GanTaskEntry
from normbench.methods import registry as methods
from normbench.methods.base import Method
from normbench.models import registry as models
from normbench.models.trial import size_problem
from normbench.runs.run import Kind
from normbench.runs.tasks import AnyTask
from normbench.runs.variant import Variant
from normbench.segmentation.task import SegmentationTaskEntry
from normbench.suite import code, feasible, trial
from normbench.suite.document import Keys
from normbench.suite.file import ParamsFile, check_options, typed_options
from normbench.suite.look import of_corruptions
from normbench.suite.resolved import TASKS, Resolved
from normbench.suite.runs import adopt_outputs
from normbench.suite.schema import NAME, Dataset
from normbench.suite.suite import SECTIONS, Suite
from normbench.system import blame, files, layout
from normbench.system.digests import one_reading
from normbench.system.errors import UserError, hint
from normbench.system.size import sides
from normbench.training.task import Task, TaskEntry

SIDE = 32  # pixels of the images on which the user's own corruptions are tried


class Resolver:
    """Resolves a params.yaml of valid structure: collects one line for each mistake, and the JSON values."""

    def __init__(self, file: ParamsFile):
        self.file, self.params = file, file.params
        self.problems: list[str] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.sources: dict[str, type[Source]] = {}  # by the name of the dataset
        self.reads: dict[str, list[str]] = {}  # by the name of the dataset
        self.tasks: dict[Kind, dict[str, AnyTask]] = {kind: {} for kind in Kind}
        self.variants: dict[str, Variant] = {}

    def problem(self, keys: Keys, message: str) -> None:
        """Notes a mistake at a place in params.yaml."""
        self.problems.append(self.file.problem(keys, message))

    def resolve(self) -> None:
        """Returns the resolved values of params.yaml. Raises UserError with one line for each mistake."""
        suite = self.params.suite
        for name in dict.fromkeys([*self.params.datasets, *(n for n in suite.datasets if n in self.builtin())]):
            self.dataset(name)
        for name, entry in self.params.tasks.items():
            self.task(kind_of(entry), name, entry)
        for name, gan_entry in self.params.gan_tasks.items():
            self.task(Kind.GAN, name, gan_entry)
        for name in self.params.variants:
            self.variant(name)
        known_datasets = sorted({*self.params.datasets, *self.builtin()})
        self.names("datasets", suite.datasets, known_datasets)
        self.names("tasks", suite.tasks, self.params.tasks)
        self.names("variants", suite.variants, self.params.variants)
        self.names("gan_tasks", suite.gan_tasks, self.params.gan_tasks)
        self.names("gan_variants", suite.gan_variants, self.params.variants)
        self.suite()
        self.networks()
        self.corruptions()
        self.evaluation()
        self.gan_evaluation()
        if self.problems:
            raise UserError(*self.problems)

    def names(self, key: str, chosen: list[str], known: Any) -> None:
        """Checks a list of names in the suite: each is known, occurs once, and can be part of the name of a stage."""
        for index, name in enumerate(chosen):
            if name not in known:
                self.problem(("suite", key, index), f"unknown; {hint(name, known)}")
            elif not NAME.fullmatch(name):
                self.problem(("suite", key, index), "a name has at most 100 letters, digits, '_' and '-'")
            elif name in chosen[:index]:
                self.problem(("suite", key, index), "stands here twice")

    def suite(self) -> None:
        """Checks the section `suite` as a whole."""
        suite = self.params.suite
        if len(set(suite.seeds)) < len(suite.seeds):
            self.problem(("suite", "seeds"), "a seed stands here twice")
        for tasks, variants in (("tasks", "variants"), ("gan_tasks", "gan_variants")):
            if bool(getattr(suite, tasks)) != bool(getattr(suite, variants)):
                empty = variants if getattr(suite, tasks) else tasks
                self.problem(("suite", empty), f"empty, while suite.{tasks if empty == variants else variants} is not")
        if not any((suite.tasks, suite.variants, suite.gan_tasks, suite.gan_variants)):
            self.problem(("suite", "tasks"), "the suite is empty: name at least one task and one variant")
        if suite.tasks and suite.baseline not in suite.variants:
            message = f"must be one of suite.variants; {hint(suite.baseline, suite.variants)}"
            self.problem(("suite", "baseline"), message)
        for section, chosen in (("tasks", suite.tasks), ("gan_tasks", suite.gan_tasks)):
            for name in chosen:
                task = getattr(self.params, section).get(name)
                if task is not None and task.dataset not in suite.datasets:
                    message = f"not in suite.datasets = {suite.datasets}, which lists what is downloaded"
                    self.problem((section, name, "dataset"), message)
        # DVC names a stage `task-variant`, so two different pairs must not give the same name.
        for pairs in (
            itertools.product(suite.tasks, suite.variants),
            itertools.product(suite.gan_tasks, suite.gan_variants),
        ):
            stages: dict[str, tuple[str, str]] = {}
            for pair in pairs:
                other = stages.setdefault("-".join(pair), pair)
                if other != pair:
                    self.problem(
                        ("suite",), f"{other} and {pair} would be one stage name, {'-'.join(pair)}: rename one"
                    )

    def builtin(self) -> list[str]:
        """Returns the datasets that need no entry under `datasets`."""
        return sources.builtin_datasets()

    def dataset(self, name: str) -> None:
        """Resolves one dataset: looks up its source and checks the source's options."""
        declared = self.params.datasets.get(name) or Dataset(source=name)
        if declared.mean is not None and declared.std is None:
            self.problem(("datasets", name), "mean and std go together: give std too, or let both be measured")
        try:
            kind = self.sources[name] = sources.source_class(declared.source)
        except UserError as error:
            self.problem(("datasets", name, "source"), str(error))
            return
        if kind.needs_image_size and declared.image_size is None:
            self.problem(("datasets", name, "image_size"), f"missing; source {kind.name} needs it")
        options = declared.options()
        wrong = [(key, self.unknown_key(key, kind)) for key in options if key not in sources.options(kind)]
        known = {key: value for key, value in options.items() if key in sources.options(kind)}
        wrong += check_options(kind, known, f"source {kind.name}")
        for option, message in wrong:
            self.problem(("datasets", name, option), message)
        if wrong:
            return
        try:
            source = kind(**known)
        except (TypeError, ValueError) as error:
            self.problem(("datasets", name), str(error))
            return
        try:
            self.reads[name] = [os.fspath(place) for place in source.reads()]
        except Exception as error:  # code of the user's own
            self.problem(("datasets", name), f"{kind.__name__}.reads fails: {type(error).__name__}: {error}")
            return
        self.datasets[name] = {
            "name": name,
            **declared.model_dump(include=set(COMMON_KEYS)),
            "source_code": code.source(declared.source),
            **{key: getattr(source, key) for key in sources.options(kind)},
        }

    def unknown_key(self, key: str, kind: type[Source]) -> str:
        """Returns the message for a key of a dataset that is neither a common key nor an option of its source."""
        others = [name for name in sources.names() if key in sources.options(sources.source_class(name))]
        if others:
            return f"unknown key: source {kind.name} does not have it; these do: {', '.join(others)}"
        return f"unknown key; {hint(key, [*COMMON_KEYS, *sources.options(kind)])}"

    def task(self, kind: Kind, name: str, task: TaskEntry | SegmentationTaskEntry | GanTaskEntry) -> None:
        """Resolves one task: looks up its dataset and its model and checks the model's options and image size."""
        section, architecture = SECTIONS[kind], ARCHITECTURES[kind]
        if task.dataset not in self.params.datasets:
            if task.dataset in self.builtin():
                self.dataset(task.dataset)
            else:
                message = f"unknown dataset; {hint(task.dataset, [*self.params.datasets, *self.builtin()])}"
                self.problem((section, name, "dataset"), message)
        source = self.sources.get(task.dataset)
        if source is not None and source.has_masks is not (kind is Kind.SEGMENTATION):
            if source.has_masks:
                message = f"source {source.name} has masks, which a task of `kind: segmentation` learns"
            else:
                message = f"source {source.name} has no masks, which segmentation needs"
            self.problem((section, name, "dataset"), message)
        if kind is Kind.GAN and source is not None and source.streamed:
            message = f"is streamed (source {source.name}), but GANs are trained on images in the memory"
            self.problem((section, name, "dataset"), message)
        try:
            model = models.get(task.model, architecture)
        except UserError as error:
            self.problem((section, name, "model"), str(error))
            return
        problems = {option: model.option_problem(option, value) for option, value in task.model_options.items()}
        for option, wrong in problems.items():
            if wrong:
                self.problem((section, name, "model_options", option), wrong)
        for keys, message in feasible.of_recipe(task.recipe):
            self.problem((section, name, "recipe", *keys), message)
        size = self.image_size(task.dataset)
        for keys, message in feasible.of_size(task, size) if size else ():
            self.problem((section, name, *keys), message)
        right = {option: value for option, value in task.model_options.items() if not problems[option]}
        if isinstance(task, GanTaskEntry) and task.conditional and not model.takes("classes"):
            self.problem((section, name, "conditional"), f"{model.name} has no argument `classes`, so it knows none")
        seen = feasible.trained_size(task, size) if size else None
        unfit = size_problem(model, model.typed(right), *sides(seen)) if seen else None
        if unfit:
            self.problem((section, name, "model"), unfit)
        settings = {key: getattr(task, key) for key in type(task).model_fields}
        settings |= {"name": name, "seed": self.params.suite.seed, "seeds": self.params.suite.seeds}
        settings |= {
            "model_options": model.options() | model.typed(task.model_options),
            "model_code": code.model(task.model),
        }
        if isinstance(task, TaskEntry):
            self.tasks[kind][name] = Task(**settings, loss_code=code.loss(task))
        else:
            self.tasks[kind][name] = TASKS[kind](**settings)

    def image_size(self, dataset: str) -> tuple[int, int] | None:
        """Returns the height and width of a dataset's images in pixels; None if only the data can tell."""
        declared = self.params.datasets.get(dataset)
        kind = self.sources.get(dataset)
        size = (declared and declared.image_size) or (kind.native_size if kind else None)
        return None if size is None else sides(size)

    def variant(self, name: str) -> None:
        """Resolves one variant: looks up its method and checks the method's options."""
        variant = self.params.variants[name]
        try:
            kind = methods.method_class(variant.method)
        except UserError as error:
            self.problem(("variants", name, "method"), str(error))
            return
        mistakes = method_problems(kind)
        if mistakes:
            self.problems += [line for line in mistakes if line not in self.problems]
            return
        wrong = check_options(kind, variant.options)
        for option, message in wrong:
            self.problem(("variants", name, "options", option), message)
        if wrong or not self.tuned(name, kind):
            return
        try:
            method = kind(**typed_options(kind, variant.options))
        except (TypeError, ValueError) as error:
            self.problem(("variants", name, "options"), str(error))
            return
        except Exception as error:  # __post_init__ may be the user's own.
            self.problem(
                ("variants", name, "options"), f"{blame.place(error) or kind.__name__}: {blame.one_line(error)}"
            )
            return
        options = {field.name: getattr(method, field.name, None) for field in dataclasses.fields(method)}
        try:
            files.hash_of(options)
        except (TypeError, ValueError) as error:
            self.problem(
                ("variants", name, "options"), f"{blame.definition(kind)}: not numbers, texts or lists: {error}"
            )
            return
        self.variants[name] = Variant(
            name=name,
            method=variant.method,
            options=options,
            tuned={
                task: each.model_copy(update={"options": typed_options(kind, each.options)})
                for task, each in variant.tuned.items()
            },
            method_code=code.method(variant.method),
            apply_to=variant.apply_to,
        )

    def networks(self) -> None:
        """Checks where variants apply: classifiers have no generator, and some GANs build theirs without hooks."""
        suite = self.params.suite
        elsewhere = [name for name, entry in self.params.variants.items() if entry.apply_to != "discriminator"]
        for name in (each for each in elsewhere if each in suite.variants):
            message = "is for GANs, but suite.variants has it too, and a classifier has no generator"
            self.problem(("variants", name, "apply_to"), message)
        for task in suite.gan_tasks:
            resolved = self.tasks[Kind.GAN].get(task)
            model = models.get(resolved.model, "gan") if resolved is not None else None
            if model is not None and not model.takes("generator_method"):
                for name in (each for each in elsewhere if each in suite.gan_variants):
                    message = (
                        f"{model.name} of {task} has no argument `generator_method`: no method changes its generator"
                    )
                    self.problem(("variants", name, "apply_to"), message)

    def tuned(self, name: str, kind: type[Method]) -> bool:
        """Whether the tuned values of a variant are valid: each is for a task, and its options are of the method."""
        before = len(self.problems)
        variant = self.params.variants[name]
        for task, chosen in variant.tuned.items():
            place = ("variants", name, "tuned", task)
            if task not in self.params.tasks:
                self.problem(place, f"unknown task; {hint(task, self.params.tasks)}")
            elif kind_of(self.params.tasks[task]) is Kind.SEGMENTATION:
                self.problem(place, "is a task of segmentation, for which nothing is tuned")
            wrong = check_options(kind, chosen.options)
            for option, message in wrong:
                self.problem((*place, "options", option), message)
            if not wrong:
                try:
                    kind(**typed_options(kind, variant.options | chosen.options))
                except Exception as error:  # __post_init__ may be the user's own.
                    self.problem((*place, "options"), f"{blame.place(error) or kind.__name__}: {blame.one_line(error)}")
        return len(self.problems) == before

    def corruptions(self) -> None:
        """Checks the section `corruptions` and looks up the corruptions."""
        chosen = self.params.corruptions
        made_here = chosen.engine == "normbench"
        suite_sources = [name for name in self.params.suite.datasets if name in self.sources]
        everything = corruptions.names() if made_here and chosen.source is None else BENCHMARK
        self.corruption_names: dict[str, str] = {}  # name -> reference
        for index, reference in enumerate(everything if chosen.names == "all" else chosen.names):
            try:
                self.corruption_names = corruptions.named([*self.corruption_names.values(), reference])
                if not made_here:
                    check_name(reference)
                elif ":" in reference and chosen.source is None:
                    corruption.check(reference, SIDE)
            except UserError as error:
                self.problem(("corruptions", "names", index), str(error))
        if chosen.source is not None and (not made_here or chosen.constants != "auto"):
            self.problem(("corruptions", "source"), "with published images, leave out engine and constants")
        elif chosen.source is not None and any(self.sources[name].has_masks for name in suite_sources):
            self.problem(
                ("corruptions", "source"), "published images have labels, and a dataset of the suite has masks"
            )
        elif not made_here and chosen.constants not in ("auto", "imagenet"):
            self.problem(("corruptions", "constants"), f"engine {chosen.engine} has those of imagenet only")
        for name in self.params.suite.datasets if made_here and chosen.source is None else ():
            if min(self.image_size(name) or [SMALLEST_HERE]) < SMALLEST_HERE:
                message = f"corruptions need a side of {SMALLEST_HERE} pixels or more"
                self.problem(("datasets", name, "image_size"), message)
        for name in () if made_here else self.params.suite.datasets:
            try:
                check_sides(*(self.image_size(name) or sides(SMALLEST_SIDE)))
            except UserError as error:
                self.problem(("corruptions", "engine"), f"dataset {name}: {error}")

    def evaluation(self) -> None:
        """Checks the settings of the scores in the section `evaluation`."""
        for name in SCORES.names():
            settings = getattr(self.params.evaluation, name)
            for key, message in settings.problems() if settings is not None else ():
                self.problem(("evaluation", name, key), message)

    def gan_evaluation(self) -> None:
        """Checks that the weights which the section `gan_evaluation` names can be read."""
        chosen = self.params.gan_evaluation
        if chosen.inception_weights is None:
            return
        place = ("gan_evaluation", "inception_weights")
        if "inception" not in chosen.features:
            self.problem(place, "is not used: gan_evaluation.features has no 'inception'")
        try:
            files.sha256(Path(chosen.inception_weights).expanduser())
        except OSError as error:
            self.problem(place, f"cannot be read: {error.strerror or error}")
        except (ValueError, RuntimeError) as error:  # a name that no file can have, or a home of nobody
            self.problem(place, f"is no path: {error}")

    def scoring(self) -> Scoring:
        """The section `gan_evaluation` with the sha256 of the weights."""
        chosen = self.params.gan_evaluation
        own, sha256 = chosen.inception_weights, None
        if "inception" in chosen.features:
            sha256 = OFFICIAL.checksum if own is None else files.sha256(Path(own).expanduser())
        return Scoring(**dict(chosen), inception_sha256=sha256)

    def scores(self) -> list[str]:
        """Returns the names of the scores that are measured."""
        return [name for name in SCORES.names() if getattr(self.params.evaluation, name) is not None]

    def evaluated(self) -> dict[str, Any]:
        """The section without scores that are left out, so that the file of a new score changes nothing by itself."""
        chosen = self.params.evaluation.json_value()
        return {key: chosen[key] for key in ("corrupted_examples", *self.scores())}

    def resolved(self) -> Resolved:
        """Returns the resolved values that the suite uses."""
        entry = self.params.suite
        suite = Suite(
            **dict(entry), segmentation=[name for name in entry.tasks if name in self.tasks[Kind.SEGMENTATION]]
        )
        own = {name: reference for name, reference in self.corruption_names.items() if name != reference}
        source = self.params.corruptions.source
        published = [place for name in suite.datasets for place in of_corruptions(source, name)] if source else []
        return Resolved(
            suite=suite,
            datasets={name: self.datasets[name] | self.outside(self.reads[name]) for name in suite.datasets},
            tasks={kind: {name: self.tasks[kind][name] for name in suite.of_kind(kind)[0]} for kind in Kind},
            variants={name: self.variants[name] for name in [*suite.variants, *suite.gan_variants]},
            corruptions={
                "names": list(self.corruption_names),
                "severities": sorted(set(self.params.corruptions.severities)),
                "seed": suite.seed,
                **self.params.corruptions.model_dump(include={"engine", "constants", "source"}),
                **({"references": own} if own else {}),
                **({} if self.params.corruptions.stored is None else {"stored": self.params.corruptions.stored}),
                **self.outside(published),
            },
            evaluation=self.evaluated(),
            gan_evaluation=self.scoring(),
            code=code.of_stages(self.corruption_names, self.scores(), bool(suite.segmentation)),
        )

    def outside(self, places: list[str]) -> dict[str, str]:
        """Returns the key `outside` with the digest of files outside of DVC's view, or nothing if there are none."""
        found = outside.digest(places)
        return {} if found is None else {"outside": found}


ARCHITECTURES: dict[Kind, Literal["classifier", "segmenter", "gan"]] = {
    Kind.CLASSIFICATION: "classifier",
    Kind.SEGMENTATION: "segmenter",
    Kind.GAN: "gan",
}


def kind_of(entry: TaskEntry | SegmentationTaskEntry) -> Kind:
    """The kind of an entry under `tasks`."""
    return Kind.SEGMENTATION if isinstance(entry, SegmentationTaskEntry) else Kind.CLASSIFICATION


def resolve(path: Path = layout.PARAMS) -> Resolved:
    """The resolved values of params.yaml. Raises UserError with one line for each thing that is wrong."""
    resolver = Resolver(ParamsFile(path))
    with one_reading():
        resolver.resolve()
        return resolver.resolved()


def write(path: Path = layout.PARAMS, to: Path = layout.RESOLVED) -> None:
    """Resolves params.yaml into a folder, which is replaced atomically, and copies pulled runs into the run store.

    Raises UserError, and leaves the folder, if params.yaml or a variant has a mistake (see `normbench.suite.trial`).
    """
    resolved = resolve(path)
    trial.check(trial.of_params(resolved))
    resolved.write(to)
    adopt_outputs(resolved.suite)  # Later, DVC removes the outputs of the stages that it runs.
