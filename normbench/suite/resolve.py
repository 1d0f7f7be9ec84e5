"""params.yaml to one small JSON for each dataset, task and variant, with the fingerprints of the code behind them.

What a stage depends on is such a file, never params.yaml itself: a new variant changes none of the old files.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from normbench.corruptions import registry as corruptions
from normbench.corruptions.constants import BENCHMARK
from normbench.corruptions.imagecorruptions_engine import SMALLEST_SIDE, check_name, check_side
from normbench.evaluation import auto_attack
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs import fingerprint
from normbench.suite.schema import NAME, SOURCES, Dataset, ParamsFile, check_options
from normbench.system import files, layout
from normbench.system.errors import UserError, hint

Keys = tuple[str | int, ...]

# Pixels a side where `image_size` is not set; those of npz arrays are known when they are read (see `bind`).
NATIVE_SIZES = {"digits": 16, "mnist": 28, "fashion_mnist": 28, "cifar10": 32, "cifar100": 32, "svhn": 32, "stl10": 96}


class Resolver:
    """One pass over a structurally valid params.yaml: collects the lines of all that is wrong, and the JSON values."""

    def __init__(self, file: ParamsFile):
        self.file, self.params, self.raw = file, file.params, file.raw
        self.problems: list[str] = []
        self.datasets: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.gan_tasks: dict[str, dict[str, Any]] = {}
        self.variants: dict[str, dict[str, Any]] = {}

    def problem(self, keys: Keys, message: str) -> None:
        self.problems.append(self.file.problem(keys, message))

    def resolve(self) -> None:
        suite = self.params.suite
        for name in self.params.datasets:
            self.dataset(name)
        for name in self.params.tasks:
            self.tasks[name] = self.task("tasks", name, models.CLASSIFIERS)
        for name in self.params.gan_tasks:
            self.gan_tasks[name] = self.task("gan_tasks", name, models.GANS)
        for name in self.params.variants:
            self.variant(name)
        known_datasets = sorted({*self.params.datasets, *self.builtin()})
        self.names("datasets", suite.datasets, known_datasets)
        self.names("tasks", suite.tasks, self.params.tasks)
        self.names("variants", suite.variants, self.params.variants)
        self.names("gan_tasks", suite.gan_tasks, self.params.gan_tasks)
        self.names("gan_variants", suite.gan_variants, self.params.variants)
        self.suite()
        self.corruptions()
        self.evaluation()
        if self.problems:
            raise UserError("\n".join(self.problems))

    def names(self, key: str, chosen: list[str], known: Any) -> None:
        """The names of a list of the suite: known, written once, fit for a file and stage name."""
        for index, name in enumerate(chosen):
            if name not in known:
                self.problem(("suite", key, index), f"unknown; {hint(name, known)}")
            elif not NAME.fullmatch(name):
                self.problem(("suite", key, index), "a name has letters, digits, '_' and '-' only")
            elif name in chosen[:index]:
                self.problem(("suite", key, index), "stands here twice")

    def suite(self) -> None:
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
        # DVC joins the two names of a stage with a dash.
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
        """Datasets that need no entry under `datasets`."""
        return [name for name in SOURCES if name not in ("imagefolder", "npz")]

    def dataset(self, name: str) -> None:
        declared = self.params.datasets.get(name)
        if declared is None:
            declared = Dataset.model_validate({"source": name})
        if declared.source in ("imagefolder", "npz") and declared.path is None:
            self.problem(("datasets", name, "path"), f"missing; source {declared.source} needs it")
        if declared.source == "imagefolder" and declared.image_size is None:
            self.problem(("datasets", name, "image_size"), "missing; source imagefolder needs it")
        if (declared.mean is None) != (declared.std is None):
            self.problem(("datasets", name), "mean and std go together")
        self.datasets[name] = {"name": name, **declared.model_dump()}

    def task(self, section: str, name: str, known: dict[str, str]) -> dict[str, Any]:
        task = getattr(self.params, section)[name]
        if task.dataset not in self.params.datasets:
            if task.dataset in self.builtin():
                self.dataset(task.dataset)
            else:
                message = f"unknown dataset; {hint(task.dataset, [*self.params.datasets, *self.builtin()])}"
                self.problem((section, name, "dataset"), message)
        resolved = {"name": name, "seed": self.params.suite.seed, "seeds": self.params.suite.seeds, **task.model_dump()}
        if task.model not in known:
            self.problem((section, name, "model"), f"unknown model; {hint(task.model, known)}")
            return resolved
        defaults = models.options(task.model)
        for option, value in task.model_options.items():
            keys = (section, name, "model_options", option)
            if option not in defaults:
                self.problem(keys, f"unknown option of {task.model}; {hint(option, defaults)}")
            elif type(value) is not type(defaults[option]) or value <= 0:
                self.problem(keys, f"must be a positive {type(defaults[option]).__name__}")
        size = self.image_size(task.dataset)
        unfit = models.image_size_problem(task.model, size) if size else None
        if unfit:
            self.problem((section, name, "model"), unfit)
        resolved["model_options"] = defaults | task.model_options
        resolved["model_code"] = fingerprint.code([models.source_file(task.model)])
        return resolved

    def image_size(self, dataset: str) -> int | None:
        """Pixels a side, or None where only the data tell."""
        declared = self.params.datasets.get(dataset)
        return (declared and declared.image_size) or NATIVE_SIZES.get(declared.source if declared else dataset)

    def variant(self, name: str) -> None:
        variant = self.params.variants[name]
        try:
            kind = methods.method_class(variant.method)
        except UserError as error:
            self.problem(("variants", name, "method"), str(error))
            return
        wrong = check_options(kind, variant.options)
        for option, message in wrong:
            self.problem(("variants", name, "options", option), message)
        if wrong:
            return
        try:
            method = kind(**variant.options)
        except (TypeError, ValueError) as error:
            self.problem(("variants", name, "options"), str(error))
            return
        self.variants[name] = {
            "name": name,
            "method": variant.method,
            "options": {key: getattr(method, key) for key in method.__dataclass_fields__},
            "method_code": fingerprint.code([methods.source_file(variant.method)]),
        }

    def corruptions(self) -> None:
        chosen = self.params.corruptions
        made_here = chosen.engine == "normbench"
        everything = corruptions.names() if made_here and chosen.source is None else BENCHMARK
        self.corruption_names: dict[str, str] = {}  # from the name of each to its reference
        for index, reference in enumerate(everything if chosen.names == "all" else chosen.names):
            try:
                self.corruption_names = corruptions.named([*self.corruption_names.values(), reference])
                if not made_here:
                    check_name(reference)
            except UserError as error:
                self.problem(("corruptions", "names", index), str(error))
        if chosen.source is not None and (not made_here or chosen.constants != "auto"):
            self.problem(("corruptions", "source"), "with published images, leave out engine and constants")
        elif not made_here and chosen.constants not in ("auto", "imagenet"):
            self.problem(("corruptions", "constants"), f"engine {chosen.engine} has those of imagenet only")
        for name in () if made_here else self.params.suite.datasets:
            try:
                check_side(self.image_size(name) or SMALLEST_SIDE)
            except UserError as error:
                self.problem(("corruptions", "engine"), f"dataset {name}: {error}")

    def evaluation(self) -> None:
        attacks = self.params.evaluation.attacks
        if attacks is not None and attacks.auto_attack_examples:
            try:
                auto_attack.version()
            except UserError as error:
                self.problem(("evaluation", "attacks", "auto_attack_examples"), str(error))

    def outputs(self) -> dict[str, Any]:
        """File name below build/resolved -> JSON value, for what the suite uses."""
        suite = self.params.suite
        own = corruptions.own(self.corruption_names)
        out: dict[str, Any] = {
            "suite": suite.model_dump(),
            "evaluation": self.params.evaluation.model_dump(),
            "corruptions": {
                "names": list(self.corruption_names),
                "severities": sorted(set(self.params.corruptions.severities)),
                "seed": suite.seed,
                **self.params.corruptions.model_dump(include={"engine", "constants", "source"}),
                **({"own": own} if own else {}),
            },
        }
        out |= {f"datasets/{name}": self.datasets[name] for name in suite.datasets}
        out |= {f"tasks/{name}": self.tasks[name] for name in suite.tasks}
        out |= {f"gan_tasks/{name}": self.gan_tasks[name] for name in suite.gan_tasks}
        out |= {f"variants/{name}": self.variants[name] for name in [*suite.variants, *suite.gan_variants]}
        return out


def resolve(path: Path = layout.PARAMS) -> dict[str, Any]:
    """The resolved values by file name. Raises UserError with one line for each thing that is wrong."""
    resolver = Resolver(ParamsFile(path))
    resolver.resolve()
    return resolver.outputs()


def write(path: Path = layout.PARAMS, to: Path = layout.RESOLVED) -> None:
    """Resolves params.yaml into a folder, which is replaced whole or, after an error, not at all."""
    values = resolve(path)
    with files.atomic_folder(to) as folder:
        for name, value in values.items():
            files.write_json(folder / f"{name}.json", value)
