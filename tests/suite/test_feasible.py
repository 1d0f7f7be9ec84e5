"""Sizes and settings at their ends: a line before any training, or a result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.data.bound import Bound
from normbench.data.labels import LabelNoise
from normbench.data.prepare import statistics
from normbench.data.sources.base import Request
from normbench.gan.task import GanTask
from normbench.runs.run import Kind
from normbench.suite import feasible, real, resolve
from normbench.system.errors import UserError
from normbench.training.recipe import Curvature, Loss
from normbench.training.task import Task
from tests.support.subjects import bound, gan_task, recipe, task, variant
from tests.support.suite_folder import PARAMS, SuiteFolder

ROOT = Path(__file__).resolve().parents[2]


def data(folder: Path, classes: int = 4, train: int = 64, **changes: Any) -> Bound:
    """A dataset in a folder, of which only the training labels are there."""
    np.save(folder / "train_labels.npy", np.arange(train) % classes)
    return bound(path=str(folder), classes=classes, train=train, **changes)


def found(of: Task | GanTask, on: Bound, method: str = "batch_norm", **evaluation: Any) -> list[str]:
    kind = Kind.GAN if isinstance(of, GanTask) else Kind.CLASSIFICATION
    return feasible.problems(kind, of, on, [variant(method)], evaluation)


NO_FIT: dict[str, tuple[Task | GanTask, dict[str, Any], str]] = {
    "one class": (task(), {"classes": 1}, "tasks.small.dataset = 'mine': has 1 class, but a classifier needs 2 or more"),
    "a GAN of one class": (gan_task(), {"classes": 1}, "gan_tasks.small.dataset = 'mine': has 1 class, but the FID needs the features of a classifier of 2 or more"),
    "too many classes": (task(), {"classes": 40_000, "train": 40_001}, "tasks.small.dataset = 'mine': has 40000 classes, but at most 32767 can be stored"),
    "noise of CIFAR-10": (task(label_noise=LabelNoise(kind="asymmetric", fraction=0.2)), {}, "tasks.small.label_noise.kind = 'asymmetric': is for the 10 classes of CIFAR-10, mine has 4; try 'cyclic'"),
    "one test image": (task(), {"test": 1}, "tasks.small.dataset = 'mine': has 1 test image, but the score smoothness needs 2 or more: evaluation.smoothness: null"),
    "no batch": (task(recipe=recipe(batch_size=65, drop_last=True)), {}, "tasks.small.recipe.batch_size = 65: there are fewer training images (64), so that drop_last would leave none"),
    "no batch of a part": (task(train_fraction=0.1, recipe=recipe(drop_last=True)), {}, "tasks.small.recipe.batch_size = 16: there are fewer training images (4), so that drop_last would leave none"),
    "far crops": (task(recipe=recipe(crop_padding=9)), {}, "tasks.small.recipe.crop_padding = 9: more than the 8 pixels of an image, so that crops would miss it"),
    "no norm is known": (task(recipe=recipe(loss=Loss(kind="hinge", lipschitz="network"))), {}, "tasks.small.recipe.loss = {'kind': 'hinge', 'epsilon': 0.5, 'ramp_epochs': 0.0, 'lipschitz': 'network', 'temperature': 1.0, 'curvature': None}: with the variant batch_norm: recipe.loss.lipschitz = 'network': ResNet cannot have it: nothing is known of the norm of norm, which is a BatchNorm2d"),
    "one image": (task(), {"train": 65, "image_size": 4}, "tasks.small.recipe.batch_size = 16: the last of 65 training images is a batch by itself, on which batch_norm cannot train (Expected more than 1 value per channel when training, got input size torch.Size([1, 16, 1, 1])): set drop_last or another batch size"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_FIT)
def test_a_line_before_the_training(case: str, tmp_path: Path) -> None:
    of, facts, expected = NO_FIT[case]
    assert found(of, data(tmp_path, **facts), smoothness={"examples": 100}) == [f"params.yaml: {expected}"]


def test_what_fits(tmp_path: Path) -> None:
    """Among it one image in the last batch, where its layers have several pixels or the network has no statistics."""
    assert found(task(), data(tmp_path), smoothness={"examples": 100}) == []
    assert found(gan_task(), data(tmp_path, classes=2, train=2)) == []
    assert found(task(), data(tmp_path, test=1)) == []
    assert found(task(), data(tmp_path, train=65)) == []
    assert found(task(), data(tmp_path, train=65, image_size=4), "no_norm") == []
    assert found(task(recipe=recipe(drop_last=True)), data(tmp_path, train=65, image_size=4)) == []
    assert found(task(train_fraction=1e-300), data(tmp_path)) == []
    assert found(task(recipe=recipe(crop_padding=8)), data(tmp_path)) == []
    assert found(task(label_noise=LabelNoise(kind="asymmetric", fraction=0.2)), data(tmp_path, classes=10)) == []


def test_losses_that_fit(tmp_path: Path) -> None:
    """Any network has a margin for the constant 1, and a chain of layers also one for its own constant."""
    small = {"width": 4, "depth": 2, "side": 4, "hidden": 4, "linears": 1, "activation": "tanh", "norms": False}
    for loss in (Loss(kind="hinge", lipschitz="network"), Loss(curvature=Curvature())):
        one = task(model="convnet", model_options=small, recipe=recipe(loss=loss))
        assert found(one, data(tmp_path), "fantastic_four") == []
    assert found(task(recipe=recipe(loss=Loss(kind="hinge"))), data(tmp_path)) == []


def test_no_fid_in_features_that_were_never_trained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 1 class, but the FID needs the features of a classifier of 2 or more"):
        real.put_classifier(None, bound(classes=1), tmp_path)  # type: ignore[arg-type]  # refused before the images are looked at


# what replaces the recipe of the task, and the line; None where the recipe can be trained
RECIPES: dict[str, str | None] = {
    "epochs: 0": r"recipe\.epochs = 0: must be greater than 0$",
    "epochs: 1000000000000": r"recipe\.epochs = 1000000000000: must be less than or equal to 2147483647$",
    "epochs: 1, batch_size: 1": r"recipe\.batch_size = 1: must be greater than or equal to 2$",
    "epochs: 1, loss: {kind: hinge, temperature: 0.5}": r"recipe\.loss\.temperature = 0\.5: has no effect with kind 'hinge'$",
    "epochs: 1, loss: {epsilon: 0.1}": r"recipe\.loss\.epsilon = 0\.1: has no effect with kind 'cross_entropy'$",
    "epochs: 1, loss: {lipschitz: network}": r"recipe\.loss\.lipschitz = 'network': has no effect with kind 'cross_entropy'$",
    "epochs: 1, label_smoothing: 0.1, loss: {kind: hinge}": r"recipe\.label_smoothing = 0\.1: has no effect with loss\.kind 'hinge'$",
    "epochs: 1, adversary: {kind: pgd}, loss: {curvature: {}}": r"recipe\.adversary: goes with no loss\.curvature, which has adversarial examples of its own$",
    "epochs: 1, loss: {kind: hinges}": r"recipe\.loss\.kind = 'hinges': .*did you mean 'hinge'\?$",
    "epochs: 1, loss: {kind: offset_cross_entropy, temperature: 0.25}": None,
    "epochs: 1, loss: {curvature: {epsilon: 0.0}}": None,
    "epochs: 1, threads: 0": r"recipe\.threads = 0: must be greater than 0$",
    "epochs: 1, threads: 1000": r"recipe\.threads = 1000: must be less than or equal to 256$",
    "epochs: 1, lr: 1.0e+39": r"recipe\.lr = 1\.0e\+39: must be less than or equal to 3e\+38$",
    "epochs: 9, gamma: 1.0e+200, schedule: step": r"recipe\.gamma = 1\.0e\+200: must be less than or equal to 3e\+38$",
    "epochs: 9, gamma: 1.0e+20, schedule: step, milestones: [1, 2]": r"recipe\.gamma = 1\.0e\+20: after 2 milestones the learning rate would be above 3e\+38$",
    "epochs: 9, gamma: 1.0e+20, schedule: step, milestones: [1, 9]": None,
    "epochs: 9, gamma: 1.0e+20, schedule: cosine, milestones: [1, 2]": None,
    "epochs: 9, gamma: 1.0e-300, schedule: step, milestones: [1, 2]": None,
    "epochs: 1, schedule: step, milestones: [100], warmup_epochs: 1000": None,
    "epochs: 1, lr: 1.0e+30, weight_decay: 1.0e+30": None,
    "epochs: 1, nesterov: true, momentum: 0.0": r"recipe\.nesterov = true: needs a momentum above 0$",
    "epochs: 1, crop_padding: 1000000": r"recipe\.crop_padding = 1000000: more than the 8 pixels of an image, ",
}  # fmt: skip


def lines_of(path: Path, text: str) -> list[str]:
    path.write_text(text, encoding="utf-8")
    try:
        resolve.resolve(path)
    except UserError as error:
        return str(error).split("\n")
    return []


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_at_their_ends(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = re.sub(r"recipe: \{epochs: 2[^}]*\}", f"recipe: {{{recipe}}}", PARAMS)
    found, expected = lines_of(tmp_path / "params.yaml", text), RECIPES[recipe]
    assert len(found) == (expected is not None), found
    if expected:
        assert re.search(rf"params\.yaml:\d+: tasks\.small\.{expected}", found[0]), found


# what is replaced in params.yaml, by what, and the lines; no line where there is one reading
SUITES: dict[str, tuple[str, str, list[str]]] = {
    "a dataset without a task": ("datasets: [digits]", "datasets: [digits, mnist]", []),
    "no dataset": ("datasets: [digits]", "datasets: []", [r"suite\.datasets = \[\]: must have at least 1 item$"]),
    "a task of a dataset that is not listed": ("tasks: [small]", "tasks: [small, other]", [r"tasks\.other\.dataset = 'mnist': not in suite\.datasets = \['digits'\]"]),
    "no variants": ("variants: [batch_norm, group_norm]", "variants: []", [r"suite\.variants = \[\]: empty, while suite\.tasks is not", r"suite\.baseline = 'batch_norm': must be one of suite\.variants"]),
    "no GAN variants": ("gan_variants: [batch_norm]", "gan_variants: []", [r"suite\.gan_variants = \[\]: empty, while suite\.gan_tasks is not"]),
    "no GAN tasks": ("gan_tasks: [small-gan]", "gan_tasks: []", [r"suite\.gan_tasks = \[\]: empty, while suite\.gan_variants is not"]),
    "null": ("gan_tasks: [small-gan]", "gan_tasks:", [r"suite\.gan_tasks = null: must be a list$"]),
    "no baseline": ("  baseline: batch_norm\n", "", [r"suite\.baseline: must be one of suite\.variants"]),
    "a baseline of no variant": ("baseline: batch_norm", "baseline: no_norm", [r"suite\.baseline = 'no_norm': must be one of suite\.variants; "]),
    "an unknown GAN variant": ("gan_variants: [batch_norm]", "gan_variants: [batch_norms]", [r"suite\.gan_variants\.0 = 'batch_norms': unknown; did you mean 'batch_norm'\?"]),
    "a GAN model for a classifier": ("model: resnet8", "model: sngan", [r"tasks\.small\.model = 'sngan': unknown model"]),
    "a long name": ("tasks: [small]", f"tasks: [{101 * 'x'}]", [r"suite\.tasks\.0 = 'xxx.*unknown"]),
    "a seed that no integer of 64 bits holds": ("seeds: [0, 1]", "seeds: [18446744073709551616]", [r"suite\.seeds\.0 = 18446744073709551616: must be less than 9223372036854775808$"]),
    "a large seed": ("seeds: [0, 1]", "seeds: [9223372036854775807]", []),
    "images too small for corruptions": ("image_size: 8", "image_size: 4", [r"gan_tasks\.small-gan\.model = 'sngan': does not fit", r"datasets\.digits\.image_size = 4: corruptions need a side of 8 pixels or more$"]),
    "std of bytes": ("image_size: 8", "image_size: 8, mean: [33.3], std: [78.5]", [r"datasets\.digits\.mean\.0 = 33\.3: must be between 0 and 1, as pixels are: divide by 255 \(0\.1306\)$", r"datasets\.digits\.std\.0 = 78\.5: must be between 0 and 1, as pixels are: divide by 255 \(0\.3078\)$"]),
    "a std of nothing": ("image_size: 8", "image_size: 8, std: [0]", [r"datasets\.digits\.std\.0 = 0: must be greater than 1e-06$"]),
    "std alone": ("image_size: 8", "image_size: 8, std: [0.3]", []),
    "a name that is a number": ("variants:\n  batch_norm:", "variants:\n  1: {method: no_norm}\n  batch_norm:", [r"variants: the name 1 is read as a whole number: write it in quotes, '1'$"]),
    "a file without a class": ("{method: batch_norm}", "{method: my_methods/rms_norm.py}", [r"variants\.batch_norm\.method = 'my_methods/rms_norm\.py': it does not say which class of the file is meant: write my_methods/rms_norm\.py:RMSNorm$"]),
    "no names of corruptions": ("names: [contrast]", "names: []", [r"corruptions\.names = \[\]: must have at least 1 item$"]),
    "a list in the names of corruptions": ("names: [contrast]", "names: [[contrast], fog]", [r"corruptions\.names\.0 = \[contrast\]: must be text$"]),
    "padding of resized crops": ("crop_padding: 1", "crop_padding: 1, crop: resized", [r"tasks\.small\.recipe\.crop_padding = 1: has no effect with crop 'resized'$"]),
    "a scale of padded crops": ("crop_padding: 1", "crop_padding: 1, crop_scale: [0.5, 1.0]", [r"tasks\.small\.recipe\.crop_scale = \[0\.5, 1\.0\]: has no effect with crop 'padded'$"]),
    "a scale from large to small": ("crop_padding: 1", "crop: resized, crop_scale: [1.0, 0.5]", [r"tasks\.small\.recipe\.crop_scale = \[1\.0, 0\.5\]: must be the least and the largest of two numbers$"]),
    "crops of more than the image": ("crop_padding: 1", "crop: resized, crop_scale: [0.5, 2.0]", [r"tasks\.small\.recipe\.crop_scale\.1 = 2\.0: must be less than or equal to 1\.0$"]),
    "a key for anchors": ("\nsuite:", "\nx-common: &common {epochs: .nan}\nsuite:", []),
}  # fmt: skip


@pytest.mark.parametrize("case", SUITES)
def test_suites_at_their_ends(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    old, new, expected = SUITES[case]
    text = PARAMS.replace(
        "\ngan_tasks:\n", "\n  other: {dataset: mnist, model: resnet8, recipe: {epochs: 1}}\ngan_tasks:\n"
    )
    assert old in text
    found = lines_of(tmp_path / "params.yaml", text.replace(old, new, 1))
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.search(rf"params\.yaml:\d+: {pattern}", line), line


def test_the_advice_for_a_constant_channel_leads_to_success() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    images[..., 1] = 128
    with pytest.raises(UserError) as caught:
        statistics(images, None, None, Request("mine", None))
    (advised,) = re.findall(r"put beside `source`: std: \[(.*)\]$", str(caught.value))
    mean, std = statistics(images, None, [float(each) for each in advised.split(", ")], Request("mine", None))
    assert mean == pytest.approx((images / 255).mean((0, 1, 2)).tolist())
    expected = (images / 255).std((0, 1, 2))
    assert std == pytest.approx([expected[0], 1.0, expected[2]], rel=1e-3)


@pytest.mark.slow
def test_bind_says_all_of_it_before_the_training(tmp_path: Path) -> None:
    """Two training images of two classes train, are scored and have an FID; of one class they do not."""
    folder = SuiteFolder(tmp_path)
    (tmp_path / "made.py").write_text(
        "from dataclasses import dataclass\n"
        "import numpy as np\n"
        "from normbench.data.arrays import save\n"
        "from normbench.data.sources.base import Origin, Source, source\n"
        "@source('few')\n"
        "@dataclass(frozen=True)\n"
        "class Few(Source):\n"
        "    classes: int\n"
        "    native_size = 8\n"
        "    def write(self, request, out):\n"
        "        images, labels = np.arange(128, dtype=np.uint8).reshape(2, 8, 8), np.arange(2) % self.classes\n"
        "        save({'train_images': images, 'train_labels': labels, 'test_images': images[:1], 'test_labels': labels[:1]}, request, out)\n"
        "        return Origin('made')\n"
    )
    folder.edit("{source: digits, image_size: 8}", "{source: made.py:few, classes: 1}")
    folder.edit("seeds: [0, 1]", "seeds: [0]")
    folder.edit("variants: [batch_norm, group_norm]", "variants: [batch_norm]")
    folder.edit("severities: [1]}", "severities: [1]}\nevaluation: {batch_statistics: {batch_size: 1}}")
    folder.run("stages.resolve")
    for stage in ("download", "corrupt"):
        folder.run(f"stages.{stage}", "--dataset", "digits")
    assert folder.run("stages.bind", code=1).splitlines() == [
        "params.yaml: tasks.small.dataset = 'digits': has 1 class, but a classifier needs 2 or more",
        "params.yaml: gan_tasks.small-gan.dataset = 'digits': has 1 class, but the FID needs the features of a classifier of 2 or more",
    ]
    assert not (tmp_path / "build/bound").exists()
    folder.edit("classes: 1", "classes: 2")
    folder.bind()
    folder.run("stages.train", "--task", "small", "--variant", "batch_norm")
    folder.run("stages.evaluate", "--task", "small", "--variant", "batch_norm")
    folder.run("stages.gan", "--task", "small-gan", "--variant", "batch_norm")
    folder.run("stages.real", "--task", "small-gan")
    folder.run("stages.fid", "--task", "small-gan", "--variant", "batch_norm")
    folder.run("stages.aggregate")
    folder.run("stages.report")
