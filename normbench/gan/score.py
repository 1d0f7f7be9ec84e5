"""All scores of a generator in the features of one network: what is measured of images that come in batches.

The moments are sums in float64 over all images. The scores of pairs of images, and the bootstrap, take the first
`KEPT` images alone, so that the memory does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from normbench.gan.features import Extractor
from normbench.gan.scores import kernel, sampling
from normbench.gan.scores.classes import InceptionScore
from normbench.gan.scores.frechet import Reference, undetermined
from normbench.gan.scores.moments import Moments, growing
from normbench.gan.scores.neighbours import neighbours
from normbench.gan.task import GanTask
from normbench.gan.trainer import sample
from normbench.system.seeds import derive

MOST_SAMPLES = 10_000  # upper limit if the recipe does not set `fid_samples`
KEPT = 10_000
BLOCK = 10_000  # images that are generated at a time
SUBSETS, SUBSET = 100, 1000  # of the KID, as in torch-fidelity
SPLITS = 10  # of the Inception Score, as in its paper
NEAR, DENSE = 3, 5  # nearest neighbours, as in the papers
SEED = 2020  # of subsets and splits, as in torch-fidelity


@dataclass(frozen=True)
class Real:
    """The real images in the features of a network: their moments, and features (M, d) of at most `KEPT` of them."""

    moments: Moments
    kept: Tensor


@dataclass
class Found:
    """What was measured.

    columns: the numbers by name. missing: the reasons for those that there are not, by name. intervals: those of 95 %
    for the generator at hand, were other images drawn, by name. subset: the images in a subset of the KID, 0 for none.
    compared: the generated images of the scores of pairs.
    """

    columns: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    subset: int = 0
    compared: int = 0

    def without(self, why: str, *names: str) -> None:
        """Notes why there are no numbers of these names."""
        self.missing |= dict.fromkeys(names, why)


FRECHET = ("fid", "fid_sampling")
INFINITE = ("fid_infinity", "fid_infinity_sampling")
KID = ("kid", "kid_sampling")
CLASSES = ("score", "score_sampling")
NEIGHBOURS = ("precision", "recall", "density", "coverage")
NAMES = (*FRECHET, *INFINITE, *KID, *CLASSES, *NEIGHBOURS)


def sample_count(task: GanTask, references: int) -> int:
    """The number of images to generate for the scores. references: the number of real images."""
    return task.recipe.fid_samples or min(references, MOST_SAMPLES)


def generated(generator: nn.Module, task: GanTask, seed: int, count: int, device: str) -> Iterator[Tensor]:
    """Yields `count` generated images, uint8 (N, C, H, W). seed: the run's; every run is scored on different noise."""
    for number, start in enumerate(range(0, count, BLOCK)):
        drawn = derive(task.seed, "fid", seed, number)
        yield sample(generator, task.recipe.latent, min(BLOCK, count - start), drawn, device)


@torch.inference_mode()
def of_real(extractor: Extractor, pixels: Tensor) -> Real:
    """Measures the real images, uint8 (M, C, H, W), M >= 1. A random choice is kept where there are too many."""
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(SEED))
    chosen = order[:KEPT].sort().values.to(pixels.device)
    is_kept = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    is_kept[chosen] = True
    kept: list[Tensor] = []

    def features() -> Iterator[Tensor]:
        for block, wanted in zip(pixels.split(extractor.batch), is_kept.split(extractor.batch), strict=True):
            found, _ = extractor(block)
            kept.append(found[wanted])
            yield found

    *_, moments = growing(features())
    return Real(moments, torch.cat(kept))


@torch.inference_mode()
def measure(
    extractor: Extractor, reference: Reference, real: Tensor, images: Iterable[Tensor], count: int, resamples: int
) -> Found:
    """Returns the scores of generated images.

    reference: the moments of the real images. real: the features (M, d) of those that are compared in pairs. images:
    `count` images, uint8 (N, C, H, W) each. resamples: of the bootstrap; 0 for no intervals.
    """
    found, kept = Found(), list[Tensor]()
    score = InceptionScore(count, SPLITS, SEED) if count >= SPLITS else None

    def features() -> Iterator[Tensor]:
        for pixels in (block for each in images for block in each.split(extractor.batch)):
            features, logits = extractor(pixels)
            if score is not None:
                score.add(logits)
            room = KEPT - sum(map(len, kept))
            if room > 0:
                kept.append(features[:room])
            yield features

    numbers = sampling.sizes(count, extractor.dimensions)
    invalid = undetermined(reference.moments, "real")
    distances: list[float] = []
    moments = None
    for moments in growing(features(), numbers):
        if moments.count < count and not invalid and not undetermined(moments, "generated"):
            distances.append(reference.distance(moments))
    if moments is None:
        raise ValueError("no generated images")
    fake = torch.cat(kept)
    found.compared = len(fake)
    same = _same(moments, "generated") or _same(reference.moments, "real")
    if same:
        found.without(same, *NAMES)
        return found
    why = invalid or undetermined(moments, "generated")
    if why:
        found.without(why, *FRECHET, *INFINITE)
    else:
        distances.append(reference.distance(moments))
        _frechet(found, distances, numbers, fake, reference, count, resamples)
    _pairs(found, fake, real)
    if score is None:
        found.without(f"{count} images are fewer than the {SPLITS} parts of the score", *CLASSES)
    else:
        found.columns |= dict(zip(CLASSES, score.result(), strict=True))
    return found


def _same(moments: Moments, what: str) -> str:
    """Returns why features do not differ, or are no numbers; an empty string if they can be compared."""
    enough = Moments(max(moments.count, moments.dimensions + 1), moments.mean, moments.scatter)
    if moments.count == 1:
        return f"there is 1 {what} image"
    return undetermined(enough, what).replace(f"{enough.count} {what}", f"{moments.count} {what}")


def _frechet(
    found: Found,
    distances: list[float],
    numbers: list[int],
    fake: Tensor,
    reference: Reference,
    count: int,
    resamples: int,
) -> None:
    """Adds the FID, its value at infinity, and the spread of both.

    distances: those of the first n generated images for each n of `numbers`, or of all alone where there are none.
    """
    found.columns["fid"] = distances[-1]
    infinite = len(distances) == len(numbers)
    if infinite:
        found.columns["fid_infinity"] = sampling.at_infinity(distances, numbers)
    else:
        fewest = sampling.fewest(fake.shape[1])
        why = f"{count} images are too few for a line over 1 / n in {fake.shape[1]} features, which needs {fewest}"
        found.without(why, *INFINITE)
    if not resamples:
        found.without("`resamples` is 0 in `gan_evaluation`", "fid_sampling", "fid_infinity_sampling")
        return
    drawn = sampling.resampled(fake, reference, resamples, SEED)
    deviation = sampling.deviation(drawn, len(fake), count)
    spreads = {"fid": deviation}
    if infinite:
        spreads["fid_infinity"] = deviation * sampling.stretch(numbers)
    for name, spread in spreads.items():
        value = found.columns[name]
        found.columns[f"{name}_sampling"] = spread
        found.intervals[name] = value - sampling.NORMAL * spread, value + sampling.NORMAL * spread


def _pairs(found: Found, fake: Tensor, real: Tensor) -> None:
    """Adds what is measured of pairs of images."""
    subset = kernel.subset_size(SUBSET, len(fake), len(real))
    counts = f"{len(fake)} generated and {len(real)} real images"
    if subset >= 2:
        found.subset = subset
        found.columns |= dict(zip(KID, kernel.kid(fake, real, SUBSETS, subset, SEED), strict=True))
    else:
        found.without(f"{counts} are too few for random subsets of 2", *KID)
    if len(fake) > NEAR and len(real) > max(NEAR, DENSE):
        near = neighbours(fake, real, NEAR, DENSE)
        found.columns |= {name: getattr(near, name) for name in NEIGHBOURS}
    else:
        found.without(f"{counts} are too few for {max(NEAR, DENSE)} nearest neighbours", *NEIGHBOURS)
