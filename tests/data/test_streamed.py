"""Streamed datasets: what the download stage writes, and what training and evaluation are given, against plain loops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from normbench.data import crops, decoded, intact, pictures, streamed, workers
from normbench.data.augmentation import Augmentation, ResizedCrop
from normbench.data.bound import Bound, Validation
from normbench.data.prepared import Splits
from normbench.data.stream import Files
from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.suite.runs import bound_dataset
from normbench.system import files, layout
from normbench.system.errors import UserError
from normbench.training import classifier
from stages import download
from tests.support import photographs, subjects
from tests.support.prepared import spec
from tests.support.together import each_of

pytestmark = pytest.mark.usefixtures("own_folders")
SIZE, RESIZE = 32, 40
RESIZED = Augmentation(0, True, ResizedCrop())


def prepare(**given: Any) -> Bound:
    files.write_json("build/resolved/datasets/mine.json", spec("streamed", **given))
    download.download("mine")
    return bound_dataset("mine")


def bound(**given: Any) -> Bound:
    """A dataset of made pictures, prepared."""
    if not Path("photos").exists():
        photographs.made(Path("photos"))
    return prepare(**{"path": "photos", "image_size": SIZE, "resize": RESIZE} | given)


def upright(path: Path) -> Image.Image:
    """An image as a person sees it, by other code than that of normbench."""
    image = Image.open(path)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    turned = image.getexif().get(0x0112) == 6
    image = image.convert("RGB")
    return image.transpose(Image.Transpose.ROTATE_270) if turned else image


def paths(split: str) -> list[Path]:
    return [path for folder in sorted(Path("photos", split).iterdir()) for path in sorted(folder.iterdir())]


def as_evaluated(path: Path) -> Tensor:
    transform = v2.Compose([v2.Resize(RESIZE), v2.CenterCrop(SIZE)])
    return v2.functional.pil_to_tensor(transform(upright(path)))


def test_what_is_prepared() -> None:
    found = bound()
    folder = Path(found.path)
    assert (found.train, found.test, found.classes, found.image_size) == (24, 12, 3, SIZE)
    assert found.reader_code is not None
    names = ["meta.json", "test_files.json", *(f"{name}.npy" for name in intact.arrays.STREAMED), "train_files.npy"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert np.load(folder / "train_labels.npy").tolist() == [0] * 8 + [1] * 8 + [2] * 8
    sizes = np.load(folder / "train_sizes.npy")
    for number, path in enumerate(paths("train")):
        assert np.load(folder / "train_files.npy")[number].decode() == path.relative_to("photos").as_posix()
        assert upright(path).size == tuple(sizes[number][::-1])
        assert np.load(folder / "train_sha256.npy")[number].tobytes().hex() == files.sha256(path)
    stored = np.load(folder / "test_images.npy")
    for number, path in enumerate(paths("val")):
        assert torch.equal(torch.from_numpy(stored[number]).permute(2, 0, 1), as_evaluated(path))


def test_mean_and_deviation_are_those_of_the_evaluated_images() -> None:
    found = bound()
    pixels = torch.stack([as_evaluated(path) for path in paths("train")]).double() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_what_is_and_is_not_part_of_the_content() -> None:
    first = bound()
    assert bound(cache=1.0).fingerprint == first.fingerprint
    assert first.fingerprint not in {bound(resize=None).fingerprint, bound(shorter_side=36).fingerprint}
    Path("photos").rename("elsewhere")
    assert bound(path="elsewhere").fingerprint == first.fingerprint
    path = Path("elsewhere/train/class0/0.JPEG")
    Image.open(path).rotate(90).save(path)
    assert bound(path="elsewhere").fingerprint != first.fingerprint


def test_the_covering_of_an_imagefolder_is_the_default() -> None:
    stored = np.load(Path(bound(resize=None).path) / "test_images.npy")
    for number, path in enumerate(paths("val")):
        np.testing.assert_array_equal(stored[number], pictures.read(path, SIZE).pixels)


def epoch(images: Splits, number: int = 0, first: int = 0, **changes: Any) -> list[tuple[Tensor, Tensor]]:
    settings = {"batch_size": 7, "drop_last": False, "seed": 5, "augmentation": RESIZED} | changes
    return [*images.train.batches(**settings).pixels(number, first)]


def same(found: list[tuple[Tensor, Tensor]], wanted: list[tuple[Tensor, Tensor]]) -> bool:
    return len(found) == len(wanted) and all(
        torch.equal(one, other) for pair in zip(found, wanted, strict=True) for one, other in zip(*pair, strict=True)
    )


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Splits:
    monkeypatch.setenv("NORMBENCH_WORKERS", "0")
    return streamed.load(bound(), "cpu")


def test_batches_are_parts_of_the_files(images: Splits) -> None:
    """Each image of an epoch once, cut out and resized as torchvision does it, mirrored or not."""
    batches, seen, mirrored = images.train.batches(7, False, 5, RESIZED), [], 0
    boxes = batches.drawn(2).boxes
    assert boxes is not None
    # The label does not tell which image it is, so the order does.
    order = iter(batches.drawn(2).order.tolist())
    for x, labels in batches.pixels(2):
        assert x.dtype == torch.uint8
        assert x.is_contiguous()
        for image, label in zip(x, labels.tolist(), strict=True):
            number = next(order)
            assert label == number // 8
            whole = v2.functional.pil_to_tensor(upright(paths("train")[number]))
            part = v2.functional.resized_crop(whole, *boxes[number].tolist(), [SIZE, SIZE], antialias=True)
            assert torch.equal(image, part) or torch.equal(image, part.flip(2))
            mirrored += not torch.equal(image, part)
            seen.append(number)
    assert sorted(seen) == list(range(24))
    assert 5 < mirrored < 19


def test_padded_crops_are_those_of_images_in_memory(images: Splits) -> None:
    """The same draws: a dataset that was stored as its test images are would have the same batches."""
    memory = images.train.pixels[:]
    for number, path in enumerate(paths("train")):
        assert torch.equal(memory[number], as_evaluated(path))
    from normbench.data.batches import Images

    stored = Images(memory, images.train.labels, images.train.mean, images.train.std)
    padded = {"augmentation": Augmentation(3, True)}
    assert same(epoch(images, **padded), [*stored.batches(7, False, 5, **padded).pixels(0)])


@pytest.mark.parametrize("count", ["1", "2", "5"])
def test_batches_do_not_depend_on_processes(images: Splits, count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = epoch(images)
    monkeypatch.setenv("NORMBENCH_WORKERS", count)
    before = torch.get_rng_state()
    assert same(epoch(images), wanted)
    assert torch.equal(torch.get_rng_state(), before)  # or dropout would depend on it
    assert same(epoch(images, first=2), wanted[2:])


def test_resuming_reads_only_what_follows(images: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, read = epoch(images), []
    monkeypatch.setattr(
        Files, "picture", lambda self, number, old=Files.picture: (read.append(number), old(self, number))[1]
    )
    assert same(epoch(images, first=3), wanted[3:])
    assert len(read) == 24 - 3 * 7


def test_an_epoch_has_its_own_order_and_parts(images: Splits) -> None:
    assert not same(epoch(images), epoch(images, 1))
    assert not same(epoch(images), epoch(images, seed=6))
    assert same(epoch(images), epoch(images))


def test_a_part_of_each_batch(images: Splits) -> None:
    batches = images.train.batches(7, False, 5, RESIZED)
    parts = [[*batches.pixels(0, 1, (index, 3))] for index in range(3)]
    joined = [tuple(map(torch.cat, zip(*shares, strict=True))) for shares in zip(*parts, strict=True)]
    assert same(joined, epoch(images, first=1))  # type: ignore[arg-type]


def test_two_processes_train_as_one(images: Splits) -> None:
    """Each reads its part of every batch, with processes of its own."""
    one = subjects.task(recipe=subjects.recipe(epochs=2, batch_size=10, lr=0.02, crop="resized", flip=True))
    of_three = subjects.bound(channels=3, classes=3, image_size=SIZE, mean=[0.5] * 3, std=[0.25] * 3)

    def losses() -> list[float]:
        network, method = models.get(one.model, "classifier"), methods.build("batch_norm", {})
        ready = classifier.prepare(one, network, method, of_three, 0, images)
        return [epoch["loss"] for epoch in classifier.fit(ready, one, 0, lambda *_: None).history]

    alone = losses()
    for found in each_of(2, losses):
        assert found == pytest.approx(alone, rel=1e-6)


def test_decoded_images_change_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NORMBENCH_WORKERS", "0")
    monkeypatch.setattr(decoded, "SHARD", 5)
    wanted = epoch(streamed.load(bound(), "cpu"))
    assert not layout.decoded().exists()
    reduced = epoch(streamed.load(bound(shorter_side=36), "cpu"))
    assert not same(reduced, wanted)
    kept = Files.of(Path(bound(cache=1.0).path))
    assert kept.decoded.present.all()
    with monkeypatch.context() as changed:
        changed.setattr(Files, "read", None)  # nothing is read from the files of the user
        assert same(epoch(streamed.load(bound_dataset("mine"), "cpu")), wanted)
    monkeypatch.setenv("NORMBENCH_WORKERS", "2")
    assert same(epoch(streamed.load(bound(shorter_side=36, cache=1.0), "cpu")), reduced)
    # A limit keeps the first files of them, and says so.
    capsys.readouterr()
    for path in layout.decoded().rglob("*.raw"):
        path.unlink()
    limit = float(kept.decoded.ends[12]) / decoded.GB
    part = Files.of(Path(bound(cache=limit).path)).decoded.present
    assert part.tolist() == [True, True, False, False, False]
    assert "mine: 10 of 24 training images are kept decoded; all would take" in capsys.readouterr().out
    assert same(epoch(streamed.load(bound_dataset("mine"), "cpu")), wanted)


def test_decoding_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "SHARD", 5)
    bound(cache=1.0)
    found = sorted(layout.decoded().rglob("*.raw"))
    found[1].unlink()
    found[3].write_bytes(b"cut off")
    times = {path: path.stat().st_mtime_ns for path in found if path.exists()}
    read: list[int] = []
    monkeypatch.setattr(Files, "read", lambda self, number, old=Files.read: (read.append(number), old(self, number))[1])
    bound(cache=1.0)
    assert sorted(read) == [*range(5, 10), *range(15, 20)]
    assert [path for path, before in times.items() if path.stat().st_mtime_ns != before] == [found[3]]


def test_held_out_training_images(images: Splits) -> None:
    """A run that must not see the test images is measured on training images, prepared as test images are."""
    whole = bound()
    splits = streamed.load(whole.model_copy(update={"validation": Validation(fraction=0.25, seed=3)}), "cpu")
    assert (len(splits.train), len(splits.test)) == (18, 6)
    chosen = torch.cat([splits.train.pixels[:], splits.test.pixels[:]])
    everything = images.train.pixels[:]
    places = [next(i for i, each in enumerate(everything) if torch.equal(each, image)) for image in chosen]
    assert sorted(places) == list(range(24))
    assert splits.test.labels.tolist() == [place // 8 for place in places[18:]]
    assert {int(label) for _, labels in epoch(splits) for label in labels} == {0, 1, 2}
    part = images.train.part(np.array([3, 20]), torch.tensor([1, 1]))
    assert torch.equal(part.pixels[:], everything[[3, 20]])
    assert [labels.tolist() for _, labels in part.batches(2, False, 0, RESIZED).pixels(0)] == [[1, 1]]


def test_test_images_are_mapped(images: Splits) -> None:
    test = images.test
    stored = torch.from_numpy(np.load("build/data/mine/test_images.npy")).permute(0, 3, 1, 2)
    assert test.pixels.shape == stored.shape
    assert torch.equal(test.pixels[:], stored)
    assert torch.equal(test.pixels[torch.tensor([4, 1])], stored[[4, 1]])
    assert torch.equal(test.pixels[3:5], stored[3:5])
    assert isinstance(test.pixels.array, np.memmap)  # type: ignore[attr-defined]


def test_every_way_to_decode_gives_the_same(tmp_path: Path) -> None:
    """The fast one for plain JPEGs, and Pillow's; also of the 96 photographs, if they are there."""
    photographs.made(Path("photos"))
    found = [*paths("train"), *(photographs.photographs(tmp_path) if photographs.SAMPLES.exists() else [])]
    for path in found:
        content = path.read_bytes()
        wanted = np.asarray(upright(path))
        np.testing.assert_array_equal(pictures.whole(path, content).pixels, wanted)
        np.testing.assert_array_equal(pictures.decoded(path, content), wanted)


def test_tiny_imagenets_layout() -> None:
    """`val/images` with annotations, in their order."""
    photographs.made(Path("photos"))
    moved = []
    for number, path in enumerate(reversed(paths("val"))):
        target = Path(f"photos/val/images/val_{number}{path.suffix}")
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        moved.append(f"{target.name}\t{path.parent.name}\t0\t0\t9\t9\n")
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    Path("photos/val/val_annotations.txt").write_text("".join(moved))
    found = bound()
    assert found.test == 12
    assert np.load(f"{found.path}/test_labels.npy").tolist() == [2] * 4 + [1] * 4 + [0] * 4
    wanted = as_evaluated(
        Path(
            "photos/val/images/val_0.JPEG"
            if Path("photos/val/images/val_0.JPEG").exists()
            else "photos/val/images/val_0.jpg"
        )
    )
    assert torch.equal(streamed.load(found, "cpu").test.pixels[:1][0], wanted)


def remove(pattern: str) -> None:
    for path in sorted(Path("photos").glob(pattern), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("change", "given", "message"),
    [
        (lambda: remove("val/*/*"), {}, "dataset 'mine': photos/val: no image in it"),
        (
            lambda: (remove("val/*/*"), remove("val/*"), remove("val")),
            {},
            "dataset 'mine': photos/test: no such folder; *",
        ),
        (lambda: remove("train/class1/*"), {}, "dataset 'mine': photos/train/class1: no image in it"),
        (lambda: cut("photos/train/class2/0.JPEG"), {}, "photos/train/class2/0.JPEG: not a readable image: *"),
        (lambda: cut("photos/val/class0/0.JPEG"), {}, "photos/val/class0/0.JPEG: not a readable image: *"),
        (lambda: Path("photos/train/class0/0.JPEG").write_bytes(b""), {}, "photos/train/class0/0.JPEG: an empty file"),
        (lambda: None, {"resize": 30}, "dataset 'mine': resize = 30: must be at least the 32 pixels of image_size"),
        (lambda: None, {"path": "nowhere"}, "dataset 'mine': nowhere: no such folder"),
        (lambda: None, {"image_size": None}, "dataset 'mine': a streamed dataset needs `image_size` *"),
    ],
)
def test_bad_input_is_named_in_one_line(change: Any, given: dict[str, Any], message: str) -> None:
    photographs.made(Path("photos"))
    change()
    with pytest.raises(UserError) as error:
        bound(**given)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(message.removesuffix("*"))
    assert not Path("build/data/mine").exists()


def cut(name: str) -> None:
    """Leaves the first half of a file."""
    Path(name).write_bytes(Path(name).read_bytes()[: Path(name).stat().st_size // 2])


@pytest.mark.parametrize("count", ["0", "2"])
def test_a_file_that_changes_while_networks_are_trained(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = streamed.load(bound(), "cpu")
    monkeypatch.setenv("NORMBENCH_WORKERS", count)
    Path("photos/train/class1/0.JPEG").write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"^photos/train/class1/0.JPEG: has changed since it was prepared; `dvc repro`[^\n]*$"
    ):
        epoch(splits)
    Path("photos/train/class1/0.JPEG").unlink()
    with pytest.raises(UserError, match=r"^photos/train/class1/0.JPEG: No such file or directory$"):
        epoch(splits)


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_WORKERS", "many")
    with pytest.raises(UserError, match=r"NORMBENCH_WORKERS = 'many': must be a whole number of processes, 0 or more"):
        workers.count()
    monkeypatch.delenv("NORMBENCH_WORKERS")
    monkeypatch.setattr(workers, "cores", lambda: 12)
    monkeypatch.setattr(workers.side_by_side, "beside", 3)
    assert workers.count() == 4


def test_a_killed_process(images: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_WORKERS", "1")
    monkeypatch.setattr(crops.Crops, "__call__", lambda self, number: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match=r"^a process that reads images was killed: too little memory\? [^\n]*$"):
        epoch(images)


READING = """
import os, signal, sys, time
from normbench.data import workers
from normbench.system import preemption
preemption.watch()
def make(number):
    import torch
    with open(f"process{os.getpid()}", "w"):
        pass
    time.sleep(0.05)
    return torch.zeros(1)
with preemption.saved():
    for number, _ in enumerate(workers.batches(make, 0, 10**6)):
        if number == 4:
            print("reading", flush=True)
        if preemption.requested():
            print(f"saved", flush=True)
            raise SystemExit(75)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["group", "term", "kill"])
def test_processes_end_with_their_parent(how: str) -> None:
    """Also where SIGTERM reaches all of them at once: the parent then still gets the batches that it needs to save."""
    environment = os.environ | {"NORMBENCH_WORKERS": "2"}
    parent = subprocess.Popen(
        [sys.executable, "-c", READING], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "reading\n"
    children = [int(path.name.removeprefix("process")) for path in Path().glob("process*")]
    assert len(children) == 2
    if how == "group":
        os.killpg(parent.pid, signal.SIGTERM)
    else:
        parent.send_signal(signal.SIGTERM if how == "term" else signal.SIGKILL)
    text, _ = parent.communicate(timeout=60)
    assert (text, parent.returncode) == (("saved\n", 75) if how != "kill" else ("", -signal.SIGKILL))
    for _ in range(600):
        if not any(running(child) for child in children):
            break
        time.sleep(0.1)
    assert not any(running(child) for child in children)


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_content_is_compared_before_it_is_used(images: Splits) -> None:
    found = bound_dataset("mine")
    intact.check_bound(found)
    for name in ("train_sha256", "test_images"):
        path = Path(found.path) / f"{name}.npy"
        content = path.read_bytes()
        time.sleep(0.01)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=rf"{name}\.npy: is not what was prepared; `dvc repro` restores it"):
            intact.check_bound(found)
        path.write_bytes(content)
