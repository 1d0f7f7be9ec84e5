"""Facts about the published benchmarks: their corruptions in the published order, their severities, their image sizes.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, arXiv 1903.12261. The constants of a corruption stand beside its function (see registry.py).
"""

from __future__ import annotations

# The fifteen corruptions that the mean corruption error (mCE) is defined over.
MAIN = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)

# Four more that the benchmark publishes. They are never part of mCE.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")

BENCHMARK = MAIN + EXTRA

# The kinds of corruptions as the benchmark groups them; the four more are a group of their own here.
GROUPS = {"noise": MAIN[:3], "blur": MAIN[3:7], "weather": MAIN[7:11], "digital": MAIN[11:], "extra": EXTRA}

SEVERITIES = (1, 2, 3, 4, 5)

# Three benchmarks with constants of their own: CIFAR-10-C (32 x 32 pixels), Tiny-ImageNet-C (64 x 64) and ImageNet-C
# (224 x 224).
SETS = ("cifar", "tiny_imagenet", "imagenet")


def set_for(height: int, width: int) -> str:
    """The name in `SETS` of the benchmark whose images are closest to images of a size, by their shorter side."""
    side = min(height, width)
    if side < 48:
        return "cifar"
    return "tiny_imagenet" if side < 128 else "imagenet"
