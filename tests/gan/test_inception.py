"""The features of Inception, with weights drawn at random: against torch-fidelity, and where the weights come from."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from normbench.data import fetch
from normbench.gan import inception, score
from normbench.gan.inception import Inception, read_weights
from normbench.gan.scores.classes import inception_score
from normbench.gan.scores.frechet import frechet
from normbench.gan.scores.kernel import kid
from normbench.gan.scores.moments import Moments
from normbench.gan.scores.neighbours import neighbours
from normbench.system.errors import UserError
from tests.support.archive_server import Server


class Unweighted(FeatureExtractorInceptionV3):
    """The network as it is drawn, which the constructor of torch-fidelity does not leave."""

    def load_state_dict(self, *given: object, **named: object) -> None:  # type: ignore[override]  # it loads nothing
        pass


@pytest.fixture(scope="module")
def weights() -> bytes:
    """A file of weights that keep the variance from layer to layer, so that images have features of their own."""
    torch.manual_seed(0)
    empty, content = io.BytesIO(), io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Unweighted("drawn", ["2048"], empty)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
    torch.save(network.state_dict(), content)
    return content.getvalue()


def pictures(count: int, seed: int, channels: int = 3) -> Tensor:
    """Smooth images uint8 (count, channels, 24, 24)."""
    coarse = torch.rand(count, channels, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (255 * nn.functional.interpolate(coarse, 24, mode="bilinear")).to(torch.uint8)


class Listed(Dataset[Tensor]):
    """Images one by one, as torch-fidelity takes them."""

    def __init__(self, pixels: Tensor):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


def of_all(network: Inception, pixels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        each = [network(block) for block in pixels.split(7)]
    features, logits = (torch.cat(parts) for parts in zip(*each, strict=True))
    return features, logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_numbers_of_torch_fidelity(weights: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(weights)
    real, fake = pictures(24, 0), pictures(24, 1) // 2
    expected = calculate_metrics(
        input1=Listed(fake),
        input2=Listed(real),
        cuda=False,
        fid=True,
        kid=True,
        isc=True,
        prc=True,
        kid_subset_size=12,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(path),
        cache=False,
        verbose=False,
    )
    network = Inception(weights, "here")
    genuine, _ = of_all(network, real)
    made, logits = of_all(network, fake)
    assert (genuine.dtype, genuine.shape, logits.shape) == (torch.float32, (24, 2048), (24, 1008))
    assert frechet(Moments.of(genuine), Moments.of(made)) == pytest.approx(
        expected["frechet_inception_distance"], rel=1e-4
    )
    mean, std = kid(made, genuine, 100, 12, 2020)
    assert mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4)
    # The parts are drawn by torch-fidelity in the same order.
    mean, std = inception_score(logits, 10, 2020)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-4)
    assert std == pytest.approx(expected["inception_score_std"], rel=1e-4)
    near = neighbours(made, genuine, 3, 5)
    assert near.precision == pytest.approx(expected["precision"], rel=1e-4)
    assert near.recall == pytest.approx(expected["recall"], rel=1e-4)
    # What the values are compared on is not trivial.
    assert expected["inception_score_mean"] > 1.01
    assert expected["frechet_inception_distance"] > 0


def test_grey_images_have_the_same_value_in_all_colours(weights: bytes) -> None:
    network, grey = Inception(weights, "here"), pictures(3, 0, channels=1)
    found, coloured = of_all(network, grey), of_all(network, grey.repeat(1, 3, 1, 1))
    for one, other in zip(found, coloured, strict=True):
        assert torch.equal(one, other)


def test_all_scores_but_the_fid_of_few_images(weights: bytes) -> None:
    """2,048 features need more images than a few."""
    network, pixels = Inception(weights, "here"), pictures(10, 0)
    real = score.of_real(network, pixels)
    assert (real.moments.count, real.kept.shape) == (10, (10, 2048))
    found = score.measure(network, score.Reference(real.moments), real.kept, [pictures(12, 1)], 12, 10)
    wanted = "10 real images cannot determine the covariance of 2048 features, which needs 2049 or more"
    assert found.missing == dict.fromkeys(("fid", "fid_sampling", "fid_infinity", "fid_infinity_sampling"), wanted)
    assert set(found.columns) == {*score.NAMES} - set(found.missing)


# Where the weights come from


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_official_weights_are_downloaded_once_and_compared(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NORMBENCH_MIRROR", raising=False)
    content = b"weights" * 1000
    sha256 = hashlib.sha256(content).hexdigest()
    official = fetch.Archive("w.pth", sha256, (f"{server.address}gone.pth", f"{server.address}w.pth"), len(content))
    monkeypatch.setattr(inception, "OFFICIAL", official)
    server.contents["w.pth"] = content
    assert read_weights(None, sha256, tmp_path) == content
    asked = len(server.log)
    assert read_weights(None, sha256, tmp_path) == content
    assert len(server.log) == asked
    # Another file under that name is not taken.
    (tmp_path / "w.pth").unlink()
    server.contents["w.pth"] = b"forged!" * 1000
    with pytest.raises(UserError) as found:
        read_weights(None, sha256, tmp_path)
    text = "\n".join(found.value.args)
    assert text.startswith("the Inception network: no copy of")
    assert f"w.pth  (sha256 {sha256})" in text
    assert "another file" in text
    assert "gan_evaluation.inception_weights" in text
    assert "dataset" not in text
    assert not (tmp_path / "w.pth").exists()


def test_the_official_weights_have_the_sha256_that_their_name_begins() -> None:
    assert inception.OFFICIAL.name.endswith(f"-{inception.OFFICIAL.checksum[:8]}.pth")
    assert len(inception.OFFICIAL.checksum) == 64
    assert inception.OFFICIAL.shown.startswith("sha256 ")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"mine")
    sha256 = hashlib.sha256(b"mine").hexdigest()
    assert read_weights(str(path), sha256, tmp_path) == b"mine"
    path.write_bytes(b"other")
    with pytest.raises(UserError, match=f"^{path}: has changed since params.yaml was resolved"):
        read_weights(str(path), sha256, tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"^{path}: cannot be read: No such file"):
        read_weights(str(path), sha256, tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


def saved(value: object) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no weights", pickle.dumps(Harmful(), 2), saved(Harmful()), saved({}), saved({"fc.weight": torch.zeros(3)})],
)
def test_files_that_are_no_weights_are_refused_and_not_executed(content: bytes) -> None:
    with pytest.raises(
        UserError, match=r"^mine\.pth: no weights of the Inception network of torch-fidelity: "
    ) as found:
        Inception(content, "mine.pth")
    assert len(found.value.args) == 1
    assert "\n" not in found.value.args[0]
