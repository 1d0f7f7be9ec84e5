"""Models of one's own without a decorator: a class or a function of (method, channels, classes)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from normbench.checks import subjects
from normbench.methods import registry as methods
from normbench.models import registry
from normbench.runs import code
from normbench.suite.names import names
from normbench.system.errors import UserError
from tests.checks.made import BOUND, NAME, task

TEXT = """
import torch
from torch import nn
from normbench.methods.base import ConvSpec, Role


class MyNet(nn.Module):
    def __init__(self, method, channels, classes, width=4, *, pooled: bool = True):
        super().__init__()
        role = Role("stem", activation="relu")
        self.conv = method.conv(ConvSpec(channels, width, 3, padding=1, role=role))
        self.norm, self.activation = method.norm(width, role=role), method.activation(width, role=role)
        self.head, self.pooled = method.linear(width, classes, role=Role("head")), pooled

    def forward(self, x):
        y = self.activation(self.norm(self.conv(x)))
        return self.head(y.mean((2, 3)) if self.pooled else y.amax((2, 3)))


def my_net(method, channels, classes, *, width: int = 3):
    return MyNet(method, channels, classes, width)


def my_gan(method, channels, size, latent):
    return nn.Identity(), nn.Identity()


def no_network(classes, channels):
    return None
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_models").mkdir()
    (tmp_path / "my_models/nets.py").write_text(TEXT)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "options"), [("MyNet", {"width": 4, "pooled": True}), ("my_net", {"width": 3})], ids=["class", "function"]
)
def test_it_does_what_models_must_do(name: str, options: dict[str, object]) -> None:
    """The same checks as of a model with a decorator: layers, gradients, state, evaluation."""
    model = registry.get(f"my_models/nets.py:{name}", "classifier")
    assert (model.name, model.kind, model.options()) == (name, "classifier", options)
    assert model.source == (Path("my_models/nets.py").resolve(), name)
    network = model.function(methods.build("batch_norm", {}), 3, 7)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    what = task(f"my_models/nets.py:{name}", {})
    assert subjects.check(what, model, methods.build("batch_norm", {}), BOUND, NAME) == []


def test_options_are_checked() -> None:
    model = registry.get("my_models/nets.py:MyNet")
    assert model.option_problem("widht", 3) == "unknown option of MyNet; did you mean 'width'?"
    assert model.option_problem("width", 0.5) == "must be a positive int"
    assert model.option_problem("pooled", False) is None


def test_what_is_no_model() -> None:
    with pytest.raises(UserError) as caught:
        registry.get("my_models/nets.py:no_network")
    expected = "no_network takes (classes, channels); a classifier takes (method, channels, classes, *, options)"
    assert (
        str(caught.value) == f"my_models/nets.py:{TEXT[: TEXT.index('def no_network')].count(chr(10)) + 1}: {expected}"
    )
    with pytest.raises(UserError, match="registers no model MyNt"):
        registry.get("my_models/nets.py:MyNt")
    with pytest.raises(UserError, match="my_gan is registered as a gan; what is needed here is a classifier"):
        registry.get("my_models/nets.py:my_gan", "classifier")


def test_the_digest_is_that_of_its_code(folder: Path) -> None:
    before = code.model("my_models/nets.py:my_net")
    (folder / "my_models/nets.py").write_text(TEXT.replace("y.amax((2, 3))", "y.amin((2, 3))"))
    assert code.model("my_models/nets.py:my_net") != before


def test_the_list_has_models_and_methods_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "my_methods").mkdir()
    (folder / "my_methods/norm.py").write_text(
        "from torch import nn\nclass Norm(nn.Module):\n    def __init__(self, num_features, gain: float): ...\n"
    )
    (folder / "my_methods/wrong.py").write_text("import nothing_of_this_name\n")
    found = names()
    assert found["methods"]["my_methods/norm.py:Norm"] == {"gain": "(required)"}
    assert found["models"]["my_models/nets.py:MyNet"] == {"width": 4, "pooled": True}
    assert found["models"]["my_models/nets.py:my_net"] == {"width": 3}
    assert "my_models/nets.py:my_gan" in found["GAN models"]
    assert not any("no_network" in name for section in found.values() for name in section)
    assert "my_methods/wrong.py:1 cannot be imported" in capsys.readouterr().err
