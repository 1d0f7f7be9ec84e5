"""`normbench new NAME`: a norm of one's own to start from, as a plain module, and a test beside it."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from normbench.system import files
from normbench.system.errors import UserError

FOLDER = Path("my_methods")
NAME = re.compile(r"[a-z][a-z0-9_]{0,60}")

NORM = '''"""CLASS: what it does, and the paper that it is from. It begins as batch norm: change `forward`."""

import torch
from torch import Tensor, nn


class CLASS(nn.Module):
    """Takes the place of BatchNorm2d: (N, num_features, H, W) to the same shape.

    The arguments after the first are the options that params.yaml may set. What is learned is an nn.Parameter, what
    else is kept from step to step is a buffer. eps: added to the variance. momentum: of the new running statistics.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            var, mean = torch.var_mean(x.to(self.mean.dtype), (0, 2, 3), correction=0)
            self.mean.lerp_(mean.detach(), self.momentum)
            self.var.lerp_(var.detach(), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]
'''

TEST = '''"""CLASS against a formula that is written another way, and all checks of `normbench check`."""

from pathlib import Path

import torch
from NAME import CLASS

from normbench.checks.kit.table import examine
from normbench.methods import registry


def test_the_formula() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 5, 5) + 1
    expected = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-5)
    assert torch.allclose(CLASS(3)(x), expected, atol=1e-5)


def test_no_check_fails() -> None:
    file = Path(__file__).with_name("NAME.py")
    method = registry.build(f"{file}:CLASS", {})
    assert [found.line() for found in examine(method, quick=True) if found.outcome == "fail"] == []
'''


def write(name: str) -> list[str]:
    """Writes my_methods/NAME.py and my_methods/test_NAME.py; returns lines on what to do next.

    Raises UserError, and writes nothing, if the name cannot be that of a new file.
    """
    if not NAME.fullmatch(name) or keyword.iskeyword(name) or name.startswith("test_"):
        near = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()
        advice = f"; did you mean '{near}'?" if near != name and NAME.fullmatch(near) else ""
        raise UserError(f"new {name}: a name has lower-case letters, digits and underscores, as my_norm{advice}")
    if not FOLDER.is_dir():
        raise UserError(f"{FOLDER}: no such folder; run from the repository's root")
    paths = FOLDER / f"{name}.py", FOLDER / f"test_{name}.py"
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already, and is kept; choose another name")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"new {name}: an installed module has this name, which the test would import; add a word to it")
    kind = "".join(part.capitalize() for part in name.split("_"))
    for path, text in zip(paths, (NORM, TEST), strict=True):
        files.write_text(path, text.replace("CLASS", kind).replace("NAME", name))
    return [
        f"{paths[0]} is a norm to start from. Examine it, test it, and name it in a variant of params.yaml:",
        f"  normbench check {paths[0]}:{kind}",
        f"  python -m pytest {paths[1]}",
        f"  {name}: {{method: {paths[0]}:{kind}}}",
    ]
