"""How GANs are scored: the section `gan_evaluation` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from normbench.system.schema import Strict

Extractor = Literal["classifier", "inception"]


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name stands here twice")
    return names


def _no_single(value: int) -> int:
    if value == 1:
        raise ValueError("must be 0, or 2 or more: one sample has no spread")
    return value


class GanEvaluation(Strict):
    """The section `gan_evaluation` of params.yaml.

    features: the networks in whose features images are compared: `classifier` for one trained on the dataset, and
    `inception` for the one of published values, whose weights are downloaded once. Each gives columns of its own.
    inception_weights: a file of weights of that network, instead of the official ones. resamples: bootstrap samples for
    the interval of the FID; 0 for none. The number of images is `fid_samples` of a task's recipe.
    """

    features: Annotated[list[Extractor], Field(min_length=1), AfterValidator(_each_once)] = ["classifier"]
    inception_weights: str | None = None
    resamples: Annotated[int, Field(ge=0, le=100_000), AfterValidator(_no_single)] = 100


class Scoring(GanEvaluation):
    """The resolved section. inception_sha256: of the weights; null where they are not used."""

    inception_sha256: str | None = None


BOUND = "discriminator_bound"  # the column of the Lipschitz bound of the discriminator, in no network's features


def column(extractor: str, name: str) -> str:
    """Returns the column of a score in the features of a network; no column has the values of both.

    Names begin with the network, but for the FID in the features of the classifier, which every suite has.
    """
    return name if extractor == "classifier" and name.startswith("fid") else f"{extractor}_{name}"
