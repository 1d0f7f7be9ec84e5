"""The network that is found in a classifier computes the same, and its bounds hold for images in 0..1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from normbench.evaluation.curved import Unsuited, curved_network
from normbench.methods import registry
from normbench.models import registry as models
from normbench.spectral import hessian_bounds

MEAN, STD = (torch.tensor(values).view(2, 1, 1) for values in ([0.3, 0.6], [0.2, 0.5]))


class Convolutional(nn.Module):
    """Two convolutions and two linear layers."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 3, 3)
        self.act, self.other = nn.Softplus(), nn.Tanh()
        self.linear, self.head = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.second(self.act(self.norm(self.first(x)))))
        return self.head(self.act(self.linear(torch.flatten(x, 1))))


def settled(model: nn.Module) -> nn.Module:
    """With running statistics that are not those of the start."""
    model.train()
    for _ in range(3):
        model(2 * torch.randn(16, 2, 6, 6) + 1)
    return model.eval()


@pytest.mark.parametrize("network", ["mlp", "mlp with a norm", "deconvolution", "convolutions", "groups"])
def test_the_same_outputs_and_bounds_on_their_hessians(network: str) -> None:
    torch.manual_seed(0)
    if network in ("convolutions", "groups"):
        model: nn.Module = Convolutional(2 if network == "groups" else 1)
    else:
        method = {"mlp": "no_norm", "mlp with a norm": "batch_norm"}.get(network, "network_deconvolution")
        model = models.classifier("mlp", {"side": 6, "width": 8}, registry.build(method, {}), 2, 3)
    model = settled(model)
    x = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    found = curved_network(model, x[:1].float(), MEAN, STD)
    expected = model(((x - MEAN) / STD).float())
    torch.testing.assert_close(found.head(found.hidden(x)).float(), expected, rtol=1e-4, atol=1e-4)
    assert len(found.layers) == (3 if isinstance(model, Convolutional) else 2)
    least, most = hessian_bounds(found.layers, (found.head.weight[0] - found.head.weight[2])[None])

    def difference(x: Tensor) -> Tensor:
        logits = found.head(found.hidden(x))
        return logits[0, 0] - logits[0, 2]

    for each in x.split(1):
        values = torch.linalg.eigvalsh(torch.autograd.functional.hessian(difference, each).view(72, 72))
        assert -least.item() <= values[0].item() < values[-1].item() <= most.item()
    # Half the scale of the images, four times the curvature.
    half = curved_network(model, x[:1].float(), MEAN, STD / 2)
    assert hessian_bounds(half.layers, half.head.weight[:1])[1] == pytest.approx(
        4 * hessian_bounds(found.layers, found.head.weight[:1])[1], rel=1e-6
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.act, self.head = nn.Linear(72, 72), nn.Tanh(), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flatten(x, 1)
        return self.head(x + self.act(self.body(x)))


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (chain(nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3)), "ReLU has no known second derivative"),
        (chain(nn.Linear(72, 4), nn.Linear(4, 3)), "no activation is before 2"),
        (chain(nn.Tanh(), nn.Linear(72, 3)), "no affine layer is before the activation 1"),
        (chain(nn.Linear(72, 3), nn.Tanh()), "its last layer is not linear"),
        (chain(nn.Linear(72, 3)), "it has no hidden layer"),
        (Residual(), "its layers are not in a chain"),
        (nn.Sequential(nn.Conv2d(2, 1, 3, padding_mode="circular", padding=1), nn.Tanh()), "not plainly zero-padded"),
    ],
)
def test_other_networks_say_what_is_in_the_way(model: nn.Module, why: str) -> None:
    with pytest.raises(Unsuited, match=why):
        curved_network(model.eval(), torch.rand(1, 2, 6, 6), MEAN, STD)
