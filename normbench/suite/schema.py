"""The strict schema of params.yaml: what may stand there, and one line for each thing that may not.

A line reads `params.yaml:12: tasks.mine.recipe.epochz = 3: unknown key; did you mean 'epochs'?`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from normbench.system.errors import UserError, hint

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
PositiveReal = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegativeReal = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Suite(Strict):
    """What is run. Lists of names in the order in which they are worked through."""

    seed: NotNegative = 0
    seeds: Annotated[list[NotNegative], Field(min_length=1)]
    datasets: Annotated[list[str], Field(min_length=1)]
    tasks: list[str]
    variants: list[str]
    baseline: str | None = None
    gan_tasks: list[str]
    gan_variants: list[str]


def _all_or_list(value: Any) -> Any:
    if value != "all" and not isinstance(value, list):
        raise ValueError("must be `all` or a list of names")
    return value


class Corruptions(Strict):
    """names: `all`, or some of them. severities: some of 1 to 5. engine: who computes them, this program or the package
    of that name, which needs 32 pixels a side. constants: the benchmark whose severities these are; `auto` goes by the
    size of the images. source: null, or the folder of a published benchmark (`<name>.npy` and `labels.npy`, as of
    CIFAR-10-C) to take the images from; `{dataset}` in it stands for the dataset's name."""

    names: Annotated[Literal["all"] | Annotated[list[str], Field(min_length=1)], BeforeValidator(_all_or_list)] = "all"
    severities: Annotated[list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1)] = [1, 2, 3, 4, 5]
    engine: Literal["normbench", "imagecorruptions"] = "normbench"
    constants: Literal["auto", "cifar", "tiny_imagenet", "imagenet"] = "auto"
    source: str | None = None


class BatchStatistics(Strict):
    """Evaluation with the statistics of test batches of `batch_size`, those of training weighing as `prior` images."""

    prior: NotNegativeReal = 16.0
    batch_size: Annotated[int, Field(ge=2)] = 200


class Attacks(Strict):
    """FGSM and PGD within a maximum norm, on `examples` test images.

    epsilon, step: in 255ths. steps, restarts: of PGD. long_examples, long_steps: a second PGD with more steps on fewer
    images, a check for masked gradients; none where long_examples is 0. auto_attack_examples: on how many of the images
    AutoAttack runs too, none where 0; it needs the extra `autoattack`. batch_size: images attacked at a time.
    """

    examples: Positive = 1000
    epsilon: PositiveReal = 8.0
    step: PositiveReal = 2.0
    steps: Positive = 20
    restarts: Positive = 1
    long_examples: NotNegative = 500
    long_steps: Positive = 100
    auto_attack_examples: NotNegative = 0
    batch_size: Positive = 250


class Smoothness(Strict):
    """Lipschitz constants, certified accuracy at `radii` (2-norm, in 255ths), and feature maps by depth.

    examples: test images for what is measured at images. Large layers take seconds each.
    """

    examples: Annotated[int, Field(ge=2)] = 100
    radii: list[PositiveReal] = [8.0, 36.0]


class Evaluation(Strict):
    """What is measured beside accuracy and calibration; null leaves it out.

    corrupted_examples: on how many test images each corruption and severity is scored, null for all of them.
    """

    corrupted_examples: Positive | None = None
    batch_statistics: BatchStatistics | None = BatchStatistics()
    attacks: Attacks | None = None
    smoothness: Smoothness | None = None


class Dataset(Strict):
    """The keys of every dataset. All others are options of its source, which `resolve` checks by the source's class.

    source: a name of normbench/data/sources, `path/to/file.py:name` or `package.module:name`. image_size: height and
    width in pixels; where null, the source's own. mean, std: the input normalization in 0..1 for each channel, measured
    on the training images where null. note: what readers of its results should know of these data; it stands in every
    record and in the report.
    """

    model_config = ConfigDict(extra="allow")

    source: str
    image_size: Annotated[int, Field(ge=4)] | None = None
    mean: list[Share] | None = None
    std: list[PositiveReal] | None = None
    note: str | None = None

    def options(self) -> dict[str, Any]:
        """The options of the source, as they stand in params.yaml."""
        return dict(self.model_extra or {})


class Adversary(Strict):
    """Training against an adversary, lengths in 255ths (see normbench/training/adversary.py).

    kind: `free` trains `repeats` times on each batch and moves the noise with each pass, `pgd` finds examples in
    `steps` steps first. step: epsilon for `free` and a quarter of it for `pgd` where null.
    """

    kind: Literal["free", "pgd"]
    epsilon: PositiveReal = 8.0
    step: PositiveReal | None = None
    repeats: Positive = 4
    steps: Positive = 7


class Recipe(Strict):
    """How a classifier is trained: SGD with momentum, learning rate per iteration.

    weight_decay_norms: whether parameters of one dimension (norms, biases) decay too. schedule: `cosine` to zero,
    `step` (times `gamma` at each of `milestones`, in epochs) or `constant`; a linear warm-up of `warmup_epochs` comes
    first. crop_padding: zero pixels around the image from which a random crop is taken. flip: random horizontal flips.
    precision, memory_format: `auto` is bfloat16 autocast where a GPU has it, and channels_last; on a CPU it is what a
    measurement on the task's network with batch norm finds faster (normbench/training/numerics.py). channels_last gives
    way to contiguous where it is computed wrongly. gradient_clip: largest norm, or null.
    compile: null, or the mode of `torch.compile`: `default`, or `reduce-overhead` with CUDA graphs.
    """

    epochs: Positive
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: PositiveReal = 0.1
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NotNegativeReal = 5e-4
    weight_decay_norms: bool = True
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: list[NotNegativeReal] = []
    gamma: PositiveReal = 0.1
    warmup_epochs: NotNegativeReal = 0.0
    label_smoothing: Share = 0.0
    crop_padding: NotNegative = 4
    flip: bool = False
    drop_last: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    gradient_clip: PositiveReal | None = None
    compile: Literal["default", "reduce-overhead"] | None = None
    adversary: Adversary | None = None


class LabelNoise(Strict):
    """Which training labels are wrong, see `normbench.data.corrupt_labels`. fraction: of labels that are replaced."""

    kind: Literal["symmetric", "symmetric_other", "asymmetric", "cyclic"] = "symmetric"
    fraction: Annotated[float, Field(ge=0, le=1)]


class Task(Strict):
    """train_fraction: of the images of each class that are trained on; smaller sets lie inside larger ones."""

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: Recipe
    label_noise: LabelNoise | None = None
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0


class GanRecipe(Strict):
    """How a GAN is trained: Adam, hinge loss (Miyato et al., arXiv 1802.05957).

    iterations: generator steps. discriminator_steps: discriminator steps for each. latent: size of the noise vector.
    average: decay of the moving average of the generator's weights that is sampled from; 0 for none.
    fid_samples: images drawn for the FID; as many as there are training images, at most 10,000, where null.
    """

    iterations: Positive
    batch_size: Annotated[int, Field(ge=2)] = 64
    lr: PositiveReal = 2e-4
    beta1: Share = 0.0
    beta2: Share = 0.9
    discriminator_steps: Positive = 1
    latent: Positive = 128
    average: Share = 0.99
    fid_samples: Annotated[int, Field(ge=2)] | None = None


class GanTask(Strict):
    """The method of a variant is put into the discriminator; the generator has batch norm, as usual."""

    dataset: str
    model: str
    model_options: dict[str, Any] = {}
    recipe: GanRecipe


class Variant(Strict):
    """method: a file name in normbench/methods, `path/to/file.py:Class` or `package.module:Class`."""

    method: str
    options: dict[str, Any] = {}


class Params(Strict):
    suite: Suite
    corruptions: Corruptions = Corruptions()
    evaluation: Evaluation = Evaluation()
    datasets: dict[str, Dataset] = {}
    tasks: dict[str, Task] = {}
    gan_tasks: dict[str, GanTask] = {}
    variants: dict[str, Variant] = {}


class ParamsFile:
    """A params.yaml: its validated content in `params`, and error lines that name file and line.

    Raises UserError with a line for each thing that is wrong with its structure; `problem` makes more such lines for
    what only other parts of the program can judge.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run from the repository's root") from None
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{path}:{mark.line + 1}" if mark is not None else str(path)
            raise UserError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
        if not isinstance(self.raw, dict):
            raise UserError(f"{path}: holds no keys; valid: {', '.join(Params.model_fields)}")
        try:
            self.params = Params.model_validate(self.raw)
        except ValidationError as error:
            lines: dict[tuple[str | int, ...], str] = {}  # one for a place, also where two branches of a type refuse it
            for e in error.errors():
                keys = tuple(key for key in e["loc"] if not _is_branch(key))
                lines.setdefault(keys, self._line(keys, e))
            raise UserError("\n".join(lines.values())) from None

    def problem(self, keys: tuple[str | int, ...], message: str) -> str:
        """`params.yaml:12: a.b = value: message`; a key that is not there has no value."""
        dotted = ".".join(str(key) for key in keys)
        value, missing = self.raw, False
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                missing = True
                break
        shown = "" if missing or isinstance(value, dict) else f" = {_short(value)}"
        line = self._line_number(keys)
        return f"{self.path}{f':{line}' if line else ''}: {dotted}{shown}: {message}"

    def _line(self, keys: tuple[str | int, ...], error: ErrorDetails) -> str:
        kind = error["type"]
        if kind == "extra_forbidden":
            return self.problem(keys, f"unknown key; {hint(keys[-1], _fields(keys[:-1]))}")
        if kind == "missing":
            return self.problem(keys, "missing")
        if kind == "literal_error":
            return self.problem(keys, f"not valid; {hint(_at(self.raw, keys), _choices(keys))}")
        return self.problem(keys, _message(error))

    def _line_number(self, keys: tuple[str | int, ...]) -> int | None:
        """Line of the last of the keys that is there; read with positions only when there is an error to show."""
        node = YAML(typ="rt", pure=True).load(self.path.read_text(encoding="utf-8"))
        line = None
        for key in keys:
            try:
                position = node.lc.item(key) if isinstance(key, int) else node.lc.key(key)
                line, node = position[0] + 1, node[key]
            except (KeyError, IndexError, TypeError, AttributeError):
                break
        return line


def check_options(kind: type, options: dict[str, Any], called: str | None = None) -> list[tuple[str, str]]:
    """What is wrong with options: (option, message) pairs.

    kind: the dataclass whose fields are the valid options, such as a method. called: what messages call it, where that
    is not the name of the class.
    """
    called = called or kind.__name__
    hints = get_type_hints(kind, include_extras=True)
    fields: dict[str, Any] = {field.name: (hints[field.name], _default(field)) for field in dataclasses.fields(kind)}
    try:
        create_model(kind.__name__, __config__=Strict.model_config, **fields).model_validate(options)
    except ValidationError as error:
        return [(str(e["loc"][0]), _option_message(called, fields, options, e)) for e in error.errors()]
    return []


def _default(field: dataclasses.Field) -> Any:
    """The default of a field as pydantic takes it: `...` where there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is dataclasses.MISSING else field.default


def _option_message(called: str, fields: dict[str, Any], options: dict[str, Any], error: ErrorDetails) -> str:
    name = error["loc"][0]
    if error["type"] == "extra_forbidden":
        return f"unknown option of {called}; {hint(name, fields)}"
    if error["type"] == "missing":
        return f"missing; {called} needs it"
    if error["type"] == "literal_error":
        return f"not valid; {hint(options[str(name)], [str(v) for v in get_args(fields[str(name)][0])])}"
    return _message(error)


def _message(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_branch(key: str | int) -> bool:
    """Whether pydantic added this part of a location itself, for a branch of a union."""
    return isinstance(key, str) and (key.startswith(("literal[", "list[", "constrained-")))


def _model(keys: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The schema class at a place in params.yaml."""
    sections: dict[str, type[BaseModel]] = {
        "datasets": Dataset,
        "tasks": Task,
        "gan_tasks": GanTask,
        "variants": Variant,
    }
    recipes: dict[str, type[BaseModel]] = {"tasks": Recipe, "gan_tasks": GanRecipe}
    match keys:
        case ():
            return Params
        case ("suite",):
            return Suite
        case ("corruptions",):
            return Corruptions
        case ("evaluation",):
            return Evaluation
        case ("evaluation", "batch_statistics"):
            return BatchStatistics
        case ("evaluation", "attacks"):
            return Attacks
        case ("evaluation", "smoothness"):
            return Smoothness
        case (str(section), _) if section in sections:
            return sections[section]
        case (str(section), _, "recipe") if section in recipes:
            return recipes[section]
        case ("tasks", _, "label_noise"):
            return LabelNoise
        case ("tasks", _, "recipe", "adversary"):
            return Adversary
    return None


def _fields(keys: tuple[str | int, ...]) -> list[str]:
    model = _model(keys)
    return list(model.model_fields) if model else []


def _choices(keys: tuple[str | int, ...]) -> list[str]:
    """The values of a field that has a fixed set of them, as YAML writes them."""
    model = _model(keys[:-1])
    if model is None:
        return []
    found: list[str] = []
    for part in get_args(model.model_fields[str(keys[-1])].annotation):
        # An optional choice is a union of choices and of nothing.
        found += ["null"] if part is type(None) else [str(value) for value in get_args(part) or (part,)]
    return found


def _at(value: Any, keys: tuple[str | int, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value
