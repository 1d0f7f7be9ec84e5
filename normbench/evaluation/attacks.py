"""Accuracy under attacks within a maximum norm: FGSM, PGD and, where it is asked for, AutoAttack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from normbench.evaluation.auto_attack import auto_attack, version
from normbench.evaluation.calibration import accuracy, finite
from normbench.evaluation.registry import ScoreSettings, score
from normbench.evaluation.subject import LEVELS, Scores, Subject
from normbench.system.errors import UserError
from normbench.system.schema import NotNegative, Positive, PositiveReal
from normbench.system.seeds import derive
from normbench.training.attacks import Classifier, fgsm, pgd

SUSPICIOUS = 0.2  # by how much FGSM may leave more accuracy than PGD before a run is marked


class Attacks(ScoreSettings):
    """FGSM and PGD within a maximum norm, on `examples` test images.

    epsilon, step: in 255ths. steps, restarts: of PGD. long_examples, long_steps: a second PGD with more steps on fewer
    images, a check for masked gradients; none where long_examples is 0. auto_attack_examples: on how many of the images
    AutoAttack runs too, none where 0; it needs the extra `autoattack`. batch_size: images attacked at a time.
    """

    examples: Positive = 1000
    epsilon: PositiveReal = 8.0
    step: PositiveReal = 2.0
    steps: Positive = 20
    restarts: Positive = 1
    long_examples: NotNegative = 500
    long_steps: Positive = 100
    auto_attack_examples: NotNegative = 0
    batch_size: Positive = 250

    def problems(self) -> list[tuple[str, str]]:
        """AutoAttack needs a package that may be missing."""
        try:
            if self.auto_attack_examples:
                version()
        except UserError as error:
            return [("auto_attack_examples", str(error))]
        return []


@score("attacks", Attacks)
def attacks(subject: Subject, settings: Attacks) -> Scores:
    """`attacks`: accuracies on test images that the suite's seed draws.

    `clean`, `fgsm`, `pgd`; as a check for masked gradients, `pgd_long` with more steps on fewer images; `auto_attack`,
    with PGD on the same images. `warning` where FGSM leaves far more than PGD: then one-step training has overfitted,
    or the gradient says nothing.
    """
    chosen = subject.drawn("attacked", settings.examples).to(subject.images.pixels.device)
    pixels, labels = subject.images.pixels[chosen].float() / LEVELS, subject.images.labels[chosen]
    classifier, count = classifier_of(subject), len(chosen)

    def left(count: int, steps: int | None) -> float:
        return accuracy_left(classifier, pixels[:count], labels[:count], settings, steps, subject.seed)

    with torch.no_grad():
        found: dict[str, Any] = {"examples": count, "clean": accuracy(classifier(pixels), labels)}
    found["fgsm"], found["pgd"] = left(count, None), left(count, settings.steps)
    columns = {f"attack_{name}": found[name] for name in ("examples", "clean", "fgsm", "pgd")}
    if settings.long_examples:
        few = min(settings.long_examples, count)
        found["pgd_long"] = {"examples": few, "steps": settings.long_steps, "pgd": left(few, settings.steps)}
        found["pgd_long"]["pgd_long"] = columns["attack_pgd_long"] = left(few, settings.long_steps)
    if settings.auto_attack_examples:
        few = min(settings.auto_attack_examples, count)
        result = under_auto_attack(subject, classifier, pixels[:few], labels[:few], settings)
        found["auto_attack"] = {"examples": few, "pgd": left(few, settings.steps)} | result
        columns |= {"auto_attack_examples": few, "auto_attack": result["accuracy"]}
    if found["fgsm"] > found["pgd"] + SUSPICIOUS:
        gap = 100 * (found["fgsm"] - found["pgd"])
        found["warning"] = f"FGSM leaves {gap:.1f} points more accuracy than PGD: its gradients cannot be trusted"
    return Scores({"attacks": found}, columns)


def classifier_of(subject: Subject) -> Classifier:
    """Images (N, C, H, W) in 0..1 -> logits (N, classes). A gradient that is not finite counts as none."""
    images = subject.images

    def classifier(values: Tensor) -> Tensor:
        x = (values - images.mean) / images.std
        scores = finite(subject.model(x.contiguous(memory_format=images.memory_format)).float())
        if values.requires_grad:
            values.register_hook(lambda gradient: torch.nan_to_num(gradient, 0.0, 0.0, 0.0))
            if not scores.requires_grad:  # The method lets no gradient through.
                scores = scores + 0 * values.flatten(1).sum(1, keepdim=True)
        return scores

    return classifier


def accuracy_left(
    classifier: Classifier, pixels: Tensor, labels: Tensor, settings: Attacks, steps: int | None, seed: int
) -> float:
    """Accuracy on images (N, C, H, W) in 0..1 after PGD with so many steps, or after FGSM where `steps` is None."""
    epsilon, step = settings.epsilon / LEVELS, settings.step / LEVELS
    right = 0.0
    for start in range(0, len(labels), settings.batch_size):
        x, y = pixels[start:][: settings.batch_size], labels[start:][: settings.batch_size]
        if steps is None:
            moved = fgsm(classifier, x, y, epsilon)
        else:
            generator = torch.Generator().manual_seed(derive(seed, "attack", start))
            moved = pgd(classifier, x, y, epsilon, step, steps, settings.restarts, generator)
        with torch.no_grad():
            right += accuracy(classifier(moved), y) * len(y)
    return right / len(labels)


def under_auto_attack(
    subject: Subject, classifier: Classifier, pixels: Tensor, labels: Tensor, settings: Attacks
) -> dict[str, Any]:
    """What AutoAttack finds on images (N, C, H, W) in 0..1 (see `normbench.evaluation.auto_attack`)."""
    trained = [parameter for parameter in subject.model.parameters() if parameter.requires_grad]
    subject.model.requires_grad_(False)  # The attack calls backward(), which would leave gradients in them.
    seed = derive(subject.seed, "auto_attack")
    _, result = auto_attack(classifier, pixels, labels, settings.epsilon / LEVELS, settings.batch_size, seed)
    for parameter in trained:
        parameter.requires_grad_()
    return result
