"""What every method must do, whatever it is: run over all files of normbench/methods, those of the future included."""

from __future__ import annotations

import ast
import copy
import dataclasses
import functools
import io
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from normbench.checks import subjects
from normbench.checks.method import problems
from normbench.methods import registry
from normbench.methods.base import Method, Role
from normbench.models import registry as models
from normbench.system.errors import UserError
from tests.checks.made import BOUND, task

CLASSES = 7
# name -> model options, input channels, image size, another size
MODELS = {"resnet8": ({}, 1, 16, 24), "vgg11": ({"width": 8}, 3, 32, 48)}
ON_EACH_MODEL = pytest.mark.parametrize("model_name", MODELS)
ON_EACH_METHOD = pytest.mark.parametrize("name", registry.names())


def images(model_name: str, seed: int, count: int = 8, larger: bool = False) -> Tensor:
    _, channels, size, other = MODELS[model_name]
    size = other if larger else size
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def labels(count: int = 8) -> Tensor:
    return torch.arange(count) % CLASSES


def built(name: str, model_name: str, seed: int = 0) -> tuple[Method, nn.Module]:
    torch.manual_seed(seed)
    method = registry.build(name, {})
    options, channels, _, _ = MODELS[model_name]
    return method, models.classifier(model_name, options, method, channels, CLASSES)


def step(method: Method, model: nn.Module, x: Tensor, autocast: bool = False) -> Tensor:
    """One training step of plain gradient descent, as the training loop does it; returns the loss."""
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(x)
    loss = nn.functional.cross_entropy(logits.float(), labels(len(x)))
    penalty = method.penalty(model)
    loss = loss if penalty is None else loss + penalty
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.01)
    return loss.detach()


@functools.cache
def trained(name: str, model_name: str) -> tuple[Method, nn.Module]:
    """A network after two training steps; shared by the tests, which leave it as it is."""
    method, model = built(name, model_name)
    for seed in range(2):
        step(method, model, images(model_name, seed))
    model.zero_grad()
    return method, model


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model(x)


def floating_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.is_floating_point():
            yield name, value


# --- in a network ----------------------------------------------------------------------------------------------------


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_training_step_is_finite_and_reaches_every_parameter(name: str, model_name: str) -> None:
    method, model = built(name, model_name)
    x = images(model_name, 0)
    before = logits_of(model, x)
    loss = step(method, model, x)
    assert before.shape == (8, CLASSES)
    assert loss.shape == ()
    assert loss.isfinite()
    for key, parameter in model.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None, f"{key} has no gradient"
        assert parameter.grad.isfinite().all(), key
    for key, value in floating_state(model):
        assert value.isfinite().all(), key
    after = logits_of(model, x)
    assert after.isfinite().all()
    assert not torch.equal(before, after)


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_passes_what_is_asked_of_everybodys_own_methods(name: str, model_name: str) -> None:
    """Without a note: shapes, gradients, groups, stored state, and an evaluation that takes each image on its own."""
    options, channels, size, _ = MODELS[model_name]
    bound = BOUND.model_copy(
        update={"channels": channels, "image_size": size, "mean": [0.5] * channels, "std": [0.3] * channels}
    )
    what = task(model_name, {"width": 8} | options)
    assert problems(registry.method_class(name)) == []
    assert subjects.check(what, models.get(model_name), registry.build(name, {}), bound, name) == []


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_state_dict_round_trip(name: str, model_name: str) -> None:
    """Into a network that was drawn from another seed and never trained, by hand and through a file."""
    _, model = trained(name, model_name)
    x = images(model_name, 5)
    expected = logits_of(model, x)
    _, fresh = built(name, model_name, seed=1)
    assert not torch.equal(logits_of(fresh, x), expected)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(fresh, x), expected)

    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    _, fresh = built(name, model_name, seed=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(logits_of(fresh, x), expected)


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_training_resumes_bit_for_bit(name: str, model_name: str) -> None:
    """All that a method keeps between steps is in the state dict, and nothing of it is left out of a copy."""
    method, model = trained(name, model_name)
    continued, (_, resumed) = copy.deepcopy(model), built(name, model_name, seed=1)
    resumed.load_state_dict(model.state_dict())
    x = images(model_name, 6)
    expected = step(method, continued, x)
    assert torch.equal(step(method, resumed, x), expected)
    for (key, value), (_, other) in zip(floating_state(continued), floating_state(resumed), strict=True):
        assert torch.equal(value, other), key


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_deepcopy_is_equal_and_independent(name: str, model_name: str) -> None:
    method, model = trained(name, model_name)
    x = images(model_name, 5)
    expected = logits_of(model, x)
    copied = copy.deepcopy(model)
    assert torch.equal(logits_of(copied, x), expected)
    step(method, copied, x)
    assert not torch.equal(logits_of(copied, x), expected)
    assert torch.equal(logits_of(model, x), expected)


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_evaluation_at_another_image_size(name: str, model_name: str) -> None:
    """It works, or it is refused by a ValueError that says so; a wrong answer or a crash is neither."""
    _, model = trained(name, model_name)
    try:
        found = logits_of(model, images(model_name, 5, count=3, larger=True))
    except ValueError as error:
        assert len(str(error)) > 20  # noqa: PT017  # to be refused is allowed here, not required
        return
    assert found.shape == (3, CLASSES)
    assert found.isfinite().all()


@ON_EACH_MODEL
@ON_EACH_METHOD
def test_bfloat16_autocast(name: str, model_name: str) -> None:
    """Finite, near the float32 result, and no parameter or statistic leaves float32."""
    method, model = built(name, model_name)
    plain = copy.deepcopy(model)
    x = images(model_name, 0)
    loss, expected = step(method, model, x, autocast=True), step(method, plain, x)
    assert loss.isfinite()
    assert abs(loss - expected) <= 0.05 * expected.abs() + 0.05
    for key, value in floating_state(model):
        assert value.dtype == torch.float32, key
        assert value.isfinite().all(), key
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()


# --- options and source ----------------------------------------------------------------------------------------------


@ON_EACH_METHOD
def test_options_are_typed_and_frozen(name: str) -> None:
    cls = registry.method_class(name)
    assert dataclasses.is_dataclass(cls)
    assert "__init__" in vars(cls), "not decorated as a dataclass of its own"
    method = registry.build(name, {})
    assert method == cls()
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        assert field.default is not dataclasses.MISSING, f"{field.name} has no default"
        hint = hints[field.name]
        if typing.get_origin(hint) is typing.Literal:
            assert field.default in typing.get_args(hint), field.name
        else:
            allowed = typing.get_args(hint) or (hint,)
            assert set(allowed) <= {bool, int, float, str, type(None)}, field.name
            assert type(field.default) in allowed, field.name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(method, field.name, field.default)
    with pytest.raises(TypeError):
        registry.build(name, {"no_such_option": 1})


@ON_EACH_METHOD
def test_class_has_a_docstring_of_its_own(name: str) -> None:
    cls = registry.method_class(name)
    assert cls.__doc__
    assert not cls.__doc__.startswith(f"{cls.__name__}("), "only the one that dataclass makes"


@ON_EACH_METHOD
def test_source_opens_with_the_paper(name: str) -> None:
    text = registry.source_file(name).read_text()
    opening = ast.get_docstring(ast.parse(text)) or ""
    assert text.startswith('"""')
    assert re.search(r"arXiv \d{4}\.\d{4,5}", opening), "the docstring at the top names no arXiv id"


def test_a_name_is_found_by_its_file() -> None:
    assert {"batch_norm", "network_deconvolution", "conv_norm", "spectral_batch_norm", "fantastic_four"} <= set(
        registry.names()
    )
    for name in registry.names():
        assert registry.method_class(name).__module__ == f"normbench.methods.{name}"
        assert registry.source_file(name).name == f"{name}.py"


# --- a method outside the package ------------------------------------------------------------------------------------

OWN_NORM = '''"""Divides by the root mean square of each image."""

from dataclasses import dataclass

import torch
from torch import nn

from normbench.methods.base import Method


class RootMeanSquare(nn.Module):
    def __init__(self, channels, eps):
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(channels, 1, 1)), eps

    def forward(self, x):
        return self.gain * x / (x.square().mean((1, 2, 3), keepdim=True) + self.eps).sqrt()


@dataclass(frozen=True)
class Own(Method):
    eps: float = 1e-5

    def norm(self, channels, *, role):
        return RootMeanSquare(channels, self.eps)


class Other:
    pass
'''


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def refusal(reference: str) -> str:
    """The message of the UserError, which is one line."""
    with pytest.raises(UserError) as caught:
        registry.method_class(reference)
    message = str(caught.value)
    assert message.strip()
    assert "\n" not in message
    return message


def test_a_file_outside_the_package(tmp_path: Path) -> None:
    path = write(tmp_path / "own_norm.py", OWN_NORM)
    reference = f"{path}:Own"
    assert registry.source_file(reference) == path
    method = registry.build(reference, {"eps": 0.5})
    assert isinstance(method, Method)
    assert method.eps == 0.5
    model = models.classifier("resnet8", {"width": 4}, method, 1, CLASSES)
    assert sum(type(module).__name__ == "RootMeanSquare" for module in model.modules()) == 9
    assert step(method, model, images("resnet8", 0)).isfinite()
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = x / (x.square().mean((1, 2, 3), keepdim=True) + 0.5).sqrt()
    assert torch.allclose(method.norm(4, role=Role("body"))(x), expected)


def test_a_relative_path_and_a_helper_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    write(tmp_path / "contract_helper.py", "EPS = 0.25\n")
    text = OWN_NORM.replace("import torch\n", "import torch\nfrom contract_helper import EPS\n").replace("1e-5", "EPS")
    write(tmp_path / "relative_norm.py", text)
    assert registry.build("relative_norm.py:Own", {}).eps == 0.25


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    found = []
    for folder, eps in (("a", "0.1"), ("b", "0.2")):
        (tmp_path / folder).mkdir()
        path = write(tmp_path / folder / "norm.py", OWN_NORM.replace("1e-5", eps))
        found.append(registry.build(f"{path}:Own", {}).eps)
    assert found == [0.1, 0.2]


def test_a_module_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "contract_package"
    package.mkdir()
    write(package / "__init__.py", "")
    write(package / "layers.py", OWN_NORM)
    assert registry.build("contract_package.layers:Own", {}).eps == 1e-5
    assert registry.source_file("contract_package.layers:Own") == package / "layers.py"
    assert "layerz" in refusal("contract_package.layerz:Own")
    write(package / "broken.py", "def f(:\n")
    assert "SyntaxError" in refusal("contract_package.broken:Own")


def test_a_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking for a module imports the package that it is in, which is the user's code too."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "contract_broken_package"
    package.mkdir()
    write(package / "__init__.py", "raise RuntimeError('not today')\n")
    write(package / "layers.py", OWN_NORM)
    assert "not today" in refusal("contract_broken_package.layers:Own")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    assert "did you mean 'batch_norm'?" in refusal("batchnorm")
    assert "conv_norm" in refusal("zzzz")
    refusal("")
    refusal("base")
    refusal("registry")
    refusal(":Own")
    refusal("no_such_package.module:Own")
    refusal("..relative:Own")


def test_errors_of_a_file_outside_the_package(tmp_path: Path) -> None:
    path = write(tmp_path / "contract_norm.py", OWN_NORM)
    missing = refusal(f"{tmp_path}/contract_nrom.py:Own")
    assert "contract_nrom.py" in missing
    assert "contract_norm.py" in missing  # the file that was meant
    assert "no such file" in refusal(f"{tmp_path}/no/such/folder/norm.py:Own")
    message = refusal(f"{path}:Onw")
    assert "Onw" in message
    assert "'Own'" in message
    assert "Other" in refusal(f"{path}:Other")
    assert "Method" in refusal(f"{path}:Other")
    assert str(path) in refusal(f"{path}:")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "no_such_module_at_all"),
        ("raise ValueError('too early')\n", "too early"),
        ("raise ValueError('in two\\nlines')\n", "in two"),
        ("raise SystemExit('over')\n", "over"),
    ],
    ids=["syntax", "import", "error", "error of two lines", "exit"],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "contract_broken.py", text)
    message = refusal(f"{path}:Own")
    assert said in message
    assert "contract_broken.py" in message
    write(path, OWN_NORM)  # put right, it is read again
    assert registry.method_class(f"{path}:Own").__name__ == "Own"
