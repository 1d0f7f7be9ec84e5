"""What `claims.yaml` may hold: claims, and for each the evidence that decides about it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from normbench import methods
from normbench.results.tables.smoothness import FEATURES, SMOOTHNESS
from normbench.runs.run import Kind
from normbench.suite.document import Document, Keys
from normbench.system.errors import UserError, hint
from normbench.system.mistakes import mistakes
from normbench.system.schema import Positive, PositiveReal, Strict

PATH = Path("claims.yaml")
NOT_METHODS = {"__init__", "base", "plain", "registry"}  # files beside those of methods

Text = Annotated[str, Field(min_length=1)]


class Side(Strict):
    """The variants of a method. options: those that a variant must have; others may be anything."""

    method: Text
    options: dict[str, Any] = {}


class Tasks(Strict):
    """The tasks that a claim is about.

    epochs: of the training; null for any. networks: models, each of which must have run before the claim can be
    supported; empty for any. datasets: by name; empty for any. label_noise, scarce_data, adversarial_training: whether
    the claim is about tasks with wrong labels, with fewer training images than there are, and with adversarial
    training. It is about no others.
    """

    epochs: Positive | None = None
    networks: list[Text] = []
    datasets: list[Text] = []
    label_noise: bool = False
    scarce_data: bool = False
    adversarial_training: bool = False


class Comparison(Strict):
    """The variants `of` a method are better than those they are compared `against`, by results/comparisons.csv."""

    measure: Literal[
        "fid",
        "clean_accuracy",
        "corruption_accuracy",
        "corruption_noise",
        "corruption_blur",
        "corruption_weather",
        "corruption_digital",
        "corruption_extra",
        "attack_fgsm",
        "attack_pgd",
        "auto_attack",
    ]
    of: Side
    against: Side

    @property
    def runs(self) -> Kind:
        """The kind of the runs that have the measure."""
        return Kind.GAN if self.measure == "fid" else Kind.CLASSIFICATION


class Order(Strict):
    """A number of the score `smoothness` is lower, or higher, than that of the variants compared `against`.

    column: of results/smoothness.csv, or of results/features.csv if `when` says of which network: before or after the
    training. Features are those of the last block.
    """

    expected: Literal["lower", "higher"]
    when: Literal["initial", "trained"] | None = None
    column: Text
    of: Side
    against: Side

    @field_validator("column")
    @classmethod
    def _exists(cls, column: str, info: ValidationInfo) -> str:
        table, known = ("smoothness", SMOOTHNESS) if info.data.get("when") is None else ("features", list(FEATURES))
        if column not in known and not (table == "smoothness" and column.startswith("certified_")):
            raise ValueError(f"no number of results/{table}.csv; {hint(column, known)}")
        return column


class Cost(Strict):
    """A cost, or the speed of training, over that of the variants compared `against` is within a limit."""

    column: Literal["images_per_second", "peak_memory_mib", "parameters"]
    of: Side
    against: Side
    at_least: PositiveReal | None = None
    at_most: PositiveReal | None = None

    @model_validator(mode="after")
    def _has_one_limit(self) -> Cost:
        if (self.at_least is None) is (self.at_most is None):
            raise ValueError("needs a limit, either `at_least` or `at_most`")
        return self


class NoFailures(Strict):
    """No run of the variants of a method diverged or collapsed."""

    of: Side


class Bounds(Strict):
    """The bound of every layer in results/layers.csv is at least the estimate of its norm, which is a lower one."""

    of: Side


class FourBounds(Strict):
    """The four bounds on each convolution in results/bounds.csv show one of two things.

    show: `close`: the median, over layers, of the least bound over the norm is `at_most`; `each_least`: each of the
    four is the least one of some layer.
    """

    show: Literal["close", "each_least"]
    of: Side
    at_most: PositiveReal = 1.5


class Isometry(Strict):
    """The channels of convolutions have the same norm at every frequency, by the spectra in results/layers.csv.

    within: the largest relative difference from a channel's mean, over all layers, channels and frequencies.
    """

    of: Side
    within: PositiveReal = 0.01


class Filters(Strict):
    """The deconvolution filters of first layers, by results/filters.csv, show one of two things.

    show: `centre_surround`: after the most iterations that are measured, the pixels beside the centre have the opposite
    sign, and the weights of a filter add up to nearly nothing; `sparser`: with the iterations of the network, the
    responses have a higher kurtosis and more values near zero than the pixels.
    """

    show: Literal["centre_surround", "sparser"]
    of: Side


class Unmeasured(Strict):
    """Nothing that is measured decides about the claim. needs: what would have to be measured."""

    needs: Text


Deciding = Comparison | Order | Cost | NoFailures | Bounds | FourBounds | Isometry | Filters | Unmeasured


class Evidence(Strict):
    """What decides about a claim: one of these."""

    comparison: Comparison | None = None
    order: Order | None = None
    cost: Cost | None = None
    no_failures: NoFailures | None = None
    bounds: Bounds | None = None
    four_bounds: FourBounds | None = None
    isometry: Isometry | None = None
    filters: Filters | None = None
    unmeasured: Unmeasured | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Evidence:
        if len(list(self._given())) != 1:
            raise ValueError(f"must have one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def kind(self) -> Deciding:
        """The one that is given."""
        return next(self._given())

    def _given(self) -> Iterator[Any]:
        return (each for _, each in self if each is not None)


class Claim(Strict):
    """A claim. paper: where it is made. statement: what can be tested of it, in a sentence."""

    paper: Text
    statement: Text
    tasks: Tasks = Tasks()
    evidence: Evidence

    @property
    def runs(self) -> Kind:
        """The kind of the runs that the claim is about."""
        deciding = self.evidence.kind
        return deciding.runs if isinstance(deciding, Comparison) else Kind.CLASSIFICATION


class Claims(Strict):
    """The content of claims.yaml: claims by name."""

    claims: dict[str, Claim]


def declared(path: Path = PATH) -> dict[str, Claim]:
    """Returns the claims of a file by name, in its order; none if there is no such file.

    Raises UserError, with a line for each mistake in it.
    """
    if not path.exists():
        return {}
    document = Document(path)
    try:
        claims = Claims.model_validate(document.value).claims
    except ValidationError as error:
        found = mistakes(error, Claims, document.value)
        raise UserError(*(document.problem(*each) for each in found.items())) from None
    known = sorted(file.stem for file in Path(methods.__file__).parent.glob("*.py") if file.stem not in NOT_METHODS)
    unknown = [
        document.problem(keys, f"no method; {hint(side.method, known)}")
        for keys, side in _sides(claims)
        if ":" not in side.method and side.method not in known
    ]
    if unknown:
        raise UserError(*unknown)
    return claims


def _sides(claims: dict[str, Claim]) -> Iterator[tuple[Keys, Side]]:
    """Yields the places in the file that name a method."""
    for name, claim in claims.items():
        for kind, evidence in claim.evidence:
            for key in ("of", "against"):
                side = getattr(evidence, key, None)
                if side is not None:
                    yield ("claims", name, "evidence", kind, key, "method"), side
