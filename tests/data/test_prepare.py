"""What is the same for all sources: the fingerprint, reading in pieces, and how the download stage ends."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from normbench.data import arrays as module
from normbench.data.arrays import ARRAYS, fingerprint
from normbench.data.sources import registry
from normbench.data.sources.base import Origin, Request, Source, source
from normbench.system import files
from normbench.system.errors import UserError
from tests.support.prepared import own_arrays, pets, pictures, prepared, spec, write_npz

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("own_folders")


def test_the_fingerprint_tells_one_pixel_one_label_and_a_shape() -> None:
    arrays = {"train_images": pictures(4, 8, 1), "train_labels": np.array([0, 1, 0, 1])}
    arrays |= {"test_images": pictures(2, 8, 1, seed=1), "test_labels": np.array([0, 1])}
    seen = {fingerprint(arrays)}
    for name in ARRAYS:
        changed = arrays[name].copy()
        changed.flat[-1] ^= 1
        seen.add(fingerprint(arrays | {name: changed}))
    seen.add(fingerprint(arrays | {"train_images": arrays["train_images"].reshape(4, 4, 16, 1)}))
    assert len(seen) == 6
    assert fingerprint({name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()}) in seen


def test_large_sets_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepared("npz", **write_npz(own_arrays()))
    monkeypatch.setattr(module, "BATCH", 7)
    pieces = prepared("npz", **write_npz(own_arrays()))
    assert whole[1] == pieces[1]


def stage(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stages.download", *arguments] if not code else [sys.executable, "-c", code]
    return subprocess.run(command, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)


def test_the_stage_ends_in_words() -> None:
    files.write_json("build/resolved/datasets/mine.json", spec("npz", path="own.npz", sha256="0" * 64))
    done = stage("--dataset", "mine")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
    assert done.stderr == "dataset 'mine': own.npz: no such file\n"
    done = stage("--dataset", "mime")
    assert done.returncode == 1
    assert "mime.json: no such dataset; did you mean 'mine'?" in done.stderr


def test_the_download_starts_without_torch() -> None:
    """Importing torch takes seconds, and only what torchvision reads needs it."""
    specs = [spec("npz", **write_npz(own_arrays())), spec("imagefolder", path=pets(), image_size=8), spec("digits")]
    for number, given in enumerate(specs):
        files.write_json(f"build/resolved/datasets/{number}.json", given)
    code = (
        "import sys; from stages.download import download\n"
        f"for number in range({len(specs)}): download(str(number))\n"
        "print(sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    done = stage(code=code)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr


@pytest.mark.parametrize("package", ["sklearn", "torchvision"])
def test_listing_the_sources_imports_no_package_of_a_single_source(package: str) -> None:
    done = stage(
        code=f"import sys; from normbench.data.sources import npz, registry\nprint(registry.names(), {package!r} in sys.modules)"
    )
    assert (done.returncode, done.stdout) == (0, f"{registry.names()} False\n"), done.stderr


# What a source may do wrong, and what is said of it.
FAULTS = {
    "type": ({"train_images": np.zeros((30, 12, 12, 3))}, "train_images are float64, uint8 .* is needed"),
    "labels": ({"train_labels": np.arange(30) % 3 + 1}, "train_labels go up to 3 without any 0"),
    "shape": ({"test_images": pictures(9, 10, 3)}, "train_images are 12 x 12 x 3, test_images are 10 x 10 x 3"),
    "grey": (
        {"train_images": pictures(30, 12, 1)[..., 0], "test_images": pictures(9, 12, 1)[..., 0]},
        "the source wrote train_images as uint8 30 x 12 x 12, but uint8 30 x 12 x 12 x 1 is needed",
    ),
    "label type": (
        {"test_labels": np.arange(9, dtype=np.int16) % 3},
        "the source wrote test_labels as int16 9, but int64 9 is needed",
    ),
    "names": ({}, "the source names 2 classes, the labels have 3"),
    "size": ({}, "the source wrote images of 12 x 12 pixels, 6 x 6 were asked for"),
}


@source("faulty")
@dataclass(frozen=True)
class Faulty(Source):
    """Writes its arrays without `save`, and wrong."""

    fault: str

    def write(self, request: Request, out: Path) -> Origin:
        labels = {f"{split}_labels": own_arrays()[f"{split}_labels"].astype(np.int64) for split in ("train", "test")}
        for name, array in (own_arrays() | labels | FAULTS[self.fault][0]).items():
            np.save(out / f"{name}.npy", array)
        return Origin("nowhere", class_names=["one", "two"] if self.fault == "names" else None)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_source_writes_is_checked(fault: str) -> None:
    given = {"fault": fault, "image_size": 6 if fault == "size" else None}
    with pytest.raises(UserError, match=f"^dataset 'mine': {FAULTS[fault][1]}"):
        prepared(f"{__name__}:faulty", **given)
    assert list(Path("build/data").iterdir()) == []
