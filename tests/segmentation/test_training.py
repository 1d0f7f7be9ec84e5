"""The loss over pixels, the schedule, the auxiliary head, and training that is interrupted."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from normbench.checks import subjects
from normbench.data.bound import Bound, Masks
from normbench.data.pixels import IGNORED
from normbench.data.scenes import ScenePair, scenes
from normbench.functional.joined import Joined, joining, taking_part
from normbench.methods import registry as methods
from normbench.methods.base import ConvSpec, Method, Role
from normbench.models import registry as models
from normbench.models.base import Model
from normbench.segmentation import loop, trainer
from normbench.segmentation.loss import batch_loss, pixel_loss
from normbench.segmentation.protocol import names_of, protocol
from normbench.segmentation.recipe import SegmentationRecipe
from normbench.segmentation.task import SegmentationTask
from normbench.system import ranks
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from tests.support import masked
from tests.support.together import each_of

SIZE = (24, 32)


def data() -> ScenePair:
    random = np.random.default_rng(0)
    pairs = [masked.scene(random, SIZE) for _ in range(9)]
    pixels, labels = np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])
    labels[labels == masked.VOID] = IGNORED
    return ScenePair(*(scenes(pixels[at], labels[at], [0.4] * 3, [0.2] * 3, "cpu") for at in (slice(6), slice(6, 9))))


def bound(**changed: Any) -> Bound:
    given = {"name": "boxes", "path": "", "fingerprint": "0" * 64, "classes": 3, "channels": 3, "image_size": SIZE}
    given |= {"train": 6, "test": 3, "mean": [0.4] * 3, "std": [0.2] * 3, "origin": "drawn"}
    return Bound.model_validate(given | {"masks": Masks(ignored=IGNORED, names=masked.NAMES)} | changed)


def task(options: dict[str, Any] | None = None, **recipe: Any) -> SegmentationTask:
    settings = {"epochs": 2, "batch_size": 2, "crop_size": (16, 24), "lr": 0.05, **recipe}
    return SegmentationTask(
        kind="segmentation",
        name="boxes-fcn",
        dataset="boxes",
        model="fcn_resnet18",
        model_options={"width": 4, "aux": False} | (options or {}),
        recipe=SegmentationRecipe.model_validate(settings),
        seed=0,
        seeds=[0],
        model_code="0" * 64,
    )


def prepared(one: SegmentationTask, method: str = "batch_norm") -> trainer.Segmenter:
    model = models.get(one.model, "segmenter")
    return trainer.prepare(one, model, methods.build(method, {}), bound(), 0, data())


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5))
    classes[0, :2] = IGNORED
    expected = [
        -logits[image, :, row, column].log_softmax(0)[classes[image, row, column]]
        for image in range(2)
        for row in range(4)
        for column in range(5)
        if classes[image, row, column] != IGNORED
    ]
    assert len(expected) == 30
    assert pixel_loss(logits, classes).item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-12)
    assert pixel_loss(logits, torch.full_like(classes, IGNORED)).item() == 0


def test_the_auxiliary_head_has_a_weight() -> None:
    torch.manual_seed(0)
    own, aux, classes = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))
    classes[1] = IGNORED
    both, right = batch_loss((own, aux), classes, 0.5)
    assert both.item() == pytest.approx((pixel_loss(own, classes) + 0.5 * pixel_loss(aux, classes)).item())
    assert right.item() == pytest.approx((own.argmax(1) == classes)[0].float().mean().item())
    assert batch_loss(own, classes, 0.5)[0].item() == pixel_loss(own, classes).item()


def test_the_schedule_falls_as_a_power_of_what_is_left() -> None:
    recipe = task(epochs=30).recipe
    factor = loop.lr_factor(recipe, 371)
    total = 11_130
    assert [factor(step) for step in (0, 371, total - 1)] == [
        pytest.approx((1 - step / total) ** 0.9) for step in (0, 371, total - 1)
    ]
    assert factor(total) == 0
    assert loop.lr_factor(task(schedule="constant").recipe, 3)(5) == 1


def test_the_auxiliary_head_has_a_learning_rate_of_its_own() -> None:
    one = task({"aux": True}, lr=0.02)
    ready = prepared(one)
    optimizer = loop.optimizer(ready.model, ready.method, ready.recipe)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(ready.model.named_parameters())
    assert len(rates) == len(named)
    of_aux = {name: rates[id(p)] for name, p in named.items() if name.startswith("aux.")}
    assert of_aux
    assert all(rate == pytest.approx(0.2) for rate in of_aux.values())
    assert {rates[id(p)] for name, p in named.items() if name not in of_aux} == {0.02}


def test_an_epoch_of_training_is_that_of_plain_steps() -> None:
    """The loop, its schedule and its history, against SGD written out."""
    one = task(epochs=1, weight_decay=1e-3)
    ready = prepared(one)
    outcome = trainer.fit(ready, one, 0, lambda *_: None)
    other = prepared(one)
    crops = loop.Crops(other.train, one.recipe, other.protocol, derive(one.seed, "order", 0))
    model, velocity, losses, rights = other.model.train(), dict[str, torch.Tensor](), [], []
    for step, (pixels, classes) in enumerate(crops.pixels(0)):
        x = (pixels.float() / 255 - 0.4) / 0.2
        logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits, classes, ignore_index=IGNORED)
        losses.append(loss.item())
        rights.append(((logits.argmax(1) == classes).sum() / (classes != IGNORED).sum()).item())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        rate = 0.05 * (1 - step / 3) ** 0.9
        with torch.no_grad():
            for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
                decayed = gradient + 1e-3 * weight
                velocity[name] = 0.9 * velocity[name] + decayed if name in velocity else decayed
                weight -= rate * velocity[name]
    (epoch,) = outcome.history
    assert epoch["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert epoch["accuracy"] == pytest.approx(np.mean(rights), abs=0.01)
    assert epoch["lr"] == 0.05
    for name, value in ready.model.state_dict().items():
        torch.testing.assert_close(value, other.model.state_dict()[name], rtol=1e-2, atol=1e-4, msg=name)


class Stop(Exception):
    pass


@dataclass
class Memory:
    """Keeps the state of a training in memory, with torch's generator, and ends it after a number of saves."""

    left: int
    spent: float = 0.0
    kept: dict[str, Any] | None = field(default=None)
    drawn: torch.Tensor | None = None

    def resume(self) -> dict[str, Any] | None:
        if self.drawn is not None:
            torch.set_rng_state(self.drawn)
        return copy.deepcopy(self.kept)

    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Any]) -> None:
        self.kept, self.left, self.drawn = copy.deepcopy(state), self.left - 1, torch.get_rng_state()
        if self.left == 0:
            raise Stop


@pytest.mark.parametrize("method", ["batch_norm", "network_deconvolution"])
def test_an_interrupted_training_ends_as_one_that_was_not(method: str) -> None:
    """The heads have dropout, so the global generator is part of the state."""
    one = task({"aux": True})
    whole = prepared(one, method)
    trainer.fit(whole, one, 0, lambda *_: None)
    keeper = Memory(left=4)  # in the middle of the second epoch
    with pytest.raises(Stop):
        trainer.fit(prepared(one, method), one, 0, lambda *_: None, keeper)
    torch.manual_seed(99)
    resumed = prepared(one, method)
    outcome = trainer.fit(resumed, one, 0, lambda *_: None, keeper)
    assert outcome.resumed == {"epoch": 1, "step": 1}
    assert [entry["epoch"] for entry in outcome.history] == [1, 2]
    for name, value in whole.model.state_dict().items():
        found = resumed.model.state_dict()[name]
        assert torch.equal(found, value) if isinstance(value, torch.Tensor) else found == value, name


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    one = task(lr=1e30, weight_decay=1e30)
    ready = prepared(one)
    outcome = trainer.fit(ready, one, 0, lambda *_: None)
    assert outcome.diverged is not None
    metrics, predicted = trainer.measure(ready, outcome)
    assert predicted is None
    assert set(metrics) == {"history", "training_images"}


def test_predictions_are_those_of_single_images() -> None:
    one = task(epochs=1)
    ready = prepared(one)
    metrics, predicted = trainer.measure(ready, trainer.fit(ready, one, 0, lambda *_: None))
    assert predicted is not None
    assert (predicted.shape, predicted.dtype) == ((3, *SIZE), np.uint8)
    for image, found in zip(ready.test.pixels, predicted, strict=True):
        x = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255 - 0.4) / 0.2
        with torch.no_grad():
            logits = ready.model.eval()(x)[0]
        two = logits.topk(2, 0).values
        sure = (two[0] - two[1] > 1e-4).numpy()
        assert sure.mean() > 0.9
        assert np.array_equal(logits.argmax(0).numpy()[sure], found[sure])
    counted = ready.test.masks != IGNORED
    assert metrics["pixel_accuracy"] == pytest.approx((predicted == ready.test.masks)[counted].mean())


def test_the_authors_protocol() -> None:
    """Void is class 0 and the others follow; images are scored with their shorter side at the base size."""
    recipe = task(protocol="authors", outputs=6, base_size=12).recipe
    found = protocol(recipe, bound())
    assert (found.classes, found.void, found.height, found.width) == (6, True, 12, 16)
    assert found.targets(np.array([0, 2, IGNORED], np.uint8)).tolist() == [1, 3, 0]
    assert names_of(recipe, bound()) == ["void", *masked.NAMES, "unused 1", "unused 2"]
    assert names_of(task(protocol="authors").recipe, bound()) == ["void", *masked.NAMES]
    labels = np.arange(24 * 32).reshape(1, 24, 32).astype(np.uint8)
    assert np.array_equal(found.masks(labels), found.targets(labels[:, 1::2, 1::2]))
    images = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    assert found.images(images).shape == (2, 12, 16, 3)
    whole = bound(image_size=(1024, 2048), classes=19, masks=Masks(ignored=IGNORED, names=[str(n) for n in range(19)]))
    cityscapes = protocol(task(protocol="authors", outputs=21, base_size=520).recipe, whole)
    assert (cityscapes.classes, cityscapes.height, cityscapes.width) == (21, 520, 1040)
    standard = protocol(task().recipe, bound())
    assert (standard.classes, standard.height, standard.width) == (3, *SIZE)
    assert standard.images(images) is images


def test_the_id_hangs_on_what_shapes_a_result() -> None:
    one = task()
    assert one.identity() == task().model_copy(update={"name": "x", "seeds": [3], "dataset": "y"}).identity()
    for changed in (task(power=0.8), task(scale=[0.5, 1.0]), task(protocol="authors"), task({"width": 8})):
        assert changed.identity() != one.identity()
    assert "deterministic" not in one.identity()["recipe"]
    assert task(deterministic=True).identity()["recipe"]["deterministic"] is True


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("method", ["batch_norm", "conv_norm"])
def test_two_processes_train_as_one(method: str, replicas: int) -> None:
    """Though their crops do not have equally many pixels that count."""
    one = task({"aux": True}, epochs=2, lr=0.01, replicas=replicas, batch_size=4)

    def trained() -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
        ready = prepared(one, method)
        for layer in ready.model.modules():
            if isinstance(layer, nn.Dropout) and replicas == 1:
                layer.p = 0.0  # the masks of two halves of a batch are not those of all of it
        outcome = trainer.fit(ready, one, 0, lambda *_: None)
        return outcome.history, {name: weight.detach() for name, weight in ready.model.named_parameters()}

    history, weights = trained()
    for found, others in each_of(2, trained):
        for epoch, same in zip(found, history, strict=True):
            assert epoch == pytest.approx(same, rel=1e-5)
        for name, weight in others.items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_deconvolved_network_has_the_logits_of_the_whole_batch_in_two_processes() -> None:
    """In float64: with 15 iterations on so few patches, its stem multiplies rounding by a thousand."""
    one = task(batch_size=6)
    ready = prepared(one, "network_deconvolution")
    pixels, _ = next(loop.Crops(ready.train, one.recipe, ready.protocol, 0).pixels(0))
    x, model = ready.train.normalized(pixels).double(), ready.model.double().train()
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    whole = copy.deepcopy(model)(x).detach()

    def half() -> torch.Tensor:
        first = 3 * ranks.rank()
        with joining(Joined(first, 3, 6, 2)), taking_part(model):
            return model(x[first : first + 3]).detach()

    torch.testing.assert_close(torch.cat(each_of(2, half)), whole, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("stride", "aux", "line"),
    [
        (1, False, ""),
        (1, True, ""),
        (
            2,
            False,
            "the network made a tensor of shape (4, 3, 8, 12) of images (4, 3, 16, 24); expected shape (4, 3, 16, 24)",
        ),
    ],
)
def test_a_network_of_somebodys_own_is_checked(stride: int, aux: bool, line: str) -> None:
    class Own(nn.Module):
        def __init__(self, method: Method, channels: int, classes: int):
            super().__init__()
            self.conv = method.conv(ConvSpec(channels, classes, 3, Role("stem"), stride=stride, padding=1))
            self.norm = method.norm(classes, role=Role("stem"))

        def forward(self, x: torch.Tensor) -> Any:
            found = self.norm(self.conv(x))
            return (found, found + 1) if aux and self.training else found

    def own(method: Method, channels: int, classes: int) -> nn.Module:
        return Own(method, channels, classes)

    def examined() -> list[str]:
        one = task(batch_size=2).model_copy(update={"model_options": {}})
        return subjects.check(one, Model("own", "segmenter", own), methods.build("batch_norm", {}), bound(), "mine")

    if not line:
        assert examined() == []
        return
    with pytest.raises(UserError) as error:
        examined()
    assert line in str(error.value)
