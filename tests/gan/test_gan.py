"""GANs: the networks, the loop, what a run leaves, and its scores against other code."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from normbench.data import prepared
from normbench.data.batches import Images, on_device
from normbench.data.bound import Bound
from normbench.gan import loop, score
from normbench.gan.evaluation import BOUND, Scoring
from normbench.gan.losses import Labelled
from normbench.gan.recipe import GanRecipe
from normbench.gan.scores.frechet import frechet
from normbench.gan.scores.moments import Moments
from normbench.gan.task import GanTask
from normbench.gan.trainer import sample
from normbench.methods import registry as methods
from normbench.methods.base import START, ConvSpec, Method, Moment
from normbench.methods.batch_norm import BatchNorm
from normbench.methods.spectral_norm import SpectralNorm
from normbench.models.build import build_gan
from normbench.runs import generation, recomputed, store
from normbench.runs.networks import trained_generator
from normbench.runs.record import Record
from normbench.runs.run import Kind
from normbench.suite import code, real
from normbench.suite import fid as fid_stage
from normbench.suite.suite import Suite
from normbench.suite.train import train_gans
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.system.seeds import derive
from tests.support.prepared import by_hand
from tests.support.subjects import bound, gan_task, variant
from tests.support.subjects import gan_recipe as recipe

SIZE, CLASSES = 8, 4


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def quadrants(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images uint8 (count, 8, 8, 1) with one bright quadrant, and which of the four it is."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = random.integers(0, 40, (count, SIZE, SIZE, 1))
    for image, label in zip(images, labels, strict=True):
        top, left = 4 * (label // 2), 4 * (label % 2)
        image[top : top + 4, left : left + 4] += random.integers(120, 200)
    return images.astype(np.uint8), labels.astype(np.int64)


def quadrant_images(count: int = 256, seed: int = 0) -> Images:
    pixels, labels = (torch.from_numpy(array) for array in quadrants(count, seed))
    return on_device(pixels, labels, [0.25], [0.25], "cpu")


def built(method: Method, seed: int = 0, latent: int = 8) -> tuple[nn.Module, nn.Module]:
    return build_gan("sngan", {"width": 8}, method, 1, SIZE, latent, seed)


def fitted(
    generator: nn.Module,
    discriminator: nn.Module,
    method: Method,
    settings: GanRecipe,
    images: Images | None = None,
    report: loop.Report = lambda *_: None,
) -> loop.Outcome:
    """What the training of a GAN gives, by default on 256 images."""
    images = quadrant_images() if images is None else images
    return loop.fit(generator, discriminator, images, loop.Setting(method, settings, 0), report)


# The networks


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (12, 3), (16, 1), (28, 1), (32, 3), (36, 1), (48, 3)])
def test_shapes_and_range(size: int, channels: int) -> None:
    generator, discriminator = build_gan("sngan", {"width": 2}, BatchNorm(), channels, size, 5)
    images = generator(10 * torch.randn(3, 5))
    assert images.shape == (3, channels, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)


def test_channels_at_32_are_those_of_the_paper() -> None:
    generator, discriminator = build_gan("sngan", {}, SpectralNorm(batch_norm=False), 3, 32, 128)
    convs = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [64, 64, 128, 128, 256, 256, 512]
    assert [conv.stride[0] for conv in convs] == [1, 2, 1, 2, 1, 2, 1]
    assert discriminator.head.in_features == 4 * 4 * 512
    doubled = [module for module in generator.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert [layer.out_channels for layer in doubled] == [256, 128, 64]
    assert generator.dense.out_features == 4 * 4 * 512


@pytest.mark.parametrize("name", methods.names())
def test_every_method_trains_in_the_discriminator_alone(name: str) -> None:
    method = methods.build(name, {})
    generator, discriminator = built(method)
    plain, _ = built(BatchNorm())
    assert all(torch.equal(a, b) for a, b in zip(generator.parameters(), plain.parameters(), strict=True))
    outcome = fitted(generator, discriminator, method, recipe(iterations=2), quadrant_images(64))
    assert outcome.diverged is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in discriminator.parameters() if p.requires_grad)


@dataclass(frozen=True)
class Recorder(BatchNorm):
    """Notes the roles that it is asked for, in `roles`."""

    roles = []  # shared on purpose, and no option of the method

    def conv(self, spec: ConvSpec) -> nn.Module:
        self.roles.append(spec.role)
        return super().conv(spec)


def test_roles() -> None:
    Recorder.roles.clear()
    build_gan("sngan", {"width": 2}, Recorder(), 1, 16, 5)
    assert [(r.place, r.stage, r.last_stage) for r in Recorder.roles] == [
        ("stem", 0, False),
        ("body", 1, False),
        ("body", 1, False),
        ("body", 2, True),
        ("body", 2, True),
    ]


# The loop


class Mean(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))


@dataclass(frozen=True)
class Taxed(BatchNorm):
    def penalty(self, model: nn.Module, moment: Moment = START) -> Tensor:
        return torch.tensor(0.25)


def test_hinge_loss_and_penalty() -> None:
    real = torch.tensor([0.5, 2.0, -1.0])[:, None, None, None]  # 1 - x: 0.5, 0 (cut off), 2
    fake = torch.tensor([-3.0, 0.0, 1.0])[:, None, None, None]  # 1 + x: 0 (cut off), 1, 2
    given = Labelled(real), Labelled(fake), recipe()
    assert loop.discriminator_loss(Mean(), BatchNorm(), *given).item() == pytest.approx(2.5 / 3 + 3 / 3)
    assert loop.discriminator_loss(Mean(), Taxed(), *given).item() == pytest.approx(2.5 / 3 + 1 + 0.25)


def test_real_batches_hold_every_image_once_an_epoch() -> None:
    images = quadrant_images(64)
    batches = loop.real_batches(images, 16, seed=3)
    epochs = [torch.cat([next(batches).images for _ in range(4)]) for _ in range(2)]
    expected = sorted((images.pixels.float() / 127.5 - 1).flatten(1).tolist())
    for epoch in epochs:
        np.testing.assert_allclose(sorted(epoch.flatten(1).tolist()), expected, atol=1e-6)
    assert not torch.equal(epochs[0], epochs[1])


def test_fewer_images_than_a_batch() -> None:
    batches = loop.real_batches(quadrant_images(8), 16, seed=3)
    assert [len(next(batches).images) for _ in range(3)] == [8, 8, 8]


def test_moving_average() -> None:
    generator, _ = built(BatchNorm())
    average, _ = built(BatchNorm(), seed=1)
    expected = {key: value.double().clone() for key, value in average.state_dict().items()}
    for step, decay in [(0, 0.0), (1, 1 / 11), (2, 2 / 12), (1000, 0.9)]:
        generator.train()
        generator(torch.randn(4, 8))  # moves the running statistics
        loop.update(average, generator, 0.9, step)
        for key, value in generator.state_dict().items():
            whole = not value.is_floating_point()
            expected[key] = value.double() if whole else decay * expected[key] + (1 - decay) * value.double()
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-6)


def test_without_an_average_it_is_the_generator_itself() -> None:
    generator, discriminator = built(BatchNorm())
    outcome = fitted(generator, discriminator, BatchNorm(), recipe(average=0.0))
    for key, value in generator.state_dict().items():
        torch.testing.assert_close(outcome.average.state_dict()[key], value)


def test_steps_history_and_reports() -> None:
    calls = []
    generator, discriminator = built(BatchNorm())
    settings = recipe(iterations=40, discriminator_steps=2)
    outcome = fitted(generator, discriminator, BatchNorm(), settings, report=lambda *report: calls.append(report))
    assert calls[-1][0] == 40
    assert outcome.history[-1]["iteration"] == 40
    assert 15 <= len(outcome.history) <= 21
    assert len(outcome.rates) == 40
    seen = {m.num_batches_tracked.item() for m in discriminator.modules() if isinstance(m, nn.BatchNorm2d)}
    assert seen == {40 * (2 * 2 + 1)}  # real and generated in each discriminator step, generated in each generator step


def projected(pixels: Tensor) -> Tensor:
    """Twelve fixed random projections of images."""
    directions = torch.randn(pixels[0].numel(), 12, generator=torch.Generator().manual_seed(0)).double()
    return (pixels.flatten(1).double() / 255) @ directions


def test_the_generator_comes_nearer_to_the_data() -> None:
    method, images = SpectralNorm(batch_norm=False), quadrant_images()
    settings = recipe(iterations=50, batch_size=32, average=0.9)
    generator, discriminator = built(method)
    reference = Moments.of(projected(images.pixels))
    before = frechet(reference, Moments.of(projected(sample(generator.eval(), 8, 256, 1, "cpu"))))
    outcome = fitted(generator, discriminator, method, settings, images)
    after = frechet(reference, Moments.of(projected(sample(outcome.average, 8, 256, 1, "cpu"))))
    assert after < before / 4


def noise_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(5)).to(torch.uint8)


# What the stages leave


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A resolved suite with one GAN task on four kinds of images, two variants and two seeds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.setenv("NORMBENCH_DEVICE", "cpu")
    folder = layout.DATA / "quadrants"
    folder.mkdir(parents=True)
    arrays = {}
    for split, count in (("train", 256), ("test", 128)):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = quadrants(count, seed=count)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    facts: dict[str, Any] = {"name": "quadrants", "path": str(folder), "fingerprint": by_hand(arrays)}
    content = bound(train=256, test=128, mean=[0.25], std=[0.25], **facts)
    content.write(layout.BOUND / "small.json")
    write_task(recipe())
    suite = Suite(
        seeds=[3, 5], datasets=["quadrants"], tasks=[], variants=[], gan_tasks=["small"], gan_variants=["batch_norm"]
    )
    suite.write(layout.RESOLVED / "suite.json")
    files.write_json(layout.RESOLVED / "code/gan.json", {"digest": code.training(Kind.GAN)})
    files.write_json(layout.RESOLVED / "code/real.json", {"digest": "0" * 64})
    Scoring().write(layout.RESOLVED / "gan_evaluation.json")
    for one in (variant("batch_norm"), variant("spectral_norm", batch_norm=False)):
        whole = one.model_copy(update={"method_code": code.method(one.method)})
        whole.write(layout.RESOLVED / f"variants/{one.name}.json")
    return tmp_path


def task_of(settings: GanRecipe) -> GanTask:
    return gan_task(dataset="quadrants", seeds=[3, 5], recipe=settings, model_code=code.model("sngan"))


def write_task(settings: GanRecipe) -> None:
    task_of(settings).write(layout.RESOLVED / "gan_tasks/small.json")


def trained(name: str, seed: int) -> Path:
    return layout.GENERATED / "small" / name / str(seed)


def test_a_run_leaves_record_generator_and_samples(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_gans("small", "spectral_norm")
    first = {path.name: path.read_bytes() for path in trained("spectral_norm", 3).iterdir()}
    named = ("generator.pt", "discriminator.pt", "samples.png", "film.png", "history.npz")
    assert set(first) == {"record.json", *named}
    record = files.read_json(trained("spectral_norm", 3) / "record.json")
    assert (record["kind"], record["seed"], record["status"], record["diverged"]) == ("gan", 3, "finished", None)
    assert record["metrics"]["history"][-1]["iteration"] == 6
    cost = record["cost"]
    assert cost["images_per_second"] > 0
    assert cost["peak_memory_bytes"] > 4 * 3 * cost["parameters"]  # the weights and Adam's two moments
    _, discriminator = built(SpectralNorm(batch_norm=False))
    assert cost["parameters"] == sum(p.numel() for p in discriminator.parameters())
    assert record["provenance"]["variant"]["options"] == {"batch_norm": False}
    with Image.open(trained("spectral_norm", 3) / "samples.png") as grid:
        assert (grid.mode, grid.size) == ("L", (8 * 66, 8 * 66))
    with Image.open(trained("spectral_norm", 3) / "film.png") as film:
        assert (film.mode, film.size) == ("L", (6 * 66, 8 * 66))  # a column for each iteration
    for entry in record["metrics"]["history"]:
        assert 0 <= entry["diversity"] < 2
        assert {"layers.0", "head"} <= set(entry["spectral_norms"])
    other = torch.load(trained("spectral_norm", 5) / "generator.pt", weights_only=True)
    assert not torch.equal(
        other["dense.weight"], torch.load(trained("spectral_norm", 3) / "generator.pt")["dense.weight"]
    )

    # Again, with an empty store: the same in every byte, but for the record's times.
    monkeypatch.setenv("NORMBENCH_STORE", str(project / "other"))
    train_gans("small", "spectral_norm")
    for name in named:
        assert (trained("spectral_norm", 3) / name).read_bytes() == first[name]

    # And from the store, without training.
    monkeypatch.setattr(generation, "train", lambda *_: pytest.fail("trained again"))
    train_gans("small", "spectral_norm")
    assert (trained("spectral_norm", 5) / "record.json").is_file()


def test_every_seed_starts_from_weights_of_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts, fit = [], loop.fit

    def noting(generator: nn.Module, *others: Any) -> loop.Outcome:
        starts.append(generator.dense.weight.detach().clone())
        return fit(generator, *others)

    monkeypatch.setattr(loop, "fit", noting)
    write_task(recipe(iterations=1))
    train_gans("small", "batch_norm")
    assert len(starts) == 2
    assert not torch.equal(starts[0], starts[1])


def test_samples_png_shows_the_images_in_rows(tmp_path: Path) -> None:
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    images[9, 0] = 255  # second row, second column, red
    generation.save_grid(images, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert (grid.mode, grid.size) == ("RGB", (8 * 66, 8 * 66))
        assert grid.getpixel((66 + 33, 66 + 33)) == (255, 0, 0)
        assert grid.getpixel((33, 66 + 33)) == (0, 0, 0)
        assert grid.getpixel((0, 0)) == (128, 128, 128)


def test_the_film_has_a_row_for_each_noise(tmp_path: Path) -> None:
    frames = [torch.zeros(8, 1, 32, 32, dtype=torch.uint8) for _ in range(3)]
    frames[2][1] = 255  # the third time, the second noise
    generation.save_grid(generation.film(frames), tmp_path / "film.png", 3)
    with Image.open(tmp_path / "film.png") as film:
        assert film.size == generation.film_size(32, 3) == (3 * 66, 8 * 66)
        bright = [film.getpixel((66 * column + 33, 66 * row + 33)) == 255 for row in range(8) for column in range(3)]
    assert [place for place, value in enumerate(bright) if value] == [1 * 3 + 2]


def test_a_film_that_is_not_that_of_the_record(project: Path) -> None:
    write_task(recipe(iterations=2))
    train_gans("small", "batch_norm")
    folder = trained("batch_norm", 3)
    record = Record.read(folder / "record.json")
    recomputed.check(record, folder, folder)
    Image.new("L", (5 * 66, 8 * 66)).save(folder / "film.png")
    with pytest.raises(UserError, match=r"film.png: is 330 x 528 L, must be 132 x 528 L"):
        recomputed.check(record, folder, folder)


def test_the_history_has_the_samples_of_the_film(project: Path) -> None:
    write_task(recipe(iterations=2))
    train_gans("small", "batch_norm")
    folder = trained("batch_norm", 3)
    samples = fid_stage.history(Record.read(folder / "record.json"), folder)
    assert samples.shape == (2, loop.SHOWN, 1, SIZE, SIZE)
    generator = trained_generator(Record.read(folder / "record.json"), folder, "cpu")
    assert torch.equal(samples[-1], sample(generator, 8, loop.SHOWN, derive(0, "samples"), "cpu"))
    generation.save_grid(generation.film(list(samples)), folder / "again.png", 2)
    assert (folder / "again.png").read_bytes() == (folder / "film.png").read_bytes()


def test_a_discriminator_that_is_not_that_of_the_record(project: Path) -> None:
    write_task(recipe(iterations=2))
    train_gans("small", "batch_norm")
    folder = trained("batch_norm", 3)
    record = Record.read(folder / "record.json")
    state = torch.load(folder / "discriminator.pt", weights_only=True)
    torch.save(state | {"head.weight": state["head.weight"][:, 1:].clone()}, folder / "discriminator.pt")
    with pytest.raises(
        UserError, match=r"discriminator.pt: head.weight is float32 \(1, .*, in the network of the record"
    ):
        recomputed.check(record, folder, folder)


def test_a_run_that_collapsed_is_recorded(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is finished and scored; the line in which it ends says so. One image for all noise gives no diversity."""
    write_task(recipe(iterations=2, lr=1e-9, average=0.0))  # an untrained generator, whose images are all but grey
    train_gans("small", "batch_norm")
    record = files.read_json(trained("batch_norm", 3) / "record.json")
    assert (record["status"], record["metrics"]["collapsed"]) == ("finished", {"step": 1})
    assert "collapsed at iteration 1: losses" in capsys.readouterr().err


def scored(name: str) -> Path:
    """The folder of the records of a variant, after the stages `real` and `fid`."""
    real.measure("small")
    fid_stage.score("small", name)
    return layout.SCORES / "gan/small" / name


def test_scores(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("batch_norm", "spectral_norm"):
        train_gans("small", name)
        scores = scored(name)
    assert capsys.readouterr().err.count("train the features of quadrants") == 1
    endings = (".json", ".png", ".film.png")
    assert {path.name for path in scores.iterdir()} == {f"{seed}{ending}" for seed in (3, 5) for ending in endings}
    for name, of_run in (("3.png", "samples.png"), ("3.film.png", "film.png")):
        assert (scores / name).read_bytes() == (trained("spectral_norm", 3) / of_run).read_bytes()
    record, before = files.read_json(scores / "3.json"), files.read_json(trained("spectral_norm", 3) / "record.json")
    about = record["metrics"].pop("features")["classifier"]
    assert (about["samples"], about["references"], about["dimensions"]) == (256, 256, 64)
    assert (about["compared"], about["kid_subset"], about["resize"]) == ([256, 256], 128, "none")
    weights = layout.REAL / "small/classifier/weights.pt"
    assert about["sha256"] == files.sha256(weights) == files.sha256(store.folder(about["run"]) / "weights.pt")
    assert about["test_accuracy"] > 0.9
    found, columns = record["metrics"].pop("fid"), record["metrics"].pop("columns")
    over_time = record["metrics"].pop("over_time")
    assert record["metrics"].pop("missing") == {}
    assert record["cost"]["seconds"].pop("fid") > 0
    assert record == before
    assert set(columns) == {
        *("fid_sampling", "fid_infinity", "fid_infinity_sampling", "classifier_kid", "classifier_kid_sampling"),
        *("classifier_score", "classifier_score_sampling", "classifier_precision", "classifier_recall"),
        *("classifier_density", "classifier_coverage", "discriminator_bound"),
    }

    # The same from the record's generator and the formulas, at another batch size.
    content = Bound.read(layout.BOUND / "small.json")
    data = prepared.load(content, "cpu")
    network, _ = real.extractor("classifier", content, Scoring(), data, layout.REAL / "small/classifier")
    folder = trained("spectral_norm", 3)
    generator = trained_generator(Record.read(folder / "record.json"), folder, "cpu")
    fake = sample(generator, 8, 256, derive(0, "fid", 3, 0), "cpu")
    with torch.no_grad():
        each = [[network(block) for block in x.split(31)] for x in (data.train.pixels, fake)]
    genuine, made = (torch.cat([features for features, _ in one]) for one in each)
    logits = torch.cat([logits for _, logits in each[1]])
    assert found == pytest.approx(by_formula(genuine.double().numpy(), made.double().numpy()), rel=1e-4)
    low, high = about["intervals"]["fid"]
    assert low < found < high
    assert (high - low) / 2 == pytest.approx(1.96 * columns["fid_sampling"], rel=1e-3)
    kid = kid_features_to_metric(made, genuine, kid_subset_size=128, verbose=False)
    assert columns["classifier_kid"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-4)
    assert list(over_time) == ["classifier_kid"]
    shown = fid_stage.history(Record.read(folder / "record.json"), folder)
    with torch.no_grad():
        expected = [whole_kid(network(each)[0].double().numpy(), genuine.double().numpy()) for each in shown]
    assert over_time["classifier_kid"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(expected) == 6
    near = prc_features_to_metric(made, genuine, verbose=False)
    assert columns["classifier_precision"] == pytest.approx(near["precision"], abs=0.01)
    assert columns["classifier_recall"] == pytest.approx(near["recall"], abs=0.01)
    certain = isc_features_to_metric(logits)
    assert columns["classifier_score"] == pytest.approx(certain["inception_score_mean"], rel=1e-4)

    # What the distance should say of images that are known.
    reference = score.of_real(network, data.train.pixels)
    apart = [Moments.of(network(x)[0].detach()) for x in (data.test.pixels, noise_images(256))]
    test, noise = (frechet(reference.moments, each) for each in apart)
    assert test < noise / 50
    assert test < found


def whole_kid(fake: np.ndarray, real: np.ndarray) -> float:
    """The estimate without bias, from all pairs of images."""
    (fakes, reals, mixed) = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((fake, fake), (real, real), (fake, real)))
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (fakes, reals)]
    return float(sum(within) - 2 * mixed.mean())


def by_formula(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two normal distributions fitted to features (N, d), by the eigenvalues of the product itself."""
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def test_a_second_task_on_the_same_images_takes_what_the_first_measured(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.measure("small")
    first = layout.REAL / "small"
    Bound.read(layout.BOUND / "small.json").write(layout.BOUND / "other.json")
    other = task_of(recipe(iterations=3)).model_copy(update={"name": "other"})
    other.write(layout.RESOLVED / "gan_tasks/other.json")
    with monkeypatch.context() as patched:
        patched.setattr(score, "of_real", lambda *_: pytest.fail("measured again"))
        real.measure("other")
    files_of = {path.relative_to(first): path.read_bytes() for path in first.rglob("*.*")}
    assert {
        p.relative_to(layout.REAL / "other"): p.read_bytes() for p in (layout.REAL / "other").rglob("*.*")
    } == files_of
    # Not with another number of threads, by which the last digits may differ, and not if the first is damaged.
    called: list[int] = []
    measured = score.of_real
    monkeypatch.setattr(score, "of_real", lambda *given: (called.append(1), measured(*given))[1])
    recipe_of = recipe(iterations=3, threads=2)
    task_of(recipe_of).model_copy(update={"name": "other"}).write(layout.RESOLVED / "gan_tasks/other.json")
    real.measure("other")
    other.write(layout.RESOLVED / "gan_tasks/other.json")
    (first / "classifier/mean.npy").write_bytes(b"?")
    real.measure("other")
    assert len(called) == 2


@pytest.mark.parametrize("name", ["mean.npy", "features.npy", "weights.pt"])
def test_damaged_statistics_are_named(project: Path, name: str) -> None:
    train_gans("small", "batch_norm")
    real.measure("small")
    path = layout.REAL / "small/classifier" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: is damaged: its bytes are not those"):
        fid_stage.score("small", "batch_norm")
    assert not (layout.SCORES / "gan").exists()


def test_too_few_images_give_a_reason_and_no_fid(project: Path) -> None:
    write_task(recipe(iterations=1, fid_samples=2))
    train_gans("small", "batch_norm")
    record = Record.read(scored("batch_norm") / "3.json")
    assert record.metrics["fid"] is None
    missing = record.metrics["missing"]
    wanted = "2 generated images cannot determine the covariance of 64 features, which needs 65 or more"
    assert missing["fid"] == missing["fid_infinity"] == wanted
    assert "too few for random subsets" in missing["classifier_kid"]
    assert "nearest neighbours" in missing["classifier_recall"]
    assert "10 parts" in missing["classifier_score"]
    assert list(record.metrics["columns"]) == [BOUND]  # which hangs on no sample


def test_a_generator_of_one_image_has_a_reason_and_no_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_gans("small", "batch_norm")
    constant = torch.full((256, 1, SIZE, SIZE), 7, dtype=torch.uint8)
    monkeypatch.setattr(score, "sample", lambda *_: constant)
    record = Record.read(scored("batch_norm") / "3.json")
    assert list(record.metrics["columns"]) == [BOUND]  # which hangs on no sample
    assert set(record.metrics["missing"].values()) == {"the 256 generated images all have the same features"}
    assert record.metrics["missing"].keys() >= {"fid", "classifier_kid", "classifier_precision", "classifier_score"}


def test_without_a_bootstrap_there_is_no_interval(project: Path) -> None:
    Scoring(resamples=0).write(layout.RESOLVED / "gan_evaluation.json")
    train_gans("small", "batch_norm")
    record = Record.read(scored("batch_norm") / "3.json")
    assert record.metrics["fid"] > 0
    assert record.metrics["missing"]["fid_sampling"] == "`resamples` is 0 in `gan_evaluation`"
    assert record.metrics["features"]["classifier"]["intervals"] == {}


def test_how_many_samples_are_drawn() -> None:
    """Those of the recipe, else as many as there are images to compare with, at most 10,000."""
    assert score.sample_count(task_of(recipe(fid_samples=70)), 256) == 70
    assert [score.sample_count(task_of(recipe()), count) for count in (256, 50_000)] == [256, 10_000]


def test_the_number_of_samples_is_the_recipes(project: Path) -> None:
    write_task(recipe(iterations=1, fid_samples=70))
    train_gans("small", "batch_norm")
    record = files.read_json(scored("batch_norm") / "3.json")
    assert record["metrics"]["features"]["classifier"]["samples"] == 70


def test_the_device_is_prepared_as_the_recipe_says(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the training, and for the scores; the classifier has a recipe of its own."""
    order: list[Any] = []
    prepare, fit, of_real, measure = devices.prepare, loop.fit, score.of_real, score.measure

    def prepared_device(*given: Any, **named: Any) -> None:
        order.append(inspect.signature(prepare).bind(*given, **named).arguments.get("deterministic", False))
        prepare(*given, **named)

    monkeypatch.setattr(devices, "prepare", prepared_device)
    monkeypatch.setattr(loop, "fit", lambda *given: (order.append("fit"), fit(*given))[1])
    monkeypatch.setattr(score, "of_real", lambda *given: (order.append("real"), of_real(*given))[1])
    monkeypatch.setattr(score, "measure", lambda *given: (order.append("measure"), measure(*given))[1])
    for deterministic in (True, False):
        order.clear()
        write_task(recipe(iterations=1, deterministic=deterministic))
        train_gans("small", "batch_norm")
        scored("batch_norm")
        settled = [before for before, now in itertools.pairwise(order) if now in ("fit", "real", "measure")]
        assert [each for each in settled if each != "measure"] == [deterministic] * 4


def test_a_run_that_diverges_is_recorded_without_a_fid(project: Path) -> None:
    write_task(recipe(iterations=50, lr=1e30))
    train_gans("small", "spectral_norm")
    assert {path.name for path in trained("spectral_norm", 3).iterdir()} == {"record.json", "generator.pt"}
    scores = scored("spectral_norm")
    assert {path.name for path in scores.iterdir()} == {"3.json", "5.json"}
    record = files.read_json(scores / "3.json")
    assert record["status"] == "diverged"
    assert 0 <= record["diverged"]["step"] < 50
    assert "fid" not in record["metrics"]
    assert len(record["metrics"]["history"]) < 20


def test_weights_that_break_in_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(average: nn.Module, generator: nn.Module, decay: float, step: int) -> None:
        average.dense.weight.data[0, 0] = float("inf")

    monkeypatch.setattr(loop, "update", broken)
    generator, discriminator = built(BatchNorm())
    outcome = fitted(generator, discriminator, BatchNorm(), recipe())
    assert outcome.diverged == {"step": 5}
