"""The score `certificates` on networks whose distances to the boundary are known, and what it must refuse."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from normbench.data.batches import Images, on_device
from normbench.evaluation import certificates as module
from normbench.evaluation.certificates import Certificates, Results, certificates, check_order
from normbench.evaluation.layer_bounds import layer_bounds
from normbench.methods import registry
from normbench.models import registry as models
from normbench.spectral import CurvedLayer, derivatives_of, hessian_bounds, norm_of
from normbench.system.errors import UserError
from tests.support.shared import mnist_test_images
from tests.support.subjects import subject

UPPER = ("r", "s", "t", "u", "fantastic_four", "grid", "certificate")


def pictures(count: int = 60, channels: int = 1) -> Images:
    """Images far from black and white, so that no attack ends at these, with labels of three classes."""
    draws = np.random.default_rng(0)
    pixels = torch.from_numpy(draws.integers(90, 165, (count, 6, 6, channels), dtype=np.uint8))
    values = np.linspace(0.2, 0.4, channels).tolist()
    return on_device(pixels, torch.from_numpy(draws.integers(0, 3, count)), values, values, "cpu")


def labelled(model: nn.Module, images: Images, wrong: int = 0) -> Images:
    """The images with the network's own classes as labels, but for the first ones, which are wrong."""
    labels = model(images.normalized(images.pixels)).argmax(1)
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return Images(images.pixels, labels, images.mean, images.std)


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with torch.no_grad():
        model[1].bias -= model(torch.full((1, 1, 6, 6), 1.5))[0]
    return model.eval().requires_grad_(False)


def settings(**changed: Any) -> Certificates:
    return Certificates.model_validate({"examples": 40, "radii_l2": [0.05, 0.2, 0.4], "steps": 30} | changed)


def test_radii_of_a_linear_classifier_are_its_distances_and_the_attack_reaches_them() -> None:
    model = linear()
    images = labelled(model, pictures(), wrong=20)
    found = certificates(subject(model, images), settings())
    entry, arrays = found.metrics["certificates"], found.predictions
    x = images.pixels[arrays["certificate_index"].astype(np.int64)].double() / 255
    labels = images.labels.numpy()[arrays["certificate_index"]]
    weight = model[1].weight.double() / 0.2
    logits = x.flatten(1) @ weight.T + model[1].bias.double() - weight.sum(1) * 0.2
    own = torch.from_numpy(labels)[:, None]
    gaps = logits.gather(1, own) - logits
    lengths = (weight[own[:, 0]][:, None] - weight).norm(dim=2)
    distances = (gaps / lengths).nan_to_num(math.inf).amin(1).clamp_min(0).numpy()
    # A little below the exact distance, by the slack of rounding.
    assert 0 < entry["slack"] < 1e-4
    assert arrays["certificate_lipschitz"] == pytest.approx(
        distances, abs=2 * entry["slack"] / lengths[lengths > 0].min().item()
    )
    assert (arrays["certificate_lipschitz"] <= distances).all()
    right = arrays["certificate_clean"] == labels
    assert entry["clean"] == right.mean() < 1
    assert (arrays["certificate_lipschitz"][~right] == 0).all()
    for place, each in enumerate(entry["at"]):
        assert each["lipschitz"] == (arrays["certificate_lipschitz"] >= each["radius"]).mean()
        under = arrays["certificate_pgd"][place]
        assert each["pgd"] == (under == labels).mean()
        # Of a linear classifier the attack is the worst case, where it has not only just reached it.
        clear = np.abs(distances - each["radius"]) > 0.01
        assert ((under == labels) == (distances > each["radius"]))[clear].all()
    shares = [each["pgd"] for each in entry["at"]]
    assert entry["clean"] > shares[0] > shares[2]
    assert entry["no_curvature"] == "it has no hidden layer"
    assert entry["curvature_mean"] is None
    assert entry["curve"]["curvature"] is None
    assert entry["curve"]["radius"] == pytest.approx(np.linspace(0, 0.6, 51))
    assert entry["curve"]["lipschitz"][0] == right.mean()
    assert entry["curve"]["lipschitz"] == sorted(entry["curve"]["lipschitz"], reverse=True)
    Results.model_validate(found.metrics)


def smooth(channels: int = 2) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(36, 8), nn.Softplus())
    model.append(nn.Linear(8, 3))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)
    x = torch.randn(200, channels, 6, 6)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)
    return model.eval().requires_grad_(False)


def test_a_smooth_network_has_both_certificates() -> None:
    """With the same seed everything is the same; each image is certified, then attacked, then clean."""
    model = smooth()
    images = labelled(model, pictures(channels=2), wrong=10)
    found = certificates(subject(model, images), settings(examples=100))
    entry, arrays = found.metrics["certificates"], found.predictions
    labels = images.labels.numpy()[arrays["certificate_index"]]
    assert entry["examples"] == len(labels) == 60
    assert sorted(arrays["certificate_index"]) == list(range(60))
    for name in ("lipschitz", "curvature"):
        radii = arrays[f"certificate_{name}"]
        assert radii.dtype == np.float64
        assert 0 < entry[f"{name}_mean"] == pytest.approx(radii.mean())
        for place, each in enumerate(entry["at"]):
            robust = arrays["certificate_pgd"][place] == labels
            assert (robust | (radii < each["radius"])).all()
            assert each[name] <= each["pgd"] <= entry["clean"] == 50 / 60
    assert "no_curvature" not in entry
    again = certificates(subject(model, images), settings(examples=100))
    assert again.metrics == found.metrics
    assert all((again.predictions[name] == values).all() for name, values in arrays.items())


def test_digits_of_mnist_by_a_network_of_little_curvature() -> None:
    """Trained with the bound on its curvature as a penalty: that proves more than Lipschitz constants, and PGD fits."""
    pixels, labels = mnist_test_images()
    images = on_device(torch.from_numpy(pixels[:3000]), torch.from_numpy(labels[:3000]), [0.0], [1.0], "cpu")
    torch.manual_seed(0)
    first, second, head = nn.Linear(784, 48), nn.Linear(48, 48), nn.Linear(48, 10)
    model = nn.Sequential(nn.Flatten(), first, nn.Softplus(), second, nn.Softplus(), head)
    known, optimizer = derivatives_of(nn.Softplus()), torch.optim.Adam(model.parameters(), 3e-3)
    assert known is not None
    for step in range(250):
        chosen = torch.arange(64 * step, 64 * step + 64) % 2900 + 100
        x, y = images.normalized(images.pixels[chosen]), images.labels[chosen]
        layers = [CurvedLayer(layer.weight, norm_of(layer.weight), known) for layer in (first, second)]
        least, most = hessian_bounds(layers, head.weight[y] - head.weight[(y + 1 + step % 9) % 10])
        loss = nn.functional.cross_entropy(model(x), y) + 5e-3 * torch.maximum(least, most).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    unseen = Images(images.pixels[:100], images.labels[:100], images.mean, images.std)
    entry = certificates(subject(model, unseen), settings(examples=100, radii_l2=[0.25, 0.5, 1.0])).metrics[
        "certificates"
    ]
    assert entry["clean"] > 0.75
    assert entry["curvature_mean"] > 1.5 * entry["lipschitz_mean"] > 0
    assert entry["at"][0]["curvature"] > 0.4
    assert entry["at"][2]["pgd"] < entry["clean"] - 0.1


def test_without_steps_there_is_no_attack() -> None:
    model = linear()
    found = certificates(subject(model, labelled(model, pictures())), settings(steps=0))
    assert "certificate_pgd" not in found.predictions
    assert [each["pgd"] for each in found.metrics["certificates"]["at"]] == [None] * 3
    Results.model_validate(found.metrics)


def test_a_certificate_that_an_attack_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Lipschitz constant that is too small by a factor of three."""
    model = linear()
    given = subject(model, labelled(model, pictures()))
    honest = module.margin_radius
    monkeypatch.setattr(module, "margin_radius", lambda logits, labels, bound: honest(logits, labels, bound / 3))
    with pytest.raises(UserError, match=r"^image \d+: certified by lipschitz up to [\d.]+, but PGD changes its class"):
        certificates(given, settings())


def test_each_violated_order_names_its_image() -> None:
    chosen, labels = torch.tensor([7, 4, 9]), torch.tensor([0, 1, 2])
    right = torch.tensor([True, True, False])
    under = torch.tensor([[0, 1, 0], [0, 0, 0]])
    radii = torch.tensor([0.2, 0.1, 0.0], dtype=torch.float64)

    def checked(**changed: Tensor) -> None:
        given = {"right": right, "under": under, "radii": radii} | changed
        check_order(chosen, labels, given["right"], [0.1, 0.2], given["under"], {"curvature": given["radii"]})

    checked()
    for changed, message in (
        ({"radii": radii + 0.15}, "image 9: certified by curvature, but its class is wrong without an attack"),
        ({"radii": 2 * radii}, "image 4: certified by curvature up to 0.2, but PGD changes its class within 0.2"),
        ({"under": labels.expand(2, 3)}, "image 9: right under PGD, but not without an attack"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            checked(**changed)


@pytest.mark.parametrize(("value", "message"), [([], "at least 1 item"), ([0.1, -0.2], "greater than 0")])
def test_radii_are_positive(value: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(radii_l2=value)


def test_logits_that_are_not_finite_certify_nothing() -> None:
    model = linear()
    images = labelled(model, pictures())
    with torch.no_grad():
        model[1].weight[0, 0] = math.inf
    entry = certificates(subject(model, images), settings(steps=2)).metrics["certificates"]
    assert entry["no_lipschitz"] == entry["no_curvature"] == "its logits are not finite"
    assert (entry["slack"], entry["lipschitz_mean"]) == (None, None)


def test_bounds_of_layers_against_dense_matrices() -> None:
    """Plain, strided, grouped and 1x1 convolutions, of which the circular one is not that with zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, (3, 2), padding=(1, 0), groups=2),
        nn.Conv2d(6, 3, 3, 2, 1),
        nn.Conv2d(3, 4, 1),
        nn.Flatten(),
        nn.Linear(48, 3),
    ).double()
    for _ in range(3):
        model(2 * torch.randn(8, 2, 6, 8, dtype=torch.float64))
    model.eval()
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    found = layer_bounds(model, x)
    kinds = {"0": "3x3", "3": "3x2", "4": "3x3 / 2", "5": "1x1", "7": "linear"}
    assert {each["name"]: each["kernel"] for each in found} == kinds
    assert found[-1]["certificate"] == pytest.approx(torch.linalg.matrix_norm(model[7].weight, 2).item())
    assert all(found[-1][name] is None for name in (*UPPER[:-1], "gram", "circular", "zero_padded"))
    sizes = {"0": (2, 6, 8), "3": (4, 6, 8), "4": (6, 6, 7), "5": (3, 3, 4)}
    for each in found[:-1]:
        layer = model.get_submodule(each["name"])
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.detach()
        if each["name"] == "0":
            norm = model[1]
            weight = weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).view(-1, 1, 1, 1)
        where: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups}
        zero = torch.zeros(1, *sizes[each["name"]], dtype=torch.float64)

        def dense(function: Any, zero: Tensor = zero) -> float:
            matrix = torch.autograd.functional.jacobian(function, zero).reshape(-1, zero.numel())
            return torch.linalg.matrix_norm(matrix, 2).item()

        exact = dense(lambda x, weight=weight, where=where: nn.functional.conv2d(x, weight, **where))
        assert each["zero_padded"] == pytest.approx(exact, rel=1e-2)
        assert each["zero_padded"] <= exact * (1 + 1e-9)
        assert all(each[name] >= exact * (1 - 1e-9) for name in UPPER)
        assert each["fantastic_four"] <= min(each[name] for name in "rstu") * (1 + 1e-9)
        assert each["certificate"] <= each["fantastic_four"] * (1 + 1e-9)
        if layer.stride == (1, 1):
            height, width = (taps - 1 for taps in layer.kernel_size)

            def around(
                x: Tensor, weight: Tensor = weight, sides: Any = (width, height), groups: int = layer.groups
            ) -> Tensor:
                return nn.functional.conv2d(
                    nn.functional.pad(x, (sides[0], 0, sides[1], 0), mode="circular"), weight, groups=groups
                )

            assert each["circular"] == pytest.approx(dense(around), rel=1e-9)
        assert each["circular"] <= each["gram"] * (1 + 1e-9) <= 1.1 * each["circular"]
        assert all(each[name] >= each["circular"] * (1 - 1e-9) for name in UPPER)


def test_a_network_of_the_library() -> None:
    """A residual network has a Lipschitz certificate, a norm of its own statistics has none."""
    for method, bounded in (("batch_norm", True), ("group_norm", False)):
        torch.manual_seed(0)
        model = models.classifier("resnet8", {"width": 2}, registry.build(method, {}), 1, 3)
        for _ in range(3):
            model(torch.randn(16, 1, 6, 6))
        model.eval()
        images = labelled(model, pictures())
        found = certificates(subject(model, images), settings(steps=3)).metrics
        assert ("no_lipschitz" not in found["certificates"]) == bounded
        assert (found["certificates"]["lipschitz_mean"] is not None) == bounded
        assert len(found["layer_bounds"]) == 10
