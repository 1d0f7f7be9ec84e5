"""FID, the Frechet distance between the features of generated and of real images; Heusel et al., arXiv 1706.08500.

The features come from a classifier trained on the dataset itself. Published values use the features of an Inception
network trained on ImageNet, so they cannot be compared with the values measured here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.gan.task import GanTask
from normbench.gan.trainer import sample
from normbench.system.narrowing import narrowed
from normbench.system.seeds import derive
from normbench.training.recipe import Recipe

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

# The classifier whose features are compared, and the recipe by which it is trained.
CLASSIFIER, METHOD, WIDTH = "resnet8", "batch_norm", 16
RECIPE = Recipe(epochs=4, batch_size=64, crop_padding=1, deterministic=True)

MOST_SAMPLES = 10_000  # upper limit if the recipe does not set `fid_samples`
BATCH = 500


class Features(nn.Module):
    """The penultimate activations of a classifier: uint8 (N, C, H, W) -> float64 (N, num_features).

    classifier: a trained network whose last layer is the linear layer `head`; it is modified. images: gives the input
    normalization.
    """

    def __init__(self, classifier: nn.Module, images: Images):
        super().__init__()
        head = narrowed(classifier.get_submodule("head"), nn.Linear, "the layer `head`")
        self.num_features = head.in_features
        classifier.set_submodule("head", nn.Identity())
        self.classifier, self.images = classifier.eval(), images

    def forward(self, pixels: Tensor) -> Tensor:
        """The features (N, num_features) of images, uint8 (N, C, H, W)."""
        return self.classifier(self.images.normalized(pixels)).double()


def sample_count(task: GanTask, references: int) -> int:
    """The number of images to generate for the FID. references: the number of real images."""
    return task.recipe.fid_samples or min(references, MOST_SAMPLES)


def reference(network: nn.Module, pixels: Tensor) -> FrechetInceptionDistance:
    """A torchmetrics FID metric that has accumulated the features of the real images, in float64.

    network: the feature extractor (see `Features`). pixels: the real images, uint8 (N, C, H, W).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=network, reset_real_features=False).to(pixels.device)
    for block in pixels.split(BATCH):
        metric.update(block, real=True)
    return metric


def fid(
    metric: FrechetInceptionDistance, generator: nn.Module, task: GanTask, seed: int, count: int, device: str
) -> float:
    """The FID of `count` images from a generator. seed: the run's seed; every run is scored on different noise."""
    return distance(metric, sample(generator, task.recipe.latent, count, derive(task.seed, "fid", seed), device))


def distance(metric: FrechetInceptionDistance, pixels: Tensor) -> float:
    """The FID between images, uint8 (N, C, H, W), and the real images that the metric has accumulated."""
    for block in pixels.split(BATCH):
        metric.update(block, real=False)
    found = metric.compute().item()
    metric.reset()
    return found
