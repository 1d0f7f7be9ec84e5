"""The networks in whose features generated images are compared with real ones.

A classifier of the dataset itself is there for every dataset, needs no download and sees what the dataset is about.
Published values use the features of Inception (see `normbench.gan.inception`); the two are never comparable.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from normbench.data.batches import Images
from normbench.system.narrowing import narrowed
from normbench.training.recipe import Recipe

# The classifier whose features are compared, and the recipe by which it is trained. 2,048 images determine the
# covariance of its 4 x WIDTH = 64 features well.
CLASSIFIER, METHOD, WIDTH = "resnet8", "batch_norm", 16
RECIPE = Recipe(epochs=4, batch_size=64, crop_padding=1, deterministic=True)


class Extractor(Protocol):
    """Returns the features (N, d) and the logits (N, classes) of images, uint8 (N, C, H, W), both in float32.

    dimensions: d. batch: how many images it is given at a time, as the last digits may depend on it. resize: how it
    resizes images, in words.
    """

    dimensions: int
    batch: int
    resize: str

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and logits."""
        ...


class Features(nn.Module):
    """An `Extractor` of the penultimate activations of a classifier.

    classifier: a trained network whose last layer is the linear layer `head`; it is modified. images: gives the input
    normalization.
    """

    batch = 500
    resize = "none"

    def __init__(self, classifier: nn.Module, images: Images):
        super().__init__()
        self.head = narrowed(classifier.get_submodule("head"), nn.Linear, "the layer `head`")
        self.dimensions = self.head.in_features
        classifier.set_submodule("head", nn.Identity())
        self.classifier, self.images = classifier.eval(), images

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The features (N, dimensions) and logits (N, classes) of images, uint8 (N, C, H, W)."""
        features = self.classifier(self.images.normalized(pixels))
        return features, self.head(features)
