"""FID, the Frechet distance between generated and real images; Heusel et al., arXiv 1706.08500.

The features are those of a classifier that is trained on the dataset itself. Published values are measured in features
of Inception, which was trained on ImageNet: the two cannot be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.gan.task import GanTask
from normbench.gan.trainer import sample
from normbench.system.seeds import derive
from normbench.training.recipe import Recipe

if TYPE_CHECKING:
    from torchmetrics.image.fid import FrechetInceptionDistance

# The classifier whose features are compared, and how it is trained.
CLASSIFIER, METHOD, WIDTH = "resnet8", "batch_norm", 16
RECIPE = Recipe(epochs=4, batch_size=64, crop_padding=1)

MOST_SAMPLES = 10_000  # where the recipe does not say how many
BATCH = 500


class Features(nn.Module):
    """uint8 (N, C, H, W) -> what a classifier gives to its last layer, float64 (N, num_features)."""

    def __init__(self, classifier: nn.Module, images: Images):
        super().__init__()
        head = classifier.get_submodule("head")
        assert isinstance(head, nn.Linear)
        self.num_features = head.in_features
        classifier.set_submodule("head", nn.Identity())
        self.classifier, self.images = classifier.eval(), images

    def forward(self, pixels: Tensor) -> Tensor:
        return self.classifier(self.images.normalized(pixels)).double()


def sample_count(task: GanTask, references: int) -> int:
    """How many images are drawn for the FID of a task with so many real ones."""
    return task.recipe.fid_samples or min(references, MOST_SAMPLES)


def reference(network: nn.Module, pixels: Tensor) -> FrechetInceptionDistance:
    """A metric that holds the real images, uint8 (N, C, H, W). Its sums and what it makes of them are float64."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=network, reset_real_features=False).to(pixels.device)
    for block in pixels.split(BATCH):
        metric.update(block, real=True)
    return metric


def fid(
    metric: FrechetInceptionDistance, generator: nn.Module, task: GanTask, seed: int, count: int, device: str
) -> float:
    """The FID of `count` images of a generator. seed: of the run; no two runs are scored on the same noise."""
    return distance(metric, sample(generator, task.recipe.latent, count, derive(task.seed, "fid", seed), device))


def distance(metric: FrechetInceptionDistance, pixels: Tensor) -> float:
    """The FID of images, uint8 (N, C, H, W), to those that the metric holds."""
    for block in pixels.split(BATCH):
        metric.update(block, real=False)
    found = metric.compute().item()
    metric.reset()
    return found
