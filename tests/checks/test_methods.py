"""Every kind of mistake in a method of one's own gets one line with its file and line; what is right gets none."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from normbench.checks import subjects
from normbench.checks.method import problems
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.system import plugins
from normbench.system.errors import UserError
from tests.checks.made import BOUND, HERE, NAME, checked, gan_task, task, write

FROZEN = "@dataclass(frozen=True)\n"
NORM = "    def norm(self, channels, *, role):\n        return nn.BatchNorm2d(channels)\n"


def layer(forward: str, init: str = "", before: str = "") -> str:
    """A method with a norm of its own. forward, init: lines of its methods. before: what stands above its class."""
    lines = textwrap.indent(forward, " " * 8)
    head = "" if lines.lstrip().startswith("def ") else "    def forward(self, x):\n"
    return (
        f"{before}class Layer(nn.Module):\n    def __init__(self, channels):\n        super().__init__()\n"
        f"        self.gain = nn.Parameter(torch.ones(channels, 1, 1))\n{textwrap.indent(init, ' ' * 8)}\n"
        f"{head}{lines}\n\n{FROZEN}class Mine(Method):\n"
        "    def norm(self, channels, *, role):\n        return Layer(channels)\n"
    )


def forward(text: str, init: str = "", before: str = "") -> str:
    """The same, where the line of the mistake is that of `def forward`."""
    made = layer(text, init, before)
    return made.replace("def forward(self, x):", f"def forward(self, x):  {HERE}")


def method(body: str, above: str = FROZEN) -> str:
    return f"{above}class Mine(Method):\n{textwrap.indent(textwrap.dedent(body), '    ')}"


def hook(body: str, name: str = "norm(self, channels, *, role)", rest: str = "") -> str:
    return method(f"def {name}:  {HERE}\n    {body}\n") + rest


def tuned(values: str) -> str:
    """A method with an option `eps` that declares what is tuned."""
    body = f"    tunable = {values}  {HERE}\n    eps: float = 1e-5\n{NORM}"
    return f"from normbench.methods.base import Between\n{FROZEN}class Mine(Method):\n{body}"


# name -> source, whose marked line the message must name, and what the message must say
MISTAKES = {
    # the class
    "misspelt hook": (hook("return nn.Identity()", "norn(self, channels, *, role)"), "Mine.norn is no hook of a method, so it is never called; did you mean 'norm'?"),
    "misspelt hook beside a hook": (method(NORM) + f"    def penality(self, model):  {HERE}\n        return None\n", "did you mean 'penalty'?"),
    "hook in another case": (hook("return nn.Identity()", "Norm(self, channels, *, role)"), "did you mean 'norm'?"),
    "misspelt in a subclass of a method": (f"from normbench.methods.group_norm import GroupNorm\n{FROZEN}class Mine(GroupNorm):\n    def initialise(self, model):  {HERE}\n        pass\n", "did you mean 'initialize'?"),
    "no hook": (f"{FROZEN}class Mine(Method):  {HERE}\n    eps: float = 1e-5\n", "Mine overrides no hook, so it would train plain batch norm; a hook is one of conv, norm, activation, linear"),
    "no hook, but a like name": (f"{FROZEN}class Mine(Method):  {HERE}\n    def norm_layer(self, channels):\n        return nn.Identity()\n", "norm_layer is none: did you mean 'norm'?"),
    "tuned option that there is none of": (tuned("{'esp': Between(1e-6, 1e-2)}"), "Mine.tunable: esp is no option; did you mean 'eps'?"),
    "tuned between wrong ends": (tuned("{'eps': Between(0.0, 1e-2)}"), "Mine.tunable: eps is between 0.0 and 0.01; expected low < high, and low > 0 with log=True"),
    "one tuned choice": (tuned("{'eps': (1e-5,)}"), "Mine.tunable: eps is a tuple; expected Between(low, high) or a tuple of choices"),
    "too much to tune": (tuned("{'a': (1, 2), 'eps': (1, 2), 'c': (1, 2)}"), "Mine.tunable must be a dictionary with at most 2 options"),
    "no role": (hook("return nn.Identity()", "norm(self, channels)"), "unexpected keyword argument 'role'); expected norm(self, channels, *, role)"),
    "no self": (hook("return nn.Identity()", "norm(channels, *, role)"), "too many positional arguments); expected norm(self, channels, *, role)"),
    "one argument more": (hook("return spec.plain(False)", "conv(self, spec, groups)"), "missing a required argument: 'groups'); expected conv(self, spec)"),
    "a group without rates": (hook("return []", "param_groups(self, model)"), "expected param_groups(self, model, lr, weight_decay)"),
    "a hook that is a property": (method(f"@property\ndef norm(self):  {HERE}\n    return nn.Identity()\n"), "Mine.norm is a property; expected a function"),
    "a hook that is a class": (method(f"norm = nn.InstanceNorm2d  {HERE}\n"), "Mine.norm is the class InstanceNorm2d; expected a function"),
    "defined twice": (method(f"def norm(self, channels, *, role):\n    return nn.Identity()\ndef norm(self, channels, *, role):  {HERE}\n    return nn.Identity()\n"), "Mine.norm is defined in line 13 too; only this one counts"),
    "two classes of one name": (method(textwrap.dedent(NORM)) + f"\n{FROZEN}class Mine(Method):  {HERE}\n{NORM}", "Mine is defined in line 12 too"),
    # options
    "option without a type": (method(f"eps = 1e-5  {HERE}\n" + textwrap.dedent(NORM)), "Mine.eps = 1e-05 has no type, so it is no option; write `eps: float = ...`"),
    "no dataclass": (f"class Mine(Method):  {HERE}\n    eps: float = 1e-5\n{NORM}", "Mine has options (eps) but is no dataclass; write @dataclass(frozen=True) above it"),
    "option with the name of a hook": (method(f"norm: str = 'batch'  {HERE}\ndef conv(self, spec):\n    return spec.plain(False)\n"), "is an option with the name of the hook norm; rename it"),
    "option with an underscore": (method(f"_eps: float = 1.0  {HERE}\n" + textwrap.dedent(NORM)), "cannot be the name of an option"),
    "option that is a module": (method(f"act: nn.Module = nn.ReLU()  {HERE}\n" + textwrap.dedent(NORM)), "Mine.act: Module cannot be given in params.yaml; an option is a bool, int, float, str"),
    "option that is a function": (method(f"act: Callable = torch.relu  {HERE}\n" + textwrap.dedent(NORM)), "Mine.act: Callable cannot be given in params.yaml"),
    "option that is a tuple": (method(f"size: tuple[int, int] = (1, 2)  {HERE}\n" + textwrap.dedent(NORM)), "tuple[int, int] cannot be given in params.yaml"),
    "option of an unknown type": (f"{FROZEN}class Mine(Method):  {HERE}\n    eps: Foat = 1.0\n{NORM}", "NameError: name 'Foat' is not defined"),
    "default of another type": (method(f"eps: float = '1e-5'  {HERE}\n" + textwrap.dedent(NORM)), "Mine.eps = '1e-5' as default: input should be a valid number"),
    "default out of bounds": (method(f"eps: Positive = 0.0  {HERE}\n" + textwrap.dedent(NORM)), "Mine.eps = 0.0 as default: must be above 0"),
    "default that is not finite": (method(f"eps: float = float('inf')  {HERE}\n" + textwrap.dedent(NORM)), "must be finite"),
    "a failing __post_init__": (method(f"eps: float = 1.0\ndef __post_init__(self):\n    self.x = 1  {HERE}\n" + textwrap.dedent(NORM)), "FrozenInstanceError: cannot assign to field 'x'"),
    # what the hooks return
    "None": (hook("nn.BatchNorm2d(channels)"), "norm returned None for 4 channels; expected a torch.nn.Module; is a `return` missing?"),
    "a class": (hook("return nn.BatchNorm2d"), "norm returned the class BatchNorm2d for 4 channels; expected a torch.nn.Module; make an instance, BatchNorm2d(...)"),
    "a tensor": (hook("return torch.ones(channels)"), "norm returned a tensor of shape (4,) for 4 channels"),
    "a function": (hook("return torch.relu"), "norm returned the function relu for 4 channels"),
    "an error in a hook": (method(f"def norm(self, channels, *, role):\n    return nn.GroupNorm(3, channels)  {HERE}\n"), "ValueError: num_channels (4) must be divisible by num_groups (3) (variant mine, task small)"),
    "an exit in a hook": (method(f"def norm(self, channels, *, role):\n    raise SystemExit(3)  {HERE}\n"), "SystemExit: 3"),
    "a lazy layer": (hook("return nn.LazyBatchNorm2d()"), "norm returned a LazyBatchNorm2d, which has no shape before the first batch"),
    "one layer of the class": (method(f"shared = nn.BatchNorm2d(4)  {HERE}\ndef norm(self, channels, *, role):\n    return self.shared\n"), "Mine.shared is made once for the class, so that all layers share it"),
    "one layer of the file": (f"SHARED = nn.BatchNorm2d(4)  {HERE}\n" + method("def norm(self, channels, *, role):\n    return SHARED\n"), "SHARED is made once, when the file is imported"),
    "one parameter of the file": (f"GAIN = nn.Parameter(torch.ones(1))  {HERE}\n" + method(textwrap.dedent(NORM)), "GAIN is made once, when the file is imported"),
    "one layer as a default": (hook("return layer if channels == 4 else nn.BatchNorm2d(channels)", "norm(self, channels, *, role, layer=nn.BatchNorm2d(4))"), "norm returned the same layer (BatchNorm2d) for two places"),
    "one layer kept by the method": (hook("self.__dict__.setdefault('kept', {})\n    return self.kept.setdefault(channels, nn.BatchNorm2d(channels))"), "norm returned the same layer (BatchNorm2d) for two places"),
    "one layer for all networks": (hook("return layer", "linear(self, i, o, *, role, layer=nn.Linear(16, 5))"), "two networks share head.weight"),
    # what the layers make
    "no argument for the layer": (layer("return x").replace("return Layer(channels)", f"return Layer()  {HERE}"), "missing 1 required positional argument: 'channels'"),
    "an argument more in forward": (layer("return x").replace("def forward(self, x):", f"def forward(self, x, y):  {HERE}"), "TypeError: Layer.forward() missing 1 required positional argument: 'y'"),
    "an error in forward": (layer(f"return x * self.gian  {HERE}"), "AttributeError: 'Layer' object has no attribute 'gian'"),
    "a view of channels_last": (layer(f"return x.view(len(x), -1, x.shape[1]).view(x.shape) * self.gain  {HERE}"), "view size is not compatible"),
    "shape": (forward("return x.mean((2, 3))"), "Layer, the norm of 4 channels, made shape (4, 4) of (4, 4, 8, 8); expected (4, 4, 8, 8)"),
    "None in forward": (forward("x * self.gain"), "Layer, the norm of 4 channels, returned None; expected a tensor of shape (4, 4, 8, 8)"),
    "a tuple in forward": (forward("return x, x"), "returned a tuple; expected a tensor"),
    "a stride that is ignored": (hook("return nn.Conv2d(spec.in_channels, spec.out_channels, 3, padding=1)", "conv(self, spec)"), "Conv2d, the conv of 4 -> 8 channels, made shape (4, 8, 8, 8) of (4, 4, 8, 8); expected (4, 8, 4, 4)"),
    "features the wrong way round": (hook("return nn.Linear(o, i)", "linear(self, i, o, *, role)"), "mat1 and mat2 shapes cannot be multiplied"),
    "float64": (forward("return (x * self.gain).double()"), "made float64 of float32; expected the same type"),
    "a gain in float64": (forward("return x * self.gain", "self.gain = nn.Parameter(torch.ones(channels, 1, 1, dtype=torch.float64))"), "made float64 of float32"),
    "not finite": (forward("return (x * self.gain).log()"), "made values that are not finite of ordinary input"),
    "a gradient that is not finite": (forward("return x * self.gain * torch.where(x > 1e9, x.sqrt(), torch.ones_like(x))"), "passes a gradient to its input that is not finite"),
    "detached": (forward("return (x * self.gain).detach()"), "returned a tensor without a gradient"),
    "no_grad": (forward("with torch.no_grad():\n    return x * self.gain"), "returned a tensor without a gradient"),
    "detached input": (forward("return x.data * self.gain"), "passes no gradient to its input"),
    "input changed in place": (forward("x.mul_(2)\nreturn x * self.gain"), "changes its input in place; expected a new tensor"),
    "input changed behind autograd": (forward("x.data.mul_(2)\nreturn x * self.gain"), "changes its input in place"),
    "intermediate changed in place": (forward("z = torch.tanh(x * self.gain)\ny = z * 2\nz.add_(1)\nreturn y"), "modified by an inplace operation"),
    "a batch of four only": (layer(f"assert len(x) == 4, 'four'  {HERE}\nreturn x * self.gain"), "AssertionError: four (a last batch of 3 images, variant mine, task small)"),
    "a tensor on the CPU": (layer(f"return x * self.gain * torch.ones(x.shape[1], 1, 1)  {HERE}"), "a tensor is made on the CPU, which fails on a GPU"),
    # parameters and state
    "a gain that is no parameter": (layer("return x * self.gain * self.scale", f"self.scale = torch.ones(channels, 1, 1)  {HERE}"), "Layer.scale is a tensor that is neither parameter nor buffer: it is not trained, stored or moved; use nn.Parameter if it is learned, register_buffer if not"),
    "a list of parameters": (layer("return x * self.gains[0]", f"self.gains = [nn.Parameter(torch.ones(channels, 1, 1))]  {HERE}"), "Layer.gains holds a tensor that is neither parameter nor buffer: it is not trained, stored or moved; use nn.ParameterList"),
    "a dict of tensors": (layer("return x * self.g['a']", f"self.g = {{'a': torch.ones(channels, 1, 1)}}  {HERE}"), "Layer.g holds a tensor"),
    "a list of layers": (layer("return self.layers[0](x * self.gain)", f"self.layers = [nn.BatchNorm2d(channels)]  {HERE}"), "Layer.layers holds layers that torch does not see, so they are neither trained nor stored; use nn.ModuleList"),
    "a parameter made by the first batch": (layer("if self.g is None:\n    self.g = nn.Parameter(torch.ones(x.shape[1], 1, 1))\nreturn x * self.g * self.gain", "self.g = None").replace("class Layer(nn.Module):", f"class Layer(nn.Module):  {HERE}"), "the first training step changes what is stored (norm.g, "),
    "an average that is not stored": (layer("m = x.mean((0, 2, 3)).detach()\nif self.training:\n    self.m = m if self.m is None else 0.9 * self.m + 0.1 * m\nreturn (x - self.m[:, None, None]) * self.gain", f"self.m = None  {HERE}"), "Layer.m changes in training; register it as a buffer"),
    "a count that is not stored": (layer("self.steps += self.training\nreturn x * self.gain / self.steps", f"self.steps = 1  {HERE}"), "Layer.steps changes in training; register it as a buffer"),
    "a state that cannot be stored": (method(textwrap.dedent(NORM)).replace("class Mine(Method):", f"class Mine(Method):  {HERE}").replace("nn.BatchNorm2d(", "Layer(") + "class Thing:\n    pass\nclass Layer(nn.BatchNorm2d):\n    def get_extra_state(self):\n        return Thing()\n    def set_extra_state(self, state):\n        pass\n", "(storing and loading the network, variant mine, task small)"),
    "evaluation that changes the state": (layer("self.m.lerp_(x.detach().mean((0, 2, 3)), 0.1)\nreturn (x - self.m[:, None, None]) * self.gain", "self.register_buffer('m', torch.zeros(channels))").replace("class Layer(nn.Module):", f"class Layer(nn.Module):  {HERE}"), "evaluation changes norm.m; change it only if self.training"),
    "numpy's random numbers": (layer("return x * self.gain * float(np.random.rand())").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "a training step draws from numpy's global generator, which no run seeds"),
    "Python's random numbers": (layer("return x * self.gain", "self.gain.data += random.random()").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "building the network draws from Python's global generator"),
    "an unseeded draw of weights": (layer("return x * self.gain", "self.gain.data += float(np.random.default_rng().random())").replace("class Layer(nn.Module):", f"class Layer(nn.Module):  {HERE}"), "two networks from one seed differ in norm.gain"),
    "numbers that go on": (layer("return x * self.gain * (1 + next(COUNTER))", "", "import itertools\nCOUNTER = itertools.count()\n").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "it depends on what is neither parameter nor buffer, or on random numbers that no run seeds"),
    "a setting of torch": (layer("return x * self.gain", "torch.set_default_dtype(torch.float64)").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "building the network changes torch's default type"),
    # the other hooks
    "a penalty that is a number": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):  {HERE}\n    return 0.5\n"), "penalty returned 0.5, which has no gradient; expected a 0-d tensor with a gradient, or None"),
    "a penalty by item": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):  {HERE}\n    return sum(p.abs().sum().item() for p in model.parameters())\n"), "which has no gradient"),
    "a penalty of several numbers": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):  {HERE}\n    return next(model.parameters()).sum()[None]\n"), "penalty returned a tensor of shape (1,)"),
    "a penalty that is not finite": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):  {HERE}\n    return next(model.parameters()).sum() * float('nan')\n"), "penalty returned nan; expected a finite number"),
    "a penalty without a gradient": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):  {HERE}\n    return sum(p.detach().abs().sum() for p in model.parameters())\n"), "without a gradient, so it changes nothing"),
    "an error in a penalty": (method(textwrap.dedent(NORM) + f"def penalty(self, model, moment):\n    return model.wight.sum()  {HERE}\n"), "AttributeError: 'ResNet' object has no attribute 'wight'"),
    "initialize that returns": (method(f"def initialize(self, model):  {HERE}\n    return nn.Sequential(model)\n"), "initialize returned another network, which is ignored"),
    "initialize that replaces": (method(f"def initialize(self, model):  {HERE}\n    model.norm = nn.InstanceNorm2d(4)\n"), "initialize replaced the layer norm; make it in conv, norm or linear"),
    "initialize with nan": (method("def initialize(self, model):\n    nn.init.constant_(model.conv.weight, float('nan'))\n").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "the initial values of conv.weight are not finite"),
    "groups that lose a parameter": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    return [{{'params': list(model.parameters())[1:]}}]\n"), "param_groups leaves out conv.weight, which would never change"),
    "a parameter in two groups": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    ps = list(model.parameters())\n    return [{{'params': ps}}, {{'params': ps[:1]}}]\n"), "param_groups returned conv.weight twice"),
    "a foreign parameter": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    return [{{'params': [*model.parameters(), nn.Parameter(torch.ones(1))]}}]\n"), "that is no parameter of the network"),
    "a misspelt key of a group": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    return [{{'params': list(model.parameters()), 'weight_deacy': 0.0}}]\n"), "the key 'weight_deacy'; did you mean 'weight_decay'?"),
    "a rate that is a text": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    return [{{'params': list(model.parameters()), 'lr': '0.1'}}]\n"), "param_groups returned lr = '0.1'; expected a number of at least 0"),
    "no groups": (method(f"def param_groups(self, model, lr, weight_decay):  {HERE}\n    return list(model.parameters())\n"), "param_groups returned a list; expected a list of dicts with `params`"),
}  # fmt: skip

RIGHT = {
    "a gain": layer("return x * self.gain"),
    "helpers with names like hooks": method("def norm(self, channels, *, role):\n    return self.norm2(channels)\ndef norm2(self, channels):\n    return nn.BatchNorm2d(channels)\n"),
    "a static hook": method("@staticmethod\ndef norm(channels, *, role):\n    return nn.BatchNorm2d(channels)\n"),
    "other names of arguments": method("def norm(self, num_features, **rest):\n    return nn.BatchNorm2d(num_features)\n"),
    "a helper that a subclass in the file uses": f"{FROZEN}class Base(Method):\n    def norms(self, channels):\n        return nn.BatchNorm2d(channels)\n{FROZEN}class Mine(Base):\n    def conv(self, spec):\n        return nn.Sequential(spec.plain(False), self.norms(spec.out_channels))\n",
    "constants": method("EPS = 1e-5\n_cache = 3\nkind: ClassVar[str] = 'a'\n" + textwrap.dedent(NORM)),
    "options of all types": method("a: Literal['a', 'b'] = 'a'\nb: Optional[int] = None\nc: list[float] = field(default_factory=list)\nd: float | None = 1\ne: Count = 2\nf: bool = True\n" + textwrap.dedent(NORM)),
    "no options and no decorator": method(textwrap.dedent(NORM), ""),
    "other defaults of a method": f"from normbench.methods.group_norm import GroupNorm\n{FROZEN}class Mine(GroupNorm):\n    groups: Count = 2\n",
    "slots": method("eps: float = 1.0\n" + textwrap.dedent(NORM), "@dataclass(frozen=True, slots=True)\n"),
    "one layer without state": "IDENTITY = nn.Identity()\n" + method("def norm(self, channels, *, role):\n    return IDENTITY\n"),
    "a list of activations": layer("return self.layers[0](x * self.gain)", "self.layers = [nn.ReLU()]"),
    "a frozen parameter": layer("return x * self.gain * self.k", "self.k = nn.Parameter(torch.ones(1), requires_grad=False)"),
    "parametrizations": method("def conv(self, spec):\n    return torch.nn.utils.parametrizations.weight_norm(spec.plain(False))\n"),
    "buffers added by initialize": method("def initialize(self, model):\n    model.norm.register_buffer('extra', torch.zeros(1))\n"),
    "a penalty of no layers": method(textwrap.dedent(NORM) + "def penalty(self, model, moment):\n    return sum(m.weight.sum() for m in model.modules() if isinstance(m, nn.LSTM))\n"),
    "a generator of parameters": method("def param_groups(self, model, lr, weight_decay):\n    return [{'params': model.parameters()}]\n"),
}  # fmt: skip

NOTES = {
    "unused": (layer("return x").replace("class Layer(nn.Module):", f"class Layer(nn.Module):  {HERE}"), "no gradient reaches norm.gain, stages.0.0.norm1.gain, stages.0.0.norm2.gain, stages.1.0.norm1.gain and 5 more: is it used?"),
    "statistics of the batch": (layer("return (x - x.mean((0, 2, 3), keepdim=True)) * self.gain").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "the output for an image depends on the other images of its batch"),
    "a kept activation": (layer("self.last = x * self.gain\nreturn self.last").replace("class Mine(Method):", f"class Mine(Method):  {HERE}"), "the network cannot be copied after a gradient was computed"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(found: list[str], line: int | None) -> str:
    """The one message, which begins with the marked line."""
    (message,) = found
    assert message.startswith(f"mine.py:{line}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, folder: Path) -> None:
    text, said = MISTAKES[name]
    _, line = write(folder, text)
    assert said in one_line(checked("mine.py:Mine"), line)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_without_a_note(name: str, folder: Path) -> None:
    write(folder, RIGHT[name])
    assert checked("mine.py:Mine") == []


@pytest.mark.parametrize("name", NOTES)
def test_what_is_doubtful_is_a_note(name: str, folder: Path) -> None:
    text, said = NOTES[name]
    _, line = write(folder, text)
    assert problems(methods.method_class("mine.py:Mine")) == []
    found = subjects.check(task(), models.get("resnet8"), methods.build("mine.py:Mine", {}), BOUND, NAME)
    assert said in one_line(found, line)


def test_dropout_in_training_is_in_order(folder: Path) -> None:
    """Checkpoints keep the generator that it draws from."""
    write(folder, layer("return nn.functional.dropout(x * self.gain, 0.5, self.training)"))
    assert checked("mine.py:Mine") == []


def test_random_evaluation_is_a_note(folder: Path) -> None:
    write(folder, layer("return x * self.gain + torch.randn_like(x)"))
    assert [line.partition(": ")[2] for line in checked("mine.py:Mine")] == [
        "evaluation draws random numbers: the same images give other outputs each time",
    ]


def test_the_recipe_is_that_of_the_task(folder: Path) -> None:
    """Its precision, its memory format, what it says of weight decay, and the size of its last batch."""
    _, line = write(
        folder, layer(f"assert x.dtype == torch.float32 or not self.training, x.dtype  {HERE}\nreturn x * self.gain")
    )
    assert checked("mine.py:Mine") == []
    assert "AssertionError: torch.bfloat16" in one_line(checked("mine.py:Mine", task(precision="bfloat16")), line)
    _, line = write(
        folder, layer(f"return x.view(len(x), -1, x.shape[1]).view(x.shape) * self.gain  {HERE}"), "view.py"
    )
    assert "view size" in checked("view.py:Mine")[0]
    assert checked("view.py:Mine", task(memory_format="contiguous")) == []
    _, line = write(folder, RIGHT["a generator of parameters"], "groups.py")
    (message,) = checked("groups.py:Mine", task(weight_decay_norms=False))
    assert "param_groups leaves out " in message
    _, line = write(folder, layer(f"assert len(x) > 1  {HERE}\nreturn x * self.gain"), "last.py")
    for train, recipe, problem in ((16, {}, False), (17, {}, True), (17, {"drop_last": True}, False)):
        found = checked("last.py:Mine", task(**recipe), BOUND.model_copy(update={"train": train}))
        said = [line for line in found if "AssertionError (a last batch of 1 image, " in line]
        assert bool(said) == problem, found


def test_the_discriminator_of_a_gan(folder: Path) -> None:
    _, line = write(folder, RIGHT["a gain"])
    assert checked("mine.py:Mine", gan_task()) == []
    text, said = MISTAKES["detached input"]
    _, line = write(folder, text, "detached.py")
    (message,) = checked("detached.py:Mine", gan_task())
    assert message.startswith(f"detached.py:{line}: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"def f(:  {HERE}\n", "SyntaxError: "),
        (f"import no_such_module_here  {HERE}\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        (f"raise SystemExit('over')  {HERE}\n", "SystemExit: over"),
        (f"{FROZEN}class Mine(Method):  {HERE}\n    a: list = []\n", "ValueError: mutable default <class 'list'> for field a is not allowed"),
        (f"print('loud')\n1 / 0  {HERE}\n", "ZeroDivisionError"),
    ],
)  # fmt: skip
def test_an_import_that_fails_names_its_line(
    text: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, line = write(folder, text)
    line = line - 1 if line and "list = []" in text else line  # Python names the line of the decorator
    with pytest.raises(UserError) as caught:
        methods.method_class("mine.py:Mine")
    assert str(caught.value).startswith(f"mine.py:{line} cannot be imported: {said}")
    assert capsys.readouterr().out == ""  # where a command prints JSON, nothing else may be printed


def test_an_import_that_fails_in_a_helper_names_both_files(folder: Path) -> None:
    write(folder, f"{FROZEN}class Mine(Method):\n{NORM}import helper_that_fails\n")
    (folder / "helper_that_fails.py").write_text("x = 1\nx.y\n")
    with pytest.raises(UserError, match=r"^mine\.py cannot be imported: helper_that_fails\.py:2: AttributeError: "):
        methods.method_class("mine.py:Mine")


def test_an_import_that_takes_long_is_mentioned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plugins, "SLOW", 0.05)
    write(folder, f"import threading\nthreading.Event().wait(1)\n{FROZEN}class Mine(Method):\n{NORM}")
    assert problems(methods.method_class("mine.py:Mine")) == []
    assert capsys.readouterr().err == "mine.py: its import takes more than 0.05 s\n"


def test_an_import_that_changes_torch_is_refused(folder: Path) -> None:
    write(folder, f"torch.set_grad_enabled(False)\n{FROZEN}class Mine(Method):\n{NORM}")
    import torch

    with pytest.raises(UserError, match=r"^mine\.py: its import changes torch's default type, device or gradient mode"):
        methods.method_class("mine.py:Mine")
    assert torch.is_grad_enabled()


def test_a_class_that_is_no_method(folder: Path) -> None:
    _, line = write(folder, f"@dataclass(frozen=True)\nclass Mine:  {HERE}\n    pass\n")
    with pytest.raises(
        UserError,
        match=rf"^mine\.py:{line}: Mine in mine\.py is a subclass neither of torch\.nn\.Module nor of .*Method$",
    ):
        methods.method_class("mine.py:Mine")


def test_a_traceback_where_it_is_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, MISTAKES["an error in forward"][0])
    monkeypatch.setenv("NORMBENCH_TRACEBACK", "1")
    with pytest.raises(AttributeError, match="gian"):
        checked("mine.py:Mine")


@pytest.mark.parametrize("name", methods.names())
def test_the_methods_of_the_package_pass_without_notes(name: str) -> None:
    """Beyond tests/methods/test_method_contract.py: in another precision and memory format, and in a GAN."""
    for what in (task(precision="bfloat16", memory_format="contiguous"), gan_task()):
        assert subjects.check(what, models.get(what.model), methods.build(name, {}), BOUND, NAME) == []


PLAIN = """
class Mine(nn.Module):{here}
    def __init__(self, num_features, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features, 1, 1))
        {init}

    def forward(self, x):{call}
        return {result}
"""


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"call": HERE, "result": "x[:, :, 1:]"}, "Mine, the norm of 4 channels, made shape (4, 4, 7, 8) of (4, 4, 8, 8)"),
        ({"result": f"x * self.wight  {HERE}"}, "AttributeError: 'Mine' object has no attribute 'wight'"),
        ({"init": f"self.mean = torch.zeros(4)  {HERE}"}, "Mine.mean is a tensor that is neither parameter nor buffer"),
        ({"init": f"self.mean = 1 / (num_features - 4)  {HERE}"}, "ZeroDivisionError: division by zero"),
        ({"here": HERE, "init": "self.lazy = nn.LazyLinear(3)"}, "norm returned a Mine, which has no shape before the first batch"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plain_class_is_one_line(parts: dict[str, str], said: str, folder: Path) -> None:
    given = {"here": "", "init": "", "call": "", "result": "x * self.weight"} | parts
    _, line = write(folder, PLAIN.format(**given))
    (message,) = checked("mine.py:Mine")
    assert message.startswith(f"mine.py:{line}: ")
    assert said in message


def test_a_plain_class_that_is_right_passes_without_a_note(folder: Path) -> None:
    write(folder, PLAIN.format(here="", init="", call="", result="x * self.weight"))
    assert checked("mine.py:Mine") == []
