"""The features of Inception-v3 by which published FIDs are measured: those of 2015-12-05, trained on ImageNet.

The network, its resizing as in TensorFlow 1 and its weights are those of torch-fidelity, in float32.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from normbench.data import fetch
from normbench.system.errors import UserError

# The weights that torch-fidelity and pytorch-fid publish, converted from TensorFlow's graph.
OFFICIAL = fetch.Archive(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
    largest=95_628_359,
)
HELP = (
    "  - name another file of these weights: `gan_evaluation.inception_weights` in params.yaml",
    "  - leave `inception` out of `gan_evaluation.features`",
)


class Inception(nn.Module):
    """An `Extractor` (see `normbench.gan.features`) of the 2,048 features behind the last pooling.

    The logits are those without bias, as for published Inception Scores. weights: the bytes of a file of weights, whose
    place begins the UserError for one that is not of this network.
    """

    dimensions = 2048
    batch = 50
    resize = "bilinear to 299 x 299 as in TensorFlow 1"

    def __init__(self, weights: bytes, place: str):
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # imports for a second

        try:
            # torch-fidelity unpickles anything; these are the same bytes, of which nothing but tensors is taken here.
            torch.load(io.BytesIO(weights), weights_only=True, map_location="cpu")
            self.network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], io.BytesIO(weights))
        except (
            pickle.UnpicklingError,
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
            EOFError,
            KeyError,
        ) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"{place}: no weights of the Inception network of torch-fidelity: {first[:200]}") from None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The features (N, 2048) and logits (N, 1008) of images, uint8 (N, 1 or 3, H, W)."""
        # Grey images have the same value in all three.
        colours = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels
        features, logits = self.network(colours)
        return features, logits


def read_weights(file: str | None, sha256: str, downloads: Path) -> bytes:
    """Returns the weights with a sha256. Raises UserError if they cannot be had.

    file: of the user's; None for the official ones, which are downloaded once into the folder `downloads`.
    """
    if file is None:
        place = fetch.fetch([OFFICIAL], downloads, "the Inception network", "inception", None, helps=HELP)[0]
    else:
        place = Path(file).expanduser()
    try:
        found = place.read_bytes()
    except OSError as error:
        raise UserError(f"{place}: cannot be read: {error.strerror or error}") from None
    if hashlib.sha256(found).hexdigest() != sha256:
        raise UserError(f"{place}: has changed since params.yaml was resolved; `dvc repro resolve` resolves it again")
    return found
