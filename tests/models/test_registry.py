"""The table of models: names and references, options, image sizes, and a model of one's own from file to network."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from normbench.evaluation.folding import fold
from normbench.evaluation.smoothness import features
from normbench.methods.base import ConvSpec, Method, Role
from normbench.methods.batch_norm import BatchNorm
from normbench.models import base, build, registry, trial
from normbench.models.build import build_classifier, build_gan
from normbench.runs.run import Kind
from normbench.suite import code, resolve
from normbench.system import blame
from normbench.system.errors import UserError
from normbench.system.fingerprint import Root, closure
from normbench.training.task import Task
from tests.models.networks import ALL, images, logits_of

ROOT = Path(__file__).resolve().parents[2]

PARAMS = """
suite:
  seed: 0
  seeds: [0]
  datasets: [digits]
  tasks: [{tasks}]
  variants: [batch_norm]
  baseline: batch_norm
  gan_tasks: []
  gan_variants: []
corruptions: {{names: all, severities: [1]}}
datasets:
  digits: {{source: digits, image_size: 32}}
tasks:
{lines}
gan_tasks: {{}}
variants:
  batch_norm: {{method: batch_norm}}
"""


def params(path: Path, tasks: dict[str, dict[str, Any]], model: str | None = None) -> Path:
    """A params.yaml with a task for each name; its model is that of the same name, or `model`."""
    lines = [
        f"  {name}: {{dataset: digits, model: {model or name}, model_options: {options}, recipe: {{epochs: 1}}}}"
        for name, options in tasks.items()
    ]
    path.write_text(PARAMS.format(tasks=", ".join(tasks), lines="\n".join(lines).replace("'", "")))
    return path


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_published_names_are_there() -> None:
    """Names that records and params.yaml of users have: no one may go."""
    assert set(registry.names("gan")) >= {"sngan"}
    assert set(registry.names("classifier")) >= {
        *("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet18", "resnet34"),
        *("vgg11", "vgg13", "vgg16", "vgg19", "preact_resnet18", "densenet100", "densenet121"),
        *("resnext29_2x64d", "resnext29_32x4d", "mobilenet_v2", "senet18"),
    }
    assert set(registry.names()) == {name for kind in base.TAKES for name in registry.names(kind)}


@pytest.mark.parametrize("name", registry.names())
def test_an_entry_says_what_its_function_does(name: str) -> None:
    model = registry.get(name)
    file, function = model.source
    assert file.parent == Path(registry.__file__).parent
    assert file == base.source_file(name)
    assert function == name == model.function.__name__
    assert re.search(rf"^def {name}\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert (model.function.__doc__ or "").strip(), "a model says what it is"
    for option, default in model.options().items():
        assert model.option_problem(option, default) is None
        assert f"{option}" in model.function.__doc__, f"the docstring does not explain {option}"


def test_unknown_models() -> None:
    for reference, kind, message in (
        ("senet81", "classifier", "unknown model; did you mean 'senet18'?"),
        ("resnet8", "gan", "unknown model; did you mean 'sngan_resnet'?"),
        ("registry", None, "unknown model"),
        ("", None, "unknown model"),
        ("normbench.models.senet:senet81", None, "registers no model senet81; did you mean 'senet18'?"),
        ("normbench.models.sngan:sngan", "classifier", "registered as a gan; what is needed here is a classifier"),
        ("no/such/file.py:net", None, "no such file"),
    ):
        with pytest.raises(UserError) as caught:
            registry.get(reference, kind)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


# --- options and image sizes -----------------------------------------------------------------------------------------


def fitting(
    method: Any,
    channels: int,
    classes: int,
    *,
    width: int = 4,
    rate: float = 0.5,
    deep: bool = True,
    to: str = "a",
    kind: Literal["relu", "tanh"] = "relu",
) -> Any:
    """A model of options of all types."""


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("width", 1, None),
        ("width", 0, "must be a positive int"),
        ("width", -3, "must be a positive int"),
        ("width", 2.0, "must be a positive int"),
        ("width", True, "must be a positive int"),
        ("width", "8", "must be a positive int"),
        ("rate", 0, None),
        ("rate", 0.0, None),
        ("rate", 3, None),
        ("rate", -0.1, "must be a number of at least 0"),
        ("rate", float("nan"), "must be a number of at least 0"),
        ("rate", float("inf"), "must be a number of at least 0"),
        ("rate", True, "must be a number of at least 0"),
        ("deep", False, None),
        ("deep", 1, "must be a bool"),
        ("to", "", None),
        ("to", 1, "must be a str"),
        ("kind", "tanh", None),
        ("kind", "thanh", "unknown; did you mean 'tanh'?"),
        ("kind", 1, "unknown; valid: relu, tanh"),
        ("widht", 8, "unknown option of fitting; did you mean 'width'?"),
    ],
)
def test_options(option: str, value: object, problem: str | None) -> None:
    model = base.Model("fitting", "classifier", fitting)
    assert model.options() == {"width": 4, "rate": 0.5, "deep": True, "to": "a", "kind": "relu"}
    assert model.option_problem(option, value) == problem


def test_an_annotation_that_means_nothing_lists_nothing() -> None:
    def own(method: Any, channels: int, classes: int, *, to: NotDefinedAnywhere = "a") -> Any:  # type: ignore[name-defined]  # noqa: F821  # as in code that nobody has checked
        """A model of one's own."""

    model = base.Model("own", "classifier", own)
    assert model.option_problem("to", "b") is None
    assert model.option_problem("to", 1) == "must be a str"


def test_image_sizes() -> None:
    model = base.Model("fitting", "classifier", fitting, least_size=8, divisor=4)
    assert [size for size in range(1, 20) if model.size_problem(size, size) is None] == [8, 12, 16]
    assert model.size_problem(10, 10) == (
        "does not fit images of 10 x 10; it needs at least 8 pixels a side, divisible by 4"
    )
    plain = base.Model("fitting", "classifier", fitting, least_size=32)
    assert plain.size_problem(16, 16) == "does not fit images of 16 x 16; it needs at least 32 pixels a side"
    assert base.Model("fitting", "classifier", fitting).size_problem(1, 1) is None
    assert [model.size_problem(*sides) is None for sides in ((8, 16), (16, 8), (8, 10), (4, 8))] == [1, 1, 0, 0]
    gan = base.Model("fitting", "gan", fitting, least_size=8)
    assert gan.size_problem(8, 8) is None
    assert gan.size_problem(8, 12) == (
        "does not fit images of 8 x 12; it needs square images, at least 8 pixels a side"
    )


def flattening(method: Method, channels: int, classes: int, *, width: int = 2) -> nn.Module:
    """A network for images of 8 x 8 pixels."""
    spec = ConvSpec(channels, width, 3, Role("stem"), padding=1)
    head = method.linear(width * 64, classes, role=Role("head"))
    return nn.Sequential(method.conv(spec), method.norm(width, role=spec.role), nn.Flatten(), head)


def test_a_network_that_flattens_its_features_does_not_fit_images_that_are_not_square() -> None:
    """It is tried, and nothing is drawn from the global generator."""
    state = torch.get_rng_state()
    model = base.Model("flattening", "classifier", flattening)
    assert trial.size_problem(model, {}, 8, 8) is None
    assert trial.size_problem(model, {}, 4, 16) is None  # as many pixels
    problem = trial.size_problem(model, {"width": 3}, 8, 12)
    assert problem is not None
    assert problem.startswith("does not fit images of 8 x 12, which are not square: ")
    assert problem.endswith("mat1 and mat2 shapes cannot be multiplied (2x288 and 192x2)")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_mistake_in_a_model_that_is_tried_is_one_line() -> None:
    def broken(method: Method, channels: int, classes: int) -> nn.Module:
        raise IndexError("no\nstage 4")

    def too_large(method: Method, channels: int, classes: int) -> nn.Module:
        return nn.Linear(1 << 30, 1 << 24)

    def unhelpful(method: Method, channels: int, classes: int) -> nn.Module:
        network = nn.Flatten()
        network.register_forward_pre_hook(lambda module, given: given[7])
        return network

    def problem(function: Any) -> str | None:
        return trial.size_problem(base.Model("own", "classifier", function), {}, 8, 12)

    line = inspect.getsourcelines(broken)[1] + 1
    assert problem(broken) == f"{blame.shown(__file__, line)}: IndexError: no stage 4"
    said = problem(too_large)
    assert said is not None
    assert said.endswith("not enough memory: 72,057,594.0 GB were asked for at once")
    assert problem(unhelpful) == (
        "does not fit images of 8 x 12, which are not square: IndexError: tuple index out of range"
    )


# Registering refuses the signatures of these three, so that none of them is ever called.
def without_default(method: Any, channels: int, classes: int, *, width: int) -> Any:
    raise NotImplementedError


def positional_option(method: Any, channels: int, classes: int, width: int) -> Any:
    raise NotImplementedError


def list_option(method: Any, channels: int, classes: int, *, widths: tuple[int, ...] = (1, 2)) -> Any:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("register", "function", "message"),
    [
        (base.register_classifier, without_default, "option width of without_default needs a default"),
        (base.register_classifier, list_option, "option widths of list_option needs a default"),
        (base.register_classifier, positional_option, r"a classifier takes \(method, channels, classes, \*, opt"),
        (base.register_gan, fitting, r"a gan takes \(method, channels, size, latent, \*, options\)"),
    ],
)
def test_functions_that_are_no_models(register: Any, function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register()(function)


# --- in params.yaml --------------------------------------------------------------------------------------------------


def test_params_yaml_names_models_and_their_options(tmp_path: Path) -> None:
    tasks = resolve.resolve(params(tmp_path / "params.yaml", ALL)).tasks[Kind.CLASSIFICATION]
    codes = {}
    for name, options in ALL.items():
        task = tasks[name]
        assert task.model == name
        assert task.model_options == registry.get(name).options() | options
        codes[base.source_file(name).stem] = task.model_code
    assert len(set(codes.values())) == len(codes)
    with pytest.raises(UserError, match=r"unknown option of densenet121; .*'growth'"):
        resolve.resolve(params(tmp_path / "params.yaml", {"densenet121": {"groth": 2}}))
    with pytest.raises(UserError, match=r"model_options\.growth = 0: must be a positive int"):
        resolve.resolve(params(tmp_path / "params.yaml", {"densenet121": {"growth": 0}}))
    with pytest.raises(UserError, match="unknown model; did you mean 'senet18'"):
        resolve.resolve(params(tmp_path / "params.yaml", {"senet81": {}}))


@pytest.mark.parametrize("name", [*registry.names("classifier"), *registry.names("gan")])
def test_model_and_builder_are_in_the_code_of_every_run(name: str) -> None:
    """The function is behind `model_code`, and what builds and initialises it is in the training of its kind."""
    model = registry.get(name)
    file, function = model.source
    assert (file, function) in closure([Root(file, function)]).definitions
    kind, builder = {
        "classifier": (Kind.CLASSIFICATION, "new_classifier"),
        "gan": (Kind.GAN, "new_gan"),
    }[model.kind]
    training = closure([Root(code.PACKAGE / place, root) for place, root in code.TRAINING[kind]])
    assert (Path(build.__file__), builder) in training.definitions


# --- a model of one's own --------------------------------------------------------------------------------------------


def example() -> str:
    """The file that docs/extending.md shows."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"^## A model\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user's, with the file of the example, in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "my_models").mkdir()
    (tmp_path / "my_models/plain.py").write_text(example(), encoding="utf-8")
    return tmp_path


OWN = "my_models/plain.py:plain"


def test_a_model_of_ones_own(folder: Path) -> None:
    def resolved(options: dict[str, Any]) -> Task:
        return resolve.resolve(params(folder / "params.yaml", {"own": options}, OWN)).tasks[Kind.CLASSIFICATION]["own"]

    task = resolved({"width": 4})
    assert (task.model, task.model_options) == (OWN, {"width": 4})
    assert registry.get(OWN).source == (folder / "my_models/plain.py", "plain")
    assert "plain" not in registry.names()
    network = build_classifier(task.model, task.model_options, BatchNorm(), 1, 10, seed=0)
    assert logits_of(network, images(0, 2, channels=1, size=8)).shape == (2, 10)
    assert [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)] == [4, 4, 8, 8, 16, 16]
    (folder / "my_models/plain.py").write_text(example() + "\n# another comment\n", encoding="utf-8")
    assert resolved({"width": 4}).model_code == task.model_code
    (folder / "my_models/plain.py").write_text(example().replace(".mean((2, 3))", ".amax((2, 3))"), encoding="utf-8")
    changed = resolved({})
    assert changed.model_code != task.model_code
    assert changed.model_options == {"width": 16}


def test_a_model_of_ones_own_is_folded_and_measured_by_its_blocks(folder: Path) -> None:
    network = build_classifier(OWN, {"width": 4}, BatchNorm(), 3, 5, seed=0).eval()
    x = images(0, 2)
    folded = fold(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.allclose(logits_of(folded, x), logits_of(network, x), atol=1e-5)
    assert len(features(network, x)) == 3


def test_mistakes_about_a_model_of_ones_own(folder: Path) -> None:
    def refusal(model: str, options: dict[str, Any]) -> str:
        with pytest.raises(UserError) as caught:
            resolve.resolve(params(folder / "params.yaml", {"own": options}, model))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "unknown option of plain; did you mean 'width'?" in refusal(OWN, {"widht": 4})
    assert "registers no model pain; did you mean 'plain'?" in refusal("my_models/plain.py:pain", {})
    assert "no such file my_models/plane.py; did you mean 'my_models/plain.py'?" in refusal(
        "my_models/plane.py:plain", {}
    )
    wrong = example().replace("channels: int, classes: int, *, width: int = 16", "channels: int, *, width: int = 16")
    (folder / "my_models/wrong.py").write_text(wrong, encoding="utf-8")
    message = refusal("my_models/wrong.py:plain", {})
    said = "cannot be imported: TypeError: plain takes (method, channels); a classifier takes"
    assert re.search(rf"my_models/wrong\.py:\d+ {re.escape(said)}", message)
    small = example().replace("least_size=4", "least_size=64")
    (folder / "my_models/large.py").write_text(small, encoding="utf-8")
    assert "does not fit images of 32 x 32" in refusal("my_models/large.py:plain", {})


def test_files_of_one_name_in_two_folders(folder: Path) -> None:
    """Such as my_models/plain.py and my_methods/plain.py: each stays what it is when the other is read."""
    (folder / "other").mkdir()
    (folder / "other/plain.py").write_text(example().replace("width: int = 16", "width: int = 2"), encoding="utf-8")
    first = registry.get(OWN)
    assert registry.get("other/plain.py:plain").options() == {"width": 2}
    assert registry.get(OWN) is first


OWN_GAN = """
from torch import nn
from normbench.models.base import register_gan

@register_gan(least_size=4)
def small_gan(method, channels, size, latent, *, width: int = 4):
    generator = nn.Sequential(nn.Linear(latent, channels * size**2), nn.Unflatten(1, (channels, size, size)), nn.Tanh())
    return generator, nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 1), nn.Flatten(0))
"""


def test_a_gan_of_ones_own(folder: Path) -> None:
    (folder / "my_models/gan.py").write_text(OWN_GAN, encoding="utf-8")
    generator, discriminator = build_gan("my_models/gan.py:small_gan", {}, BatchNorm(), 3, 4, 5, seed=0)
    found = generator(torch.randn(2, 5))
    assert found.shape == (2, 3, 4, 4)
    assert discriminator(found).shape == (2,)
    with pytest.raises(UserError, match="small_gan is registered as a gan; what is needed here is a classifier"):
        build_classifier("my_models/gan.py:small_gan", {}, BatchNorm(), 3, 4)
