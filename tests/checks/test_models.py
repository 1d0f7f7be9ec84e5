"""Every kind of mistake in a model of one's own gets one line with its file and line; what is right gets none."""

from __future__ import annotations

from pathlib import Path

import pytest

from normbench.checks import subjects
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system.errors import UserError
from tests.checks.made import BOUND, HERE, NAME, gan_task, task, write

STEM = 'method.conv(ConvSpec(channels, width, 3, padding=1, role=Role("stem", architecture="mine")))'
NORM = 'method.norm(width, role=Role("stem", architecture="mine"))'
NET = f"""
class Net(nn.Module):
    def __init__(self, method, channels, classes, width):
        super().__init__()
        self.conv = {STEM}
        self.norm = {NORM}
        self.head = method.linear(width, classes, role=Role("head", architecture="mine"))

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(y.mean((2, 3)))

@register_classifier()
def mine(method: Method, channels: int, classes: int, *, width: int = 4):
    return Net(method, channels, classes, width)
"""
GAN = """
class Generator(nn.Module):
    def __init__(self, latent, channels, size):
        super().__init__()
        self.dense = nn.Linear(latent, channels * size * size)
        self.shape = (channels, size, size)
    def forward(self, z):
        return torch.tanh(self.dense(z)).view(len(z), *self.shape)

class Discriminator(nn.Module):
    def __init__(self, method, channels):
        super().__init__()
        self.conv = method.conv(ConvSpec(channels, 4, 3, padding=1, role=Role("stem")))
        self.norm = method.norm(4, role=Role("stem"))
        self.head = method.linear(4, 1, role=Role("head"))
    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))[:, 0]

@register_gan()
def mine(method: Method, channels: int, size: int, latent: int, *, width: int = 4):
    return Generator(latent, channels, size), Discriminator(method, channels)
"""


def edited(*changes: tuple[str, str], of: str = NET) -> str:
    for old, new in changes:
        assert old in of
        of = of.replace(old, new)
    return of


def at_function(*changes: tuple[str, str], of: str = NET) -> str:
    """With the mark at the model's function."""
    return edited(*changes, ("def mine(", f"def mine(  {HERE}\n"), of=of)


CALL = "        y = torch.relu(self.norm(self.conv(x)))"
MISTAKES = {
    "shape": (at_function(("return self.head(y.mean((2, 3)))", "return y.mean((2, 3))[:, :3]")), "the network made a tensor of shape (4, 3) of images (4, 3, 8, 8); expected shape (4, 5)"),
    "None in forward": (at_function(("return self.head", "self.head")), "the network made None of images"),
    "no hooks": (at_function((STEM, "nn.Conv2d(channels, width, 3, padding=1)"), (NORM, "nn.BatchNorm2d(width)"), ('method.linear(width, classes, role=Role("head", architecture="mine"))', "nn.Linear(width, classes)")), "the model asks its method for no layer, so that all methods would give the same network"),
    "no role": (edited((NORM, f"method.norm(width)  {HERE}")), "TypeError: norm() missing 1 required keyword-only argument: 'role'"),
    "a role that is a text": (edited((NORM, f"method.norm(width, role='stem')  {HERE}")), "role is 'stem'; expected a Role"),
    "an unknown place": (edited((NORM, f"method.norm(width, role=Role('steem'))  {HERE}")), "Role.place is 'steem'; did you mean 'stem'?"),
    "no ConvSpec": (edited((STEM, f"method.conv((channels, width, 3))  {HERE}")), "conv was given a tuple; expected a ConvSpec"),
    "a convolution as in torch": (edited((STEM, f"method.conv(channels, width, 3)  {HERE}")), "TypeError: conv() takes 2 positional arguments but 4 were given"),
    "None": (at_function(("    return Net(", "    Net(")), "mine returned None; expected a torch.nn.Module"),
    "a class": (at_function(("return Net(method, channels, classes, width)", "return Net")), "mine returned the class Net; expected a torch.nn.Module"),
    "two networks": (at_function(("return Net(method, channels, classes, width)", "net = Net(method, channels, classes, width)\n    return net, net")), "mine returned a tuple"),
    "an error": (edited(("return Net(method, channels, classes, width)", f"return Nett(method)  {HERE}")), "NameError: name 'Nett' is not defined"),
    "a list of layers": (edited((f"self.norm = {NORM}", f"self.norms = [{NORM}]  {HERE}"), ("self.norm(", "self.norms[0](")), "Net.norms holds layers that torch does not see"),
    "a lost layer": (at_function((f"self.norm = {NORM}", f"{NORM}\n        self.norm = nn.Identity()")), "the norm of 4 channels is no part of the network that the model returned"),
    "a tensor": (edited((f"self.norm = {NORM}", f"self.norm = {NORM}\n        self.scale = torch.ones(1)  {HERE}")), "Net.scale is a tensor that is neither parameter nor buffer"),
    "a lazy layer": (at_function((f"self.norm = {NORM}", "self.norm = nn.LazyBatchNorm2d()")), "has no shape before the first batch (a lazy module)"),
    "other channels": (edited(("ConvSpec(channels,", "ConvSpec(1,"), (CALL, f"{CALL}  {HERE}")), "expected input[4, 3, 8, 8] to have 1 channels"),
    "other channels of a norm": (edited(("method.norm(width,", "method.norm(2 * width,"), (CALL, f"{CALL}  {HERE}")), "running_mean should contain 4 elements not 8"),
    "a size that does not fit": (edited(("return self.head(y.mean((2, 3)))", f"return self.head(y.flatten(1))  {HERE}")), "mat1 and mat2 shapes cannot be multiplied"),
    "a mean over the batch": (edited(("return self.head(y.mean((2, 3)))", f"return self.head(y.mean((0, 2, 3)))  {HERE}")), "expected (4,)"),
}  # fmt: skip
NOTES = {
    "another layer": (at_function((f"self.norm = {NORM}", f"self.norm = nn.Sequential({NORM}, nn.Conv2d(width, width, 1))")), "no method changes these layers, as no hook made them: norm.1 (Conv2d)"),
    "an unused layer": (edited((f"self.norm = {NORM}", f"self.norm = {NORM}\n        self.extra = {NORM}"), ("class Net(nn.Module):", f"class Net(nn.Module):  {HERE}")), "no gradient reaches extra.weight, extra.bias: is it used?"),
}  # fmt: skip
GAN_MISTAKES = {
    "discriminator": (at_function(("(2, 3)))[:, 0]", "(2, 3)))"), of=GAN), "the network made a tensor of shape (4, 1) of images (4, 3, 8, 8); expected shape (4,)"),
    "generator": (at_function(("self.shape = (channels, size, size)", "self.shape = (size, channels, size)"), of=GAN), "the generator made a tensor of shape (4, 8, 3, 8); expected shape (4, 3, 8, 8)"),
    "range": (at_function(("torch.tanh(self.dense(z))", "3 * torch.tanh(self.dense(z))"), of=GAN), "the generator made values outside of -1..1; end it with a tanh"),
    "one network": (at_function(("return Generator(latent, channels, size), D", "return D"), of=GAN), "mine returned a Discriminator; expected a generator and a discriminator, two torch.nn.Modules"),
    "an error": (edited(("torch.tanh(self.dense(z))", f"torch.tanh(self.dens(z))  {HERE}\n        return 0"), of=GAN).replace(f"  {HERE}\n        return 0.view(len(z), *self.shape)", f"  {HERE}"), "AttributeError: 'Generator' object has no attribute 'dens'"),
}  # fmt: skip
GAN_NOTES = {
    "no gradient": (at_function(("torch.tanh(self.dense(z))", "torch.tanh(self.dense(z)).detach()"), of=GAN), "no gradient reaches dense.weight, dense.bias of the generator"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def checked(gan: bool = False) -> list[str]:
    what = gan_task("mine.py:mine", {}) if gan else task("mine.py:mine", {})
    return subjects.check(what, models.get(what.model), methods.build("batch_norm", {}), BOUND, NAME)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, folder: Path) -> None:
    text, said = MISTAKES[name]
    _, line = write(folder, text)
    with pytest.raises(UserError) as caught:
        checked()
    message = str(caught.value)
    assert message.startswith(f"mine.py:{line}: ")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("name", GAN_MISTAKES)
def test_a_mistake_in_a_gan_is_one_line(name: str, folder: Path) -> None:
    text, said = GAN_MISTAKES[name]
    _, line = write(folder, text)
    with pytest.raises(UserError) as caught:
        checked(gan=True)
    message = str(caught.value)
    assert message.startswith(f"mine.py:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "said", "gan"), [*((*note, False) for note in NOTES.values()), *((*note, True) for note in GAN_NOTES.values())]
)  # fmt: skip
def test_what_is_doubtful_is_a_note(text: str, said: str, gan: bool, folder: Path) -> None:
    _, line = write(folder, text)
    (message,) = checked(gan)
    assert message.startswith(f"mine.py:{line}: ")
    assert said in message


def test_what_is_right_passes_without_a_note(folder: Path) -> None:
    write(folder, NET)
    assert checked() == []
    write(folder, GAN, "gan.py")
    what = gan_task("gan.py:mine", {})
    assert subjects.check(what, models.get(what.model), methods.build("batch_norm", {}), BOUND, NAME) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg11", {"width": 4}),
        ("preact_resnet18", {"width": 8}),
        ("densenet121", {"growth": 2}),
        ("resnext29_2x64d", {"width": 8}),
        ("mobilenet_v2", {"width": 8}),
        ("senet18", {"width": 32}),
    ],
)
def test_a_model_of_each_family_of_the_package_passes_without_notes(name: str, options: dict[str, int]) -> None:
    bound = BOUND.model_copy(update={"image_size": 32})
    method = methods.build("batch_norm", {})
    assert subjects.check(task(name, options), models.get(name), method, bound, NAME) == []
