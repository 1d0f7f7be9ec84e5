"""What the id of a run is made of: everything that shapes its outcome, and no name, path or machine."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import BaseModel

from normbench.data.bound import Validation
from normbench.data.labels import LabelNoise
from normbench.gan.recipe import GanRecipe
from normbench.gan.task import GanTask
from normbench.runs.run import Kind, Run
from normbench.runs.variant import Tuned, Variant
from normbench.training.recipe import Adversary, Curvature, Loss, Recipe
from normbench.training.task import Task
from tests.support import sample_runs

ID = sample_runs.run().id
GAN_ID = sample_runs.run(Kind.GAN).id

# Other values of the fields that have no number, or for which one more is not valid.
OTHER: dict[str, Any] = {
    "schedule": "constant",
    "milestones": [1.0],
    "precision": "bfloat16",
    "memory_format": "contiguous",
    "gradient_clip": 1.0,
    "compile": "default",
    "adversary": Adversary(kind="pgd"),
    "fid_samples": 20,
    "step": 1.0,
    "loss": Loss(kind="hinge"),
    "kind": "free",
    "lipschitz": "network",
    "curvature": Curvature(),
    "gradient_penalty": 1.0,
}
# The same of the recipes of GANs, where they are others.
OTHER_OF_GANS = {"schedule": "linear", "loss": "non_saturating"}
# And of losses.
OTHER_OF_LOSSES = {"kind": "offset_cross_entropy"}


def other(model: BaseModel, field: str) -> Any:
    """Another valid value of a field: that of `OTHER`, the other truth value, the next integer, or half a number."""
    others = OTHER | (OTHER_OF_GANS if isinstance(model, GanRecipe) else {})
    others |= OTHER_OF_LOSSES if isinstance(model, Loss) else {}
    value = getattr(model, field)
    if field in others:
        return others[field]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value / 2 or 0.25


def with_other(model: Any, field: str) -> Any:
    """A model with another value of one field, checked as any is."""
    values = {name: getattr(model, name) for name in type(model).model_fields}
    changed = type(model)(**values | {field: other(model, field)})
    assert changed != model
    return changed


def test_an_id_is_16_hexadecimal_digits_and_the_same_each_time() -> None:
    assert re.fullmatch("[0-9a-f]{16}", ID)
    assert sample_runs.run().id == ID
    assert ID != GAN_ID


@pytest.mark.parametrize("field", Recipe.model_fields)
def test_every_field_of_a_recipe_is_in(field: str) -> None:
    task = sample_runs.task()
    of_resized = {"crop_scale": [0.5, 1.0], "crop_ratio": [1.0, 1.0]}
    if field in of_resized:
        task = sample_runs.task(recipe={"crop": "resized"})
        changed = sample_runs.task(recipe={"crop": "resized", field: of_resized[field]})
    elif field == "crop":
        changed = sample_runs.task(recipe={"crop": "resized"})
    else:
        changed = task.model_copy(update={"recipe": with_other(task.recipe, field)})
    assert sample_runs.run(task=changed).id != sample_runs.run(task=task).id


def test_the_code_that_reads_streamed_images_is_in() -> None:
    ids = {sample_runs.run(bound=sample_runs.bound(reader_code=code)).id for code in (None, "a" * 64, "b" * 64)}
    assert len(ids) == 3
    assert ID in ids


def test_what_a_crop_does_not_use_is_not_in() -> None:
    assert sample_runs.run(task=sample_runs.task(recipe={"crop_scale": [0.5, 1.0]})).id == ID
    padded = [sample_runs.task(recipe={"crop": "resized", "crop_padding": number}) for number in (0, 3)]
    assert len({sample_runs.run(task=task).id for task in padded}) == 1


@pytest.mark.parametrize("field", Adversary.model_fields)
def test_every_field_of_an_adversary_is_in(field: str) -> None:
    adversary = Adversary(kind="pgd")
    ids = {
        sample_runs.run(task=sample_runs.task(recipe={"adversary": each})).id
        for each in (adversary, with_other(adversary, field))
    }
    assert len(ids) == 2


@pytest.mark.parametrize("field", Loss.model_fields)
def test_every_field_of_a_loss_is_in(field: str) -> None:
    loss = Loss(kind="hinge")
    ids = {sample_runs.run(task=with_loss(each)).id for each in (loss, with_other(loss, field))}
    assert len({*ids, ID}) == 3


@pytest.mark.parametrize("field", Curvature.model_fields)
def test_every_field_of_a_curvature_is_in(field: str) -> None:
    curvature = Curvature()
    found = (with_loss(Loss(curvature=each)) for each in (curvature, with_other(curvature, field)))
    assert len({sample_runs.run(task=each).id for each in found}) == 2


def with_loss(loss: Loss) -> Task:
    return sample_runs.task(recipe={"loss": loss}, loss_code="4" * 64)


@pytest.mark.parametrize("field", GanRecipe.model_fields)
def test_every_field_of_a_gan_recipe_is_in_but_how_many_images_the_fid_draws(field: str) -> None:
    task = sample_runs.gan_task()
    changed = task.model_copy(update={"recipe": with_other(task.recipe, field)})
    assert (sample_runs.run(Kind.GAN, task=changed).id == GAN_ID) == (field == "fid_samples")


@pytest.mark.parametrize("task", [sample_runs.task(), sample_runs.gan_task()])
def test_a_key_of_recipes_that_is_not_set_is_not_in(task: Task | GanTask) -> None:
    """So runs of the time before there were such keys have the id that they had."""
    assert not {"deterministic", "loss"} & task.identity()["recipe"].keys()
    assert "loss_code" not in task.identity()
    assert task.identity()["recipe"].keys() < task.model_dump()["recipe"].keys()
    set_ = task.model_copy(update={"recipe": task.recipe.model_copy(update={"deterministic": True})})
    assert set_.identity()["recipe"]["deterministic"] is True


IN: dict[str, Run] = {
    "where a method applies": sample_runs.run(variant=sample_runs.variant(apply_to="both")),
    "seed": sample_runs.run(seed=1),
    "training code": sample_runs.run(code="other"),
    "seed of the suite": sample_runs.run(task=sample_runs.task(seed=1)),
    "model code": sample_runs.run(task=sample_runs.task(model_code="other")),
    "code of a loss": sample_runs.run(task=sample_runs.task(loss_code="other")),
    "model options": sample_runs.run(task=sample_runs.task(model_options={"width": 8})),
    "train fraction": sample_runs.run(task=sample_runs.task(train_fraction=0.5)),
    "symmetric label noise": sample_runs.run(
        task=sample_runs.task(label_noise=LabelNoise(kind="symmetric", fraction=0.2))
    ),
    "more label noise": sample_runs.run(task=sample_runs.task(label_noise=LabelNoise(kind="symmetric", fraction=0.4))),
    "other label noise": sample_runs.run(
        task=sample_runs.task(label_noise=LabelNoise(kind="asymmetric", fraction=0.2))
    ),
    "method code": sample_runs.run(variant=sample_runs.variant(method_code="other")),
    "method options": sample_runs.run(variant=sample_runs.variant(options={"eps": 0.2})),
    "content of the dataset": sample_runs.run(bound=sample_runs.bound(fingerprint="1" * 64)),
    "classes": sample_runs.run(bound=sample_runs.bound(classes=5)),
    "mean": sample_runs.run(bound=sample_runs.bound(mean=[0.4])),
    "std": sample_runs.run(bound=sample_runs.bound(std=[0.4])),
    "images that are held out": sample_runs.run(bound=sample_runs.bound(validation=Validation(fraction=0.2, seed=0))),
    "how many are held out": sample_runs.run(bound=sample_runs.bound(validation=Validation(fraction=0.3, seed=0))),
    "which are held out": sample_runs.run(bound=sample_runs.bound(validation=Validation(fraction=0.2, seed=1))),
}


@pytest.mark.parametrize("what", IN)
def test_what_is_in(what: str) -> None:
    ids = [ID, *(run.id for run in IN.values())]
    assert ids.count(IN[what].id) == 1  # It is no id of the others either.


GAN_IN: dict[str, Run] = {
    "seed of the suite": sample_runs.run(Kind.GAN, task=sample_runs.gan_task(seed=1)),
    "model code": sample_runs.run(Kind.GAN, task=sample_runs.gan_task(model_code="other")),
    "model options": sample_runs.run(Kind.GAN, task=sample_runs.gan_task(model_options={"width": 16})),
}


@pytest.mark.parametrize("what", GAN_IN)
def test_what_is_in_of_a_gan(what: str) -> None:
    assert GAN_IN[what].id != GAN_ID


NOT_IN: dict[str, Run] = {
    "name of the task": sample_runs.run(task=sample_runs.task(name="other")),
    "name of its dataset": sample_runs.run(task=sample_runs.task(dataset="other")),
    "how the model is referred to": sample_runs.run(task=sample_runs.task(model="my_models/resnet8.py:resnet8")),
    "list of seeds": sample_runs.run(task=sample_runs.task(seeds=[0, 1, 2])),
    "name of the variant": sample_runs.run(variant=sample_runs.variant(name="other")),
    "how the method is referred to": sample_runs.run(variant=sample_runs.variant(method="my_methods/a.py:BatchNorm")),
    "which study chose the values": sample_runs.run(
        variant=sample_runs.variant(tuned={"t": Tuned(lr=0.5, weight_decay=0.1, study="s", trials=3)})
    ),
    "name of the dataset": sample_runs.run(bound=sample_runs.bound(name="other")),
    "path of the data": sample_runs.run(bound=sample_runs.bound(path="elsewhere/d")),
    "origin of the data": sample_runs.run(bound=sample_runs.bound(origin="another mirror")),
    "note": sample_runs.run(bound=sample_runs.bound(note="A note.")),
    "title": sample_runs.run(title="another title"),
}


@pytest.mark.parametrize("what", NOT_IN)
def test_what_is_not_in(what: str) -> None:
    assert NOT_IN[what].id == ID


def test_names_of_a_gan_are_not_in() -> None:
    renamed = sample_runs.gan_task(name="other", dataset="other", seeds=[5], model="my_models/a.py:sngan")
    assert sample_runs.run(Kind.GAN, task=renamed, title="another title").id == GAN_ID


@pytest.mark.parametrize(("kind", "named"), [(Task, IN | NOT_IN), (Variant, IN | NOT_IN)])
def test_no_field_is_forgotten_here(kind: type[BaseModel], named: dict[str, Run]) -> None:
    """Each field of a task and of a variant has another value in some run above, so that a new one is decided upon."""
    part = kind.__name__.lower()
    first = getattr(sample_runs.run(), part)
    for field in kind.model_fields:
        if field != "recipe":  # Its fields have tests of their own.
            assert any(getattr(getattr(run, part), field) != getattr(first, field) for run in named.values()), field


def test_tuned_values_are_in_and_the_name_of_their_study_is_not() -> None:
    """They take the place of those of the recipe and the variant, on their task alone."""
    task, ids = sample_runs.task(), []
    for values in (
        {},
        {"study": "another", "trials": 9},
        {"lr": 0.3},
        {"weight_decay": 0.3},
        {"options": {"eps": 0.5}},
    ):
        chosen = Tuned(**{"lr": 0.5, "weight_decay": 0.1, "study": "s", "trials": 3} | values)
        trained, variant = sample_runs.variant(tuned={task.name: chosen, "other": chosen}).on(task)
        assert (trained.recipe.lr, trained.recipe.weight_decay) == (chosen.lr, chosen.weight_decay)
        assert variant.applied == chosen
        assert variant.tuned == {task.name: chosen}
        ids.append(sample_runs.run(task=trained, variant=variant).id)
    assert ids[0] == ids[1]
    assert len({ID, *ids}) == 5
    by_hand = task.model_copy(update={"recipe": task.recipe.model_copy(update={"lr": 0.5, "weight_decay": 0.1})})
    assert sample_runs.run(task=by_hand).id == ids[0]
    elsewhere, plain = sample_runs.variant(tuned={"other": chosen}).on(task)
    assert (elsewhere, plain) == (task, sample_runs.variant())
    gan = sample_runs.gan_task()
    assert sample_runs.variant(tuned={gan.name: chosen}).on(gan) == (gan, sample_runs.variant())
