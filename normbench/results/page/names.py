"""How variants and measures are named on the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from normbench.results.page.grid import Cell, Line


@dataclass(frozen=True)
class Measure:
    """A measure of comparisons.csv in words.

    small: the small print below its heading. factor: from its values in tables to those on the page. unit: of a
    difference. best: which values are good.
    """

    head: str
    small: str
    factor: float = 100
    unit: str = "points"
    best: Literal["high", "low"] = "high"


MEASURES = {
    "clean_accuracy": Measure("Clean accuracy", "%"),
    "corruption_accuracy": Measure("Corruption accuracy", "%"),
    "corruption_noise": Measure("Noise", "corruptions, %"),
    "corruption_blur": Measure("Blur", "corruptions, %"),
    "corruption_weather": Measure("Weather", "corruptions, %"),
    "corruption_digital": Measure("Digital", "corruptions, %"),
    "corruption_extra": Measure("Extra", "corruptions, %"),
    "attack_fgsm": Measure("FGSM", "attack, %"),
    "attack_pgd": Measure("PGD", "attack, %"),
    "auto_attack": Measure("AutoAttack", "attack, %"),
    "mean_iou": Measure("Mean IoU", "%"),
    "corruption_mean_iou": Measure("Mean IoU", "corrupted, %"),
    "pixel_accuracy": Measure("Pixel accuracy", "%"),
    "corruption_pixel_accuracy": Measure("Pixel accuracy", "corrupted, %"),
    "fid": Measure("FID", "lower is better", 1, "", "low"),
    "inception_fid": Measure("FID", "Inception; lower is better", 1, "", "low"),
}
# Shares of images that keep their right class within a radius: of certified.csv, and `certified_<name>_<radius>`.
PROVEN = {"pgd": "PGD, 2-norm", "lipschitz": "Lipschitz", "curvature": "Curvature"}


def measure(key: str) -> Measure:
    """Returns a measure in words; one that this page does not know has its own name, and is a share."""
    for name, head in PROVEN.items():
        if key.startswith(f"certified_{name}_"):
            return Measure(head, f"within {float(key.removeprefix(f'certified_{name}_')):.3g}, %")
    return MEASURES.get(key) or Measure(key, "%")


@dataclass(frozen=True)
class Variants:
    """The variants of a table as they are named: their glyphs in charts, the baseline, and those that were tuned."""

    glyphs: Mapping[str, Markup]
    baseline: str | None = None
    tuned: frozenset[str] = frozenset()

    def line(self, variant: str, cells: list[Cell]) -> Line:
        """Returns the line of a variant in a table."""
        tags = ("baseline",) * (variant == self.baseline) + ("tuned",) * (variant in self.tuned)
        return Line(variant, cells, self.glyphs.get(variant, Markup("")), tags)
