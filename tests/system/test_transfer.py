"""What is drawn on the CPU and used on the device: the same numbers everywhere, and on a GPU the host does not wait."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from normbench.data.augmentation import Augmentation
from normbench.data.batches import Images
from normbench.gan import loop
from normbench.gan.trainer import sample
from normbench.methods.batch_norm import BatchNorm
from normbench.models.build import build_gan
from normbench.system.transfer import to_device
from normbench.training.attacks import pgd
from normbench.training.keeper import Nobody
from tests.support.dispatch import Operations
from tests.support.fake_cuda import fake_cuda, obstacle
from tests.support.subjects import gan_recipe

REASON = obstacle()
FAKE = pytest.mark.skipif(REASON is not None, reason=str(REASON))
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor:UserWarning")


def images(device: str) -> Images:
    mean, std = (torch.full((1, 1, 1), 0.5, device=device) for _ in range(2))
    pixels = torch.zeros(32, 1, 8, 8, dtype=torch.uint8, device=device)
    return Images(pixels, torch.zeros(32, dtype=torch.long, device=device), mean, std)


Work = Callable[[], list[Tensor]]  # what must not wait, after what it needs is on the device


def noise() -> Work:
    source = loop.Noise(8, 0, "cuda")
    return lambda: [source.draw(4) for _ in range(3)]


def epoch() -> Work:
    batches = images("cuda").batches(8, False, 0, Augmentation(2, True))
    return lambda: [x for x, _ in batches.epoch(0)]


def attacked() -> Work:
    x, y, weight = (torch.zeros(4, *shape, device="cuda") for shape in ((1, 8, 8), (), (64,)))
    generator = torch.Generator().manual_seed(0)
    return lambda: [pgd(lambda values: values.flatten(1) @ weight.T, x, y.long(), 0.1, 0.05, 2, 2, generator)]


def gan() -> tuple[nn.Module, nn.Module]:
    generator, discriminator = build_gan("sngan", {"width": 2}, BatchNorm(), 1, 8, 8, 0)
    return generator.to("cuda"), discriminator.to("cuda")


def iteration() -> Work:
    generator, discriminator = gan()
    data, recipe = images("cuda"), gan_recipe(batch_size=8)
    setting = loop.Setting(BatchNorm(), recipe, 0)
    training = loop.Training(generator.train(), discriminator.train(), data, setting, lambda *_: None, Nobody())
    real = loop.real_batches(training.images, 8, 0)
    return lambda: [training.train_on(real, step) for step in range(5)]  # more steps than an epoch has


def samples() -> Work:
    generator, _ = gan()
    return lambda: [sample(generator.eval(), 8, 6, 0, "cuda")]


@FAKE
@pytest.mark.parametrize("prepared", [noise, epoch, attacked, iteration, samples])
def test_the_host_does_not_wait_for_a_gpu(prepared: Callable[[], Work]) -> None:
    with fake_cuda():
        work = prepared()
        with Operations() as counted:
            results = work()
        assert all(result.is_cuda for result in results)
    assert counted.waits == []


@FAKE
def test_an_ordinary_copy_would_be_seen() -> None:
    with fake_cuda(), Operations() as counted:
        torch.zeros(3).to("cuda")
    assert len(counted.waits) == 1


def test_on_a_cpu_nothing_is_copied() -> None:
    x = torch.randn(3)
    assert to_device(x, "cpu") is x
    assert to_device(x, torch.device("cpu")) is x


def test_noise_is_what_the_cpu_draws_call_by_call() -> None:
    """Also for a number of values that is no multiple of those that a CPU draws at a time."""
    source, generator = loop.Noise(7, 3, "cpu"), torch.Generator().manual_seed(3)
    for count in (5, 1, 64):
        assert torch.equal(source.draw(count), torch.randn(count, 7, generator=generator))


@FAKE
def test_the_moving_average_is_one_operation_on_a_gpu() -> None:
    with fake_cuda():
        (generator, _), (average, _) = gan(), gan()
        counts = sum(isinstance(layer, nn.BatchNorm2d) for layer in generator.modules())
        with Operations() as counted:
            loop.update(average, generator, 0.9, 1)  # the first update is a copy
    assert counted.seen["_foreach_lerp_"] == 1
    assert counted.launches == 1 + counts  # those that count the batches of a norm
