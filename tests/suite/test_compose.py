"""Suites that take definitions from the library beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.data.sources.cityscapes import Cityscapes
from normbench.runs.run import Kind
from normbench.segmentation.task import SegmentationTask
from normbench.suite import code, feasible
from normbench.suite.compose import LIBRARY, composed
from normbench.suite.document import Document
from normbench.suite.resolve import resolve
from normbench.suite.resolved import Resolved
from normbench.system.errors import UserError
from normbench.system.narrowing import narrowed
from normbench.training.recipe import Curvature, Recipe
from normbench.training.task import Task
from tests.support.project import ROOT
from tests.support.subjects import bound

SUITE = """\
# The head.
suite: {seeds: [0], datasets: [data], tasks: [own, shared, alike], variants: [mine, theirs], gan_tasks: [], gan_variants: []}

evaluation: {attacks: null} # kept

tasks:
  own: {dataset: data, model: mlp, recipe: {epochs: 1}} # of the suite
variants:
  mine: {method: batch_norm}
"""
SHARED = """\
x-recipes:
  used: &used
    epochs: 3
    lr: 0.5
  other: &other
    epochs: 4
datasets:
  data: {source: digits}
  elsewhere: {source: digits}
tasks:
  own: {dataset: data, model: resnet8, recipe: *other}
  shared: {dataset: elsewhere, model: resnet8, recipe: *used}
  alike: {dataset: data, model: resnet20, recipe: *used}
  unused: {dataset: data, model: resnet8, recipe: *other}
variants:
  theirs: {method: no_norm, options: {residual_gain: 0.1}} # why
"""


def written(folder: Path, suite: str = SUITE, library: str = SHARED) -> Path:
    (folder / LIBRARY).write_text(library)
    path = folder / "mine.yaml"
    path.write_text(suite)
    return path


def test_what_a_suite_names_is_copied(tmp_path: Path) -> None:
    """With the datasets of its tasks and the recipes that these share; what it defines itself stays."""
    text = composed(written(tmp_path))
    found = Document(tmp_path / "params.yaml", text).value
    used = {"epochs": 3, "lr": 0.5}
    assert found["tasks"] == {
        "own": {"dataset": "data", "model": "mlp", "recipe": {"epochs": 1}},
        "shared": {"dataset": "elsewhere", "model": "resnet8", "recipe": used},
        "alike": {"dataset": "data", "model": "resnet20", "recipe": used},
    }
    assert found["variants"] == {
        "mine": {"method": "batch_norm"},
        "theirs": {"method": "no_norm", "options": {"residual_gain": 0.1}},
    }
    assert found["datasets"] == {"data": {"source": "digits"}, "elsewhere": {"source": "digits"}}
    assert found["evaluation"] == {"attacks": None}
    assert text.startswith("# The head.\nsuite: {seeds: [0], ")
    assert "# kept" in text
    assert "# of the suite" in text
    assert text.count("epochs: 3") == 1  # the recipe stands there once, and both tasks refer to it
    assert text.count("*used") == 2
    assert "other" not in text


def test_a_suite_that_needs_nothing_is_returned_byte_for_byte(tmp_path: Path) -> None:
    suite = SUITE.replace(", shared, alike", "").replace(", theirs", "").replace("[data]", "[digits]")
    suite = suite.replace("dataset: data", "dataset:   digits")
    assert composed(written(tmp_path, suite)) == suite
    (tmp_path / LIBRARY).unlink()
    assert composed(tmp_path / "mine.yaml") == suite


def test_names_that_nobody_defines_are_left_to_the_check(tmp_path: Path) -> None:
    text = composed(written(tmp_path, SUITE.replace("theirs", "nobodys")))
    assert Document(tmp_path / "params.yaml", text).value["variants"] == {"mine": {"method": "batch_norm"}}


def test_a_damaged_library_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{LIBRARY}:\d+: not YAML"):
        composed(written(tmp_path, library=SHARED + "  broken: ["))


@pytest.mark.parametrize("suite", ["suite: 3\n", "suite: {tasks: 5, variants: [3]}\n", "tasks: []\n"])
def test_lists_that_are_none_are_left_to_the_check(suite: str, tmp_path: Path) -> None:
    assert composed(written(tmp_path, suite)) == suite


def resolved_suite(name: str, folder: Path) -> Resolved:
    """A suite of the project. It takes seconds, and is kept for other tests of it."""
    if name not in KEPT:
        params = folder / "params.yaml"
        params.write_text(composed(ROOT / f"suites/{name}.yaml"))
        KEPT[name] = resolve(params)
    return KEPT[name]


KEPT: dict[str, Resolved] = {}


def test_network_deconvolution_has_ten_networks_in_the_authors_form(tmp_path: Path) -> None:
    tasks = resolved_suite("nd-cifar", tmp_path).tasks[Kind.CLASSIFICATION]
    assert len(tasks) == 60
    assert {(task.dataset, task.recipe.epochs) for task in tasks.values() if isinstance(task.recipe, Recipe)} == {
        (dataset, epochs) for dataset in ("cifar10", "cifar100") for epochs in (1, 20, 100)
    }
    assert len({task.model for task in tasks.values()}) == 10
    for task in tasks.values():
        assert task.model_options.get("authors_form", True), task.name
        assert task.recipe.batch_size == 128
        assert isinstance(task.recipe, Recipe)
        assert (task.recipe.lr, task.recipe.momentum, task.recipe.weight_decay) == (0.1, 0.9, 1e-3)
        assert (task.recipe.schedule, task.recipe.weight_decay_norms) == ("cosine", True)
        assert (task.recipe.crop_padding, task.recipe.flip) == (4, True)


def test_conv_norm_is_trained_as_in_its_notebook(tmp_path: Path) -> None:
    found = resolved_suite("convnorm-robust", tmp_path)
    recipe = found.tasks[Kind.CLASSIFICATION]["convnorm-free"].recipe
    assert isinstance(recipe, Recipe)
    assert found.suite.seeds == [6, 8, 666, 10]
    assert recipe.adversary is not None
    assert (recipe.adversary.kind, recipe.adversary.epsilon, recipe.adversary.repeats) == ("free", 8.0, 4)
    assert (recipe.epochs, recipe.milestones, recipe.gamma, recipe.weight_decay) == (30, [10, 20], 0.1, 1e-4)
    recipes = resolved_suite("convnorm-standard", tmp_path).tasks[Kind.CLASSIFICATION]
    assert {name: (task.recipe.epochs, task.recipe.milestones) for name, task in recipes.items()} == {  # type: ignore[union-attr]  # none is a GAN's
        "convnorm-cifar10": (120, [40, 80]),
        "convnorm-cifar100": (150, [60, 120]),
    }


def test_the_other_suites_train_what_they_say(tmp_path: Path) -> None:
    noise = resolved_suite("convnorm-label-noise", tmp_path).tasks[Kind.CLASSIFICATION]
    found = [task.label_noise and (task.label_noise.kind, task.label_noise.fraction) for task in noise.values()]  # type: ignore[union-attr]  # none is a GAN's
    assert found == [
        None,
        *(("symmetric", share) for share in (0.2, 0.4, 0.6, 0.8)),
        *(("asymmetric", share) for share in (0.2, 0.4)),
    ]
    scarce = resolved_suite("convnorm-scarce-data", tmp_path).tasks[Kind.CLASSIFICATION]
    assert [task.train_fraction for task in scarce.values()] == [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]  # type: ignore[union-attr]  # none is a GAN's
    mnist = resolved_suite("nd-mnist", tmp_path)
    assert {task.model for task in mnist.tasks[Kind.CLASSIFICATION].values()} == {"mlp", "lenet"}
    assert mnist.variants["network_deconvolution_mlp"].options["eps"] == 1e-2
    sbn = resolved_suite("sbn-cifar", tmp_path).tasks[Kind.CLASSIFICATION]
    assert {task.model for task in sbn.values()} == {"resnet56", "vgg16"}


def test_suites_of_imagenet_have_the_recipes_that_are_known(tmp_path: Path) -> None:
    found = resolved_suite("nd-imagenet", tmp_path)
    rates = {}
    for name, recipe in recipes_of(found).items():
        rates[name] = recipe.lr
        assert (recipe.epochs, recipe.batch_size, recipe.momentum, recipe.weight_decay) == (90, 256, 0.9, 1e-4)
        assert (recipe.schedule, recipe.warmup_epochs, recipe.label_smoothing) == ("cosine", 0, 0)
        assert (recipe.crop, recipe.crop_scale, recipe.crop_ratio) == ("resized", [0.08, 1.0], [3 / 4, 4 / 3])
        assert (recipe.flip, recipe.drop_last, recipe.weight_decay_norms) == (True, False, True)
    assert list(rates.values()) == [0.01, 0.1, 0.1]
    assert {*found.variants} == {"batch_norm", "network_deconvolution"}
    for name, model in (("convnorm-imagenet", "imagenet_resnet18"), ("sbn-imagenet", "imagenet_resnet50")):
        suite = resolved_suite(name, tmp_path)
        (task,) = suite.tasks[Kind.CLASSIFICATION].values()
        assert (task.model, task.dataset) == (model, "imagenet")
        assert suite.suite.seeds == [0]


def recipes_of(resolved: Resolved) -> dict[str, Recipe]:
    """The recipe of each classification task, by name."""
    found = {name: task.recipe for name, task in resolved.tasks[Kind.CLASSIFICATION].items()}
    return {name: recipe for name, recipe in found.items() if isinstance(recipe, Recipe)}


def test_fantastic_four_is_trained_as_in_its_code(tmp_path: Path) -> None:
    """singlasahil14/fantastic-four at 0b85f0fb; the coefficients are in the range of the paper's search."""
    found = resolved_suite("fantastic-four-cifar", tmp_path)
    assert {task.model for task in found.tasks[Kind.CLASSIFICATION].values()} == {"resnet32"}
    recipes = recipes_of(found)
    assert [recipe.weight_decay for recipe in recipes.values()] == [1e-4, 0.0]
    for recipe in recipes.values():
        assert (recipe.epochs, recipe.milestones, recipe.gamma) == (200, [100, 150], 0.1)
        assert (recipe.lr, recipe.momentum, recipe.nesterov, recipe.batch_size) == (0.1, 0.9, False, 128)
        assert (recipe.crop_padding, recipe.flip) == (4, True)
    assert found.datasets["cifar10-imagenet"]["std"] == [0.229, 0.224, 0.225]
    swept = [each for each in found.variants.values() if each.method == "fantastic_four"]
    assert sorted(each.options["coefficient"] for each in swept) == [1e-4, 2e-4, 4e-4, 8e-4, 1.2e-3, 1.6e-3, 2e-3]
    assert {(each.options["form"], each.options["layers"]) for each in swept} == {("sum", "conv")}


def test_certificates_on_mnist_are_of_networks_without_norms(tmp_path: Path) -> None:
    found = resolved_suite("fantastic-four-mnist", tmp_path)
    for task in found.tasks[Kind.CLASSIFICATION].values():
        assert (task.model, task.model_options["norms"], task.dataset) == ("convnet", False, "mnist-pixels")
    tasks = [task for task in found.tasks[Kind.CLASSIFICATION].values() if isinstance(task, Task)]
    assert [task.loss_code for task in tasks] == [None, *[code.loss(tasks[1])] * 3]
    losses = [recipe.loss for recipe in recipes_of(found).values()]
    assert [loss and (loss.kind, loss.lipschitz) for loss in losses] == [
        None,
        ("hinge", "one"),
        ("offset_cross_entropy", "one"),
        ("offset_cross_entropy", "network"),
    ]
    swept = [each.options for each in found.variants.values() if each.method == "fantastic_four"]
    assert {options["layers"] for options in swept} == {"all"}
    assert {options["form"] for options in swept} == {"sum", "log"}
    methods = {each.method for each in found.variants.values()}
    assert methods >= {"no_norm", "spectral_norm", "conv_spectral_norm", "orthogonal", "cayley", "soc"}


def test_curvature_is_trained_as_in_its_paper(tmp_path: Path) -> None:
    """singlasahil14/so-robust at ed7560c2: 784-1024-10, up to two more layers of 1024, and the values of its options."""
    found = resolved_suite("curvature-mnist", tmp_path)
    tasks = found.tasks[Kind.CLASSIFICATION]
    assert {(task.model_options["width"], task.model_options["activation"]) for task in tasks.values()} == {
        (1024, "softplus")
    }
    assert sorted(task.model_options["depth"] for task in tasks.values()) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    recipes = recipes_of(found)
    assert {(recipe.epochs, recipe.batch_size) for recipe in recipes.values()} == {(30, 64)}
    for layers in (2, 3, 4):
        assert recipes[f"crt-mnist-{layers}-layers-standard"].loss is None
        for name, epsilon in ((f"crt-mnist-{layers}-layers-penalty", 0.0), (f"crt-mnist-{layers}-layers", 1.58)):
            loss = recipes[name].loss
            assert loss is not None
            assert loss.curvature == Curvature(coefficient=0.005, epsilon=epsilon, rounds=30, steps=10)
            assert loss.kind == "cross_entropy"


def test_certificates_on_a_cpu_are_of_one_seed_and_few_epochs(tmp_path: Path) -> None:
    found, curved = resolved_suite("provable-cpu", tmp_path), resolved_suite("curvature-cpu", tmp_path)
    assert (len(found.suite.names()), len(curved.suite.names())) == (28, 12)
    networks = [*found.tasks[Kind.CLASSIFICATION].values(), *curved.tasks[Kind.CLASSIFICATION].values()]
    assert not any(task.model_options["norms"] for task in networks)
    assert {"no_norm", "fantastic_four", "spectral_norm", "conv_spectral_norm", "cayley"} == {
        each.method for each in found.variants.values()
    }
    assert [recipe.loss is not None for recipe in recipes_of(found).values()] == [False, True, True, True]
    losses = [recipe.loss for recipe in recipes_of(curved).values()]
    radii = [None if loss is None or loss.curvature is None else loss.curvature.epsilon for loss in losses]
    assert radii == [None] * 3 + [0.0] * 3 + [1.58] * 3 + [None, 0.0, 1.58]
    for name, size in (("cifar10", 32), ("mnist", 28)):
        for task in networks:
            if task.dataset == name and task.model == "convnet":
                assert task.model_options["side"] == size // 2 ** (
                    task.model_options["depth"] // 2
                )  # so that maps are not averaged


@pytest.mark.parametrize("name", ["fantastic-four-mnist", "curvature-mnist", "provable-cpu", "curvature-cpu"])
def test_every_network_of_a_suite_can_have_its_losses(name: str, tmp_path: Path) -> None:
    """As the stage `bind` finds out once the data are there."""
    found, tried = resolved_suite(name, tmp_path), 0
    images = bound(classes=10, channels=1, image_size=28)
    for task in found.tasks[Kind.CLASSIFICATION].values():
        assert isinstance(task, Task)
        if task.recipe.loss is not None:
            for variant in found.variants.values():
                narrow = task.model_options | {"width": 4} | ({"hidden": 8} if task.model == "convnet" else {})
                small = task.model_copy(update={"model_options": narrow})
                assert feasible.cannot_have_loss(small, task.recipe.loss, images, variant) is None
                tried += 1
    assert tried >= len(found.variants)


def test_cityscapes_has_the_recipe_of_the_authors_code(tmp_path: Path) -> None:
    """371 steps in each of 30 epochs; beside their protocol the usual one, with nothing else changed."""
    found = resolved_suite("nd-cityscapes", tmp_path)
    assert found.suite.segmentation == ["fcn-authors", "deeplabv3-authors", "fcn", "deeplabv3"]
    recipes = {
        name: narrowed(task, SegmentationTask, name).recipe for name, task in found.tasks[Kind.SEGMENTATION].items()
    }
    theirs = recipes["fcn-authors"]
    assert (theirs.epochs, theirs.batch_size, theirs.lr, theirs.momentum, theirs.weight_decay) == (
        30,
        8,
        0.1,
        0.9,
        1e-4,
    )
    assert (theirs.schedule, theirs.power, theirs.base_size, theirs.crop_size) == ("poly", 0.9, 520, 480)
    assert (theirs.scale, theirs.flip, theirs.drop_last, theirs.outputs) == ([0.5, 2.0], True, True, 21)
    assert Cityscapes.train_images // theirs.batch_size * theirs.epochs == 11_130
    assert recipes["deeplabv3-authors"] == theirs
    assert recipes["fcn"] == recipes["deeplabv3"] == theirs.model_copy(update={"protocol": "standard", "outputs": None})
    assert {task.model for task in found.tasks[Kind.SEGMENTATION].values()} == {"fcn_resnet50", "deeplabv3_resnet50"}
    assert not any(task.model_options["aux"] for task in found.tasks[Kind.SEGMENTATION].values())
