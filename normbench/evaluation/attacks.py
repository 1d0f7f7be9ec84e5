"""Accuracy under attacks bounded in the maximum norm or in the 2-norm: FGSM, PGD and, optionally, AutoAttack."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from normbench.evaluation.auto_attack import auto_attack, version
from normbench.evaluation.calibration import accuracy, finite
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import LEVELS, Scores, Subject
from normbench.system.errors import UserError
from normbench.system.quantities import Accuracy
from normbench.system.schema import NotNegative, Positive, PositiveReal, Strict
from normbench.system.seeds import derive
from normbench.training.attacks import Classifier, fgm, fgsm, pgd, pgd_l2

SUSPICIOUS = 0.2  # how far accuracy under FGSM may exceed that under PGD before the record has a warning


class Attacks(ScoreSettings):
    """FGSM and PGD on `examples` test images.

    norm: `linf` for the maximum norm, or `l2` for the 2-norm, where FGSM's step is along the gradient itself. epsilon:
    the largest change in that norm, in units of 1/255: of a pixel, or as 2-norm of the whole change, usually 36 to 128
    for CIFAR. step: PGD's step size in units of 1/255, in the same norm. steps, restarts: of PGD. long_examples,
    long_steps: a second PGD with more steps on fewer images, as a check for gradient masking; long_examples 0 turns it
    off. auto_attack_examples: the number of images for AutoAttack, which needs the optional dependency `autoattack`; 0
    turns it off. batch_size: images attacked at a time.
    """

    examples: Positive = 1000
    norm: Literal["linf", "l2"] = "linf"
    epsilon: PositiveReal = 8.0
    step: PositiveReal = 2.0
    steps: Positive = 20
    restarts: Positive = 1
    long_examples: NotNegative = 500
    long_steps: Positive = 100
    auto_attack_examples: NotNegative = 0
    batch_size: Positive = 250

    def problems(self) -> list[tuple[str, str]]:
        """Reports an error if AutoAttack is asked for and its package is not installed."""
        try:
            if self.auto_attack_examples:
                version()
        except UserError as error:
            return [("auto_attack_examples", str(error))]
        return []


class LongPgd(Strict):
    """PGD with more steps, and with the usual number, on the same images."""

    examples: Positive
    steps: Positive
    pgd: Accuracy
    pgd_long: Accuracy


class UnderAutoAttack(Strict):
    """AutoAttack (see `normbench.evaluation.auto_attack.auto_attack`), and PGD on the same images."""

    examples: Positive
    pgd: Accuracy
    accuracy: Accuracy
    attacks: list[str]
    package: str
    warnings: list[str]


class UnderAttack(Strict):
    """The entry `attacks` of the metrics: see `attacks`."""

    examples: Positive
    norm: Literal["l2"] | None = None
    clean: Accuracy
    fgsm: Accuracy
    pgd: Accuracy
    pgd_long: LongPgd | None = None
    auto_attack: UnderAutoAttack | None = None
    warning: str | None = None


class Results(Strict):
    """What the score stores."""

    attacks: UnderAttack


@score("attacks", Attacks, results=Results)
def attacks(subject: Subject, settings: Attacks) -> Scores:
    """Measures the metric `attacks`: accuracies (0 to 1) on a random subset of the test images.

    Entries: `examples`, the number of images; `norm`, where it is not the maximum norm; `clean`, `fgsm` and `pgd`;
    `pgd_long`, accuracies under PGD with more and with the usual number of steps on fewer images; `auto_attack`, its
    result and PGD's on the same images. There is a `warning` if accuracy under FGSM is far above that under PGD: either
    training with a one-step attack has overfitted to it, or gradients are masked.

    The predictions file has the attacked images (`attack_index`) and their predicted classes under each attack, of
    which some have fewer images, the first ones.
    """
    chosen = subject.drawn("attacked", settings.examples).to(subject.images.pixels.device)
    pixels, labels = subject.images.pixels[chosen].float() / LEVELS, subject.images.labels[chosen]
    classifier, count = classifier_of(subject), len(chosen)

    predictions = {"attack_index": chosen.to(torch.int32).cpu().numpy()}

    def left(count: int, steps: int | None, name: str | None = None) -> float:
        found = predicted(classifier, pixels[:count], labels[:count], settings, steps, subject.seed).cpu()
        if name is not None:
            predictions[name] = found.to(torch.int16).numpy()
        return int((found == labels[:count].cpu()).sum()) / count

    with torch.no_grad():
        found: dict[str, Any] = {"examples": count, "clean": accuracy(classifier(pixels), labels)}
    if settings.norm != "linf":
        found["norm"] = settings.norm
    found["fgsm"] = left(count, None, "attack_fgsm")
    found["pgd"] = left(count, settings.steps, "attack_pgd")
    columns = {f"attack_{name}": found[name] for name in ("examples", "clean", "fgsm", "pgd")}
    if settings.long_examples:
        few = min(settings.long_examples, count)
        found["pgd_long"] = {"examples": few, "steps": settings.long_steps, "pgd": left(few, settings.steps)}
        found["pgd_long"]["pgd_long"] = columns["attack_pgd_long"] = left(few, settings.long_steps, "attack_pgd_long")
    if settings.auto_attack_examples:
        few = min(settings.auto_attack_examples, count)
        under, result = under_auto_attack(subject, classifier, pixels[:few], labels[:few], settings)
        predictions["auto_attack"] = under.to(torch.int16).cpu().numpy()
        found["auto_attack"] = {"examples": few, "pgd": left(few, settings.steps)} | result
        columns |= {"auto_attack_examples": few, "auto_attack": result["accuracy"]}
    if found["fgsm"] > found["pgd"] + SUSPICIOUS:
        gap = 100 * (found["fgsm"] - found["pgd"])
        found["warning"] = f"FGSM leaves {gap:.1f} points more accuracy than PGD: its gradients cannot be trusted"
    return Scores({"attacks": found}, columns, predictions)


def classifier_of(subject: Subject) -> Classifier:
    """The classifier as a function from images (N, C, H, W) in 0..1 to finite logits (N, classes).

    Entries of the gradient with respect to the images that are not finite are replaced by 0.
    """
    images = subject.images

    def classifier(values: Tensor) -> Tensor:
        x = (values - images.mean) / images.std
        scores = finite(subject.model(x.contiguous(memory_format=images.memory_format)).float())
        if values.requires_grad:
            values.register_hook(lambda gradient: torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
            if not scores.requires_grad:  # The output does not depend on the images: make the gradient zero.
                scores = scores + 0 * values.flatten(1).sum(1, keepdim=True)
        return scores

    return classifier


def predicted(
    classifier: Classifier, pixels: Tensor, labels: Tensor, settings: Attacks, steps: int | None, seed: int
) -> Tensor:
    """Predicted classes (N,) of images (N, C, H, W) in 0..1 under attack: PGD with `steps` steps, FGSM if it is None.

    seed: the suite's, of PGD's random starts.
    """
    epsilon, step = settings.epsilon / LEVELS, settings.step / LEVELS
    once, often = (fgsm, pgd) if settings.norm == "linf" else (fgm, pgd_l2)
    found = []
    for start in range(0, len(labels), settings.batch_size):
        x, y = pixels[start:][: settings.batch_size], labels[start:][: settings.batch_size]
        if steps is None:
            moved = once(classifier, x, y, epsilon)
        else:
            generator = torch.Generator().manual_seed(derive(seed, "attack", start))
            moved = often(classifier, x, y, epsilon, step, steps, settings.restarts, generator)
        with torch.no_grad():
            found.append(classifier(moved).argmax(1))
    return torch.cat(found)


def under_auto_attack(
    subject: Subject, classifier: Classifier, pixels: Tensor, labels: Tensor, settings: Attacks
) -> tuple[Tensor, dict[str, Any]]:
    """The predicted classes of images (N, C, H, W) in 0..1 under AutoAttack, and its result.

    See `normbench.evaluation.auto_attack.auto_attack`.
    """
    trained = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    subject.model.requires_grad_(False)  # The attack calls backward(), which would fill the gradients of parameters.
    seed = derive(subject.seed, "auto_attack")
    epsilon, size = settings.epsilon / LEVELS, settings.batch_size
    _, found, result = auto_attack(classifier, pixels, labels, epsilon, size, seed, settings.norm)
    for parameter in trained:
        parameter.requires_grad_()
    return found, result
