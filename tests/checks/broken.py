"""Plain norm layers with one mistake each, and the line of the kit that must find it."""

from __future__ import annotations

import textwrap
from pathlib import Path

from normbench.methods import registry
from normbench.methods.base import Method

HEAD = """
import random

import torch
from torch import nn
from torch.nn import functional


class Base(nn.Module):
    def __init__(self, num_features, eps=1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_features, 1, 1))
        self.register_buffer("mean", torch.zeros(num_features, 1, 1))
        self.register_buffer("var", torch.ones(num_features, 1, 1))

    def statistics(self, x):
        if not self.training:
            return self.mean, self.var
        x = x.to(self.mean.dtype)
        var, mean = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
        with torch.no_grad():
            self.mean.lerp_(mean[0], 0.1)
            self.var.lerp_(var[0], 0.1)
        return mean, var

    def forward(self, x):
        mean, var = self.statistics(x)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias


"""
RIGHT = "class Layer(Base):\n    pass\n"

# what is wrong -> the name of the check that fails, what it says, and the class
BROKEN: dict[str, tuple[str, str, str]] = {
    "a running mean as a plain attribute": ("stored state", "Layer.average is a tensor that is neither parameter nor buffer", """
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                self.average = torch.zeros(num_features, 1, 1)
            def statistics(self, x):
                if self.training:
                    self.average = self.average.lerp(x.detach().mean((0, 2, 3), keepdim=True)[0], 0.1)
                return (x.mean((0, 2, 3), keepdim=True) if self.training else self.average), super().statistics(x)[1]
        """),
    "a running mean that is a number first": ("stored state", "a network with the same state_dict evaluates differently", """
        class Layer(Base):
            average = 0.0
            def statistics(self, x):
                if self.training:
                    self.average = 0.9 * self.average + 0.1 * x.detach().mean().item()
                return (x.mean() if self.training else self.average), super().statistics(x)[1]
        """),
    "a count of steps": ("stored state", "the training loss", """
        class Layer(Base):
            steps = 0
            def forward(self, x):
                self.steps += self.training
                return super().forward(x) * (1 if self.training and self.steps < 3 else 1.5)
        """),
    "an output of wrong shape": ("shapes", "Layer, the norm of 8 channels, made shape (4, 8, 1, 1) of (4, 8, 12, 12)", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x).mean((2, 3), keepdim=True)
        """),
    "a tuple as output": ("shapes", "returned a tuple; expected a tensor", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x), x
        """),
    "an error in forward": ("shapes", "AttributeError: 'Layer' object has no attribute 'wieght'", """
        class Layer(Base):
            def forward(self, x):
                return x * self.wieght
        """),
    "statistics of the batch in evaluation": ("other images", "the output for an image differs by", """
        class Layer(Base):
            def statistics(self, x):
                var, mean = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
                return mean, var
        """),
    "a parameter never used": ("parameters", "no gradient reaches norm.gain", """
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                self.gain = nn.Parameter(torch.ones(num_features))
        """),
    "its input changed in place": ("in place", "changes its input in place", """
        class Layer(Base):
            def forward(self, x):
                x.data.mul_(2)
                return super().forward(x)
        """),
    "a graph kept between steps": ("memory growth", "the graph of a step is still alive after it, in Layer.last", """
        class Layer(Base):
            def forward(self, x):
                self.last = super().forward(x)
                return self.last
        """),
    "a graph in a running mean": ("copying", "the network cannot be copied after a step", """
        class Layer(Base):
            def forward(self, x):
                self.level = super().forward(x).mean()
                return super().forward(x)
        """),
    "a list that grows": ("memory growth", "tensors of", """
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                self.past = []
            def forward(self, x):
                self.past.append(x.detach().mean((0, 2, 3)))
                return super().forward(x)
        """),
    "float32 returned for float64": ("float64", "made float32 of float64", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x).float()
        """),
    "randomness in evaluation": ("repeated", "the same images give other outputs in evaluation", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) + 0.1 * torch.randn_like(x)
        """),
    "evaluation that changes a buffer": ("repeated", "evaluation changes norm.mean", """
        class Layer(Base):
            def forward(self, x):
                result = super().forward(x)
                self.mean.add_(1e-3)
                return result
        """),
    "a detached output": ("backward", "passes no gradient to its input", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x.detach())
        """),
    "detached statistics": ("finite differences", "the gradient of its input is off by", """
        class Layer(Base):
            def statistics(self, x):
                mean, var = super().statistics(x)
                return mean.detach(), var.detach()
        """),
    "a wrong backward pass": ("finite differences", "the gradient of its input is off by", """
        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x
            @staticmethod
            def backward(ctx, gradient):
                return gradient * ctx.saved_tensors[0]

        class Layer(Base):
            def forward(self, x):
                return Square.apply(super().forward(x))
        """),
    "a wrong gradient of a parameter": ("finite differences", "the gradient of its parameters is off by", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) * self.weight.detach()
        """),
    "parameters shared between instances": ("sharing", "norm returned a layer with the same parameters", """
        SHARED = []
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                SHARED.append(nn.Parameter(torch.ones(1)))
                self.gain = SHARED[0]
            def forward(self, x):
                return super().forward(x) * self.gain
        """),
    "a tensor on the CPU in forward": ("device", "a tensor is made on the CPU", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) * torch.ones(x.shape[1], 1, 1)
        """),
    "division by zero": ("finite", "images of zeros: ", """
        class Layer(Base):
            def forward(self, x):
                var, mean = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
                super().statistics(x)
                return (x - mean) / var.sqrt() * self.weight + self.bias
        """),
    "squares of huge values": ("finite", "huge images", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) + 0 * x.pow(10).mean()
        """),
    "a variance as a difference": ("finite", "constant maps, around 1000: ", """
        class Layer(Base):
            def statistics(self, x):
                mean, var = super().statistics(x)
                return mean, x.square().mean((0, 2, 3), keepdim=True) - mean.square() if self.training else var
        """),
    "another function in evaluation": ("modes agree", "in evaluation, the outputs differ from those in training", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) if self.training else super().forward(x).tanh()
        """),
    "a size that is kept": ("sizes", "images of", """
        class Layer(Base):
            size = None
            def forward(self, x):
                self.size = self.size or x.shape[2:]
                return super().forward(x).reshape(len(x), -1, *self.size)
        """),
    "a view": ("channels last", "view size is not compatible", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x).view(len(x), -1).view(x.shape)
        """),
    "memory taken as it lies": ("channels last", "outputs differ by", """
        class Layer(Base):
            def forward(self, x):
                y = super().forward(x)
                gains = torch.linspace(0.1, 2, y[0].numel(), dtype=x.dtype, device=x.device)
                return y * torch.as_strided(gains, y[0].shape, y[0].stride())
        """),
    "an entry made at first use": ("round trip", "training changes which entries are stored: norm.seen", """
        class Layer(Base):
            def forward(self, x):
                if not hasattr(self, "seen"):
                    self.register_buffer("seen", x.detach().new_zeros(1))
                return super().forward(x)
        """),
    "a state that is not read again": ("round trip", "has other values", """
        class Layer(Base):
            def _load_from_state_dict(self, state_dict, prefix, *rest):
                super()._load_from_state_dict(state_dict, prefix, *rest)
                self.var.fill_(1)
        """),
    "random numbers of Python": ("determinism", "draws from Python's global generator", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) * (1 + 0.01 * random.random() * self.training)
        """),
    "a count in the file": ("determinism", "two trainings from one seed differ in", """
        CALLS = []
        class Layer(Base):
            def forward(self, x):
                CALLS.append(0)
                return super().forward(x) * (1 + 1e-3 * len(CALLS) * self.training)
        """),
    "overflow in bfloat16": ("bfloat16", "not finite", """
        class Layer(Base):
            def forward(self, x):
                low = torch.is_autocast_enabled("cpu")
                return super().forward(x) * (torch.inf if low else 1)
        """),
    "no evaluation of one image": ("one image", "evaluation of one image", """
        class Layer(Base):
            def forward(self, x):
                assert len(x) > 1
                return super().forward(x)
        """),
    "groups that are ignored": ("geometries", "depth-wise convolutions: shape", """
        class Layer(Base):
            def forward(self, x):
                y = super().forward(x)
                return torch.cat([y, y], 1) if x.shape[-1] == 8 else y
        """),
    "a network that is not the same compiled": ("compiling", "compiled, its outputs differ by", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) * (2 if torch.compiler.is_compiling() else 1)
        """),
    "no learning": ("learning", "the loss does not fall", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) * 0
        """),
}  # fmt: skip

# what is doubtful -> the name of the check that warns, what it says, and the class
DOUBTFUL: dict[str, tuple[str, str, str]] = {
    "no batch of one image": ("one image", "a last batch of one image cannot be trained: ", """
        class Layer(Base):
            def forward(self, x):
                assert len(x) > 1 or not self.training, "two or more"
                return super().forward(x)
        """),
    "no maps of one pixel": ("one pixel", "4 images with maps of one pixel: the loss is nan", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) / (1 + 0 * x.std((2, 3), keepdim=True))
        """),
    "a gain that has no effect": ("parameters", "the gradient of norm.gain", """
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                self.gain = nn.Parameter(torch.ones(1))
            def forward(self, x):
                return super().forward(x) + 0 * self.gain
        """),
    "a count that has no effect": ("stored state", "Layer.calls changes in training and is not in the state_dict", """
        class Layer(Base):
            calls = 0
            def forward(self, x):
                self.calls += 1
                return super().forward(x)
        """),
    "a function as an attribute": ("pickling", "the network cannot be pickled", """
        class Layer(Base):
            def __init__(self, num_features):
                super().__init__(num_features)
                self.f = lambda x: x
        """),
    "a branch on values": ("compiling", "graphs in place of one", """
        class Layer(Base):
            def forward(self, x):
                return super().forward(x) if x.sum().item() < 1e9 else x
        """),
    "statistics in bfloat16": ("bfloat16", "the outputs differ from float32 by", """
        class Layer(Base):
            def forward(self, x):
                low = torch.is_autocast_enabled("cpu")
                return super().forward((16 * x).round() / 16 + 0.3 if low else x) * self.weight.tanh()
        """),
    "a momentum that is small": ("modes agree", "in evaluation, the outputs differ from those in training by", """
        class Layer(Base):
            def statistics(self, x):
                if not self.training:
                    return self.mean, self.var
                var, mean = torch.var_mean(x, (0, 2, 3), keepdim=True, correction=0)
                self.mean.lerp_(mean[0].detach(), 0.002)
                self.var.lerp_(var[0].detach(), 0.002)
                return mean, var
        """),
    "32 channels or more": ("channels", "it does not take 8 channels: ValueError: ", """
        class Layer(nn.GroupNorm):
            def __init__(self, num_features):
                super().__init__(32, num_features)
        """),
}  # fmt: skip


def written(folder: Path, text: str) -> Method:
    """The method that is made of a plain class `Layer`, in a file of its own."""
    path = folder / "mine.py"
    path.write_text(HEAD + textwrap.dedent(text))
    return registry.build(f"{path}:Layer", {})
