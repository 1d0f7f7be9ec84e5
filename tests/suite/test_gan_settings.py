"""What params.yaml may ask of a GAN: a line before any training for what it cannot have, and the published suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.gan.task import GanTask
from normbench.runs.run import Kind, Run
from normbench.suite import feasible, resolve, trial
from normbench.suite.resolved import Resolved
from normbench.system.errors import UserError
from tests.support.subjects import bound, gan_task, variant

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
suite: {seeds: [0], datasets: [digits], tasks: [], variants: [], gan_tasks: [small], gan_variants: [one]}
datasets:
  digits: {source: digits, image_size: 8}
gan_tasks:
  small: {dataset: digits, model: sngan, model_options: {width: 4}, recipe: {iterations: 1, batch_size: 16}}
variants:
  one: {method: no_norm}
"""
MODEL = """from normbench.models.sngan import sngan

def plain(method, channels, size, latent):
    return sngan(method, channels, size, latent, width=4)
"""


def resolved(folder: Path, monkeypatch: pytest.MonkeyPatch, *edits: tuple[str, str]) -> Resolved:
    monkeypatch.chdir(folder)
    text = SMALL
    for old, new in edits:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text)
    (folder / "nets.py").write_text(MODEL)
    return resolve.resolve()


def line(folder: Path, monkeypatch: pytest.MonkeyPatch, *edits: tuple[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        resolved(folder, monkeypatch, *edits)
    (found,) = caught.value.args
    assert "\n" not in found
    return found


OWN = ("model: sngan, model_options: {width: 4}", "model: 'nets.py:plain'")
REFUSED = {
    "classes": (
        [OWN, ("batch_size: 16}", "batch_size: 16}, conditional: true")],
        "gan_tasks.small.conditional = true: plain has no argument `classes`, so it knows none",
    ),
    "the generator": (
        [OWN, ("{method: no_norm}", "{method: no_norm, apply_to: both}")],
        "variants.one.apply_to = 'both': plain of small has no argument `generator_method`: no method changes its "
        "generator",
    ),
    "a word": (
        [("{method: no_norm}", "{method: no_norm, apply_to: generater}")],
        "variants.one.apply_to = 'generater': not valid; did you mean 'generator'?",
    ),
    "a loss": (
        [("iterations: 1,", "iterations: 1, loss: wassertein,")],
        "gan_tasks.small.recipe.loss = 'wassertein': not valid; did you mean 'wasserstein'?",
    ),
    "classifiers": (
        [
            ("tasks: [], variants: []", "tasks: [a], variants: [one], baseline: one"),
            ("{method: no_norm}", "{method: no_norm, apply_to: generator}"),
            ("gan_tasks:\n", "tasks: {a: {dataset: digits, model: resnet8, recipe: {epochs: 1}}}\ngan_tasks:\n"),
        ],
        "variants.one.apply_to = 'generator': is for GANs, but suite.variants has it too, and a classifier has no "
        "generator",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edits, expected = REFUSED[case]
    assert expected in line(tmp_path, monkeypatch, *edits)


def test_a_method_without_second_derivatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named where there is a gradient penalty, before the training; without one, it is not tried."""
    deconvolution = ("method: no_norm", "method: network_deconvolution")
    wasserstein = ("iterations: 1,", "iterations: 1, loss: wasserstein,")
    for edits in (
        [deconvolution],
        [wasserstein],
        [deconvolution, wasserstein, ("one: {", "one: {apply_to: generator, ")],
    ):
        assert trial.check(trial.of_params(resolved(tmp_path, monkeypatch, *edits))) == []
    with pytest.raises(UserError) as caught:
        trial.check(trial.of_params(resolved(tmp_path, monkeypatch, deconvolution, wasserstein)))
    (found,) = caught.value.args
    assert "normbench/methods/network_deconvolution.py:" in found
    assert (
        "the gradient penalty needs second derivatives, which NetworkDeconvolution has not (variant one, task" in found
    )


def test_a_layer_that_a_method_does_not_take() -> None:
    """The shortcut from a grey image has filters of a single weight."""
    task = gan_task(model="sngan_resnet", model_options={"width": 4, "generator_width": 4})
    data = bound()
    (found,) = feasible.problems(Kind.GAN, task, data, [variant("weight_standardization"), variant("no_norm")], {})
    assert found.startswith(
        "params.yaml: gan_tasks.small.model = 'sngan_resnet': cannot be built with the variant weight_standardization: "
    )


def test_the_published_suite() -> None:
    """100,000 steps of the generator, 5 of the discriminator, 64 images, Adam (0, 0.9), 2e-4 down to 0, eight variants."""
    found = resolve.resolve(ROOT / "suites/cifar10-gan.yaml")
    assert len(found.suite.gan_variants) == 8
    tasks = [task for task in found.tasks[Kind.GAN].values() if isinstance(task, GanTask)]
    assert [(task.model, task.conditional) for task in tasks] == [
        ("sngan_resnet", False),
        ("sngan_resnet", True),
        ("sngan", False),
    ]
    for task in tasks:
        recipe = task.recipe
        assert (recipe.iterations, recipe.discriminator_steps, recipe.batch_size) == (100_000, 5, 64)
        assert (recipe.lr, recipe.beta1, recipe.beta2, recipe.schedule) == (2e-4, 0, 0.9, "linear")
        assert (recipe.loss, recipe.penalized, recipe.latent, recipe.average) == ("hinge", 0, 128, 0)


def test_new_settings_are_in_the_id_where_they_are_set() -> None:
    def run(task: GanTask, apply_to: str = "discriminator", classes: int = 4) -> str:
        changed = variant("no_norm").model_copy(update={"apply_to": apply_to})
        return Run(Kind.GAN, task, changed, 0, bound(classes=classes), "c" * 64).id

    plain, of_classes = gan_task(), gan_task(conditional=True)
    assert run(plain, classes=5) == run(plain)
    ids = [run(plain), run(plain, "generator"), run(plain, "both"), run(of_classes), run(of_classes, classes=5)]
    assert len(set(ids)) == len(ids)
    assert "apply_to" not in variant("no_norm").identity()
