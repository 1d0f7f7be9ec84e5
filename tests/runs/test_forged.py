"""A run of unknown origin whose checksums all fit is refused where its record or its files cannot be what they claim."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from normbench.data.bound import Bound
from normbench.runs import archive, code, recomputed, store
from normbench.runs.record import Provenance
from normbench.runs.run import Kind, Run
from normbench.runs.train import claim_and_train
from normbench.system import files
from normbench.system.errors import UserError
from tests.support import sample_runs
from tests.support.kill_and_resume import splits
from tests.support.prepared import by_hand

Json = dict[str, Any]


def real_run(kind: Kind, bound: Bound | None = None, method: str = "batch_norm", **options: Any) -> Run:
    """A tiny run of the code that is here."""
    variant = sample_runs.variant(method=method, options=options, method_code=code.method(method))
    if kind is Kind.GAN:
        recipe = {"iterations": 2, "batch_size": 16, "latent": 8}
        task: Any = sample_runs.gan_task(recipe=recipe, model_code=code.model("sngan"))
    else:
        task = sample_runs.task(recipe={"epochs": 1, "batch_size": 16}, model_code=code.model("resnet8"))
    return sample_runs.run(kind, task=task, variant=variant, code=code.training(kind), bound=bound)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """The folders of a trained classifier and of a trained GAN."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMBENCH_STORE", str(root))
        found = {}
        for kind in sample_runs.KINDS:
            run = real_run(kind)
            claim_and_train(run, splits)
            found[kind] = store.folder(run.id)
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMBENCH_STORE", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    recomputed._told.clear()


def forged(folder: Path, change: Callable[[Json, dict[str, bytes]], None]) -> Path:
    """The archive of a run after a change of its record and files, with checksums and an id that fit."""
    parts = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = json.loads(parts.pop("record.json"))
    change(record, parts)
    for name, data in parts.items():
        if name in record.get("files", {}):
            record["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with contextlib.suppress(ValueError, KeyError):  # It may describe no run.
        origin = Provenance.model_validate_json(json.dumps(record["provenance"]))
        kind = Kind(record["kind"])
        record["run"] = Run(kind, origin.task, origin.variant, record["seed"], origin.dataset, origin.code).id
    parts["record.json"] = json.dumps(record).encode()
    listed = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in parts.items()}
    manifest = json.dumps({"format": 1, "run": record["run"], "files": listed}).encode()
    with tarfile.open("forged.run.tar", "w") as made:
        for name, data in {"manifest.json": manifest, **parts}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return Path("forged.run.tar")


def refused(path: Path) -> str:
    """The message with which an archive is refused; it must be one line that names the archive, and store nothing."""
    with pytest.raises(UserError) as error:
        archive.import_(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert text.isprintable(), text  # one line, and nothing that a terminal obeys
    assert store.all_finished() == []
    return text


def test_unchanged_it_is_taken(made: dict[Kind, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in made.values():
        assert archive.import_(forged(folder, lambda record, parts: None)) == (folder.name, True)
    assert capsys.readouterr().err == ""  # The networks were compared.


def at(place: str, value: Any) -> Callable[[Json, Any], None]:
    """Sets the value at a place in the record."""

    def change(record: Json, parts: Any) -> None:
        *above, last = place.split(".")
        inner: Any = record
        for key in above:
            inner = inner[int(key) if isinstance(inner, list) else key]
        inner[last] = value

    return change


def gone(place: str) -> Callable[[Json, Any], None]:
    def change(record: Json, parts: Any) -> None:
        *above, last = place.split(".")
        inner: Any = record
        for key in above:
            inner = inner[int(key) if isinstance(inner, list) else key]
        del inner[last]

    return change


ATTACKS = {"examples": 9, "clean": 1.0, "fgsm": 1.0, "pgd": 1.0}
RECORDS: list[tuple[Callable[[Json, Any], None], str]] = [
    (at("metrics.clean_accuracy", 7), "metrics.clean_accuracy"),
    (at("metrics.clean_accuracy", -0.01), "metrics.clean_accuracy"),
    (at("metrics.clean_accuracy", "0.5"), "metrics.clean_accuracy"),
    (at("metrics.clean_accuracy", True), "metrics.clean_accuracy"),
    (at("metrics.clean_accuracy", None), "metrics.clean_accuracy"),
    (at("metrics.clean_accuracy", float("inf")), "not finite"),
    (at("metrics.clean_accuracy", 0.123), "no number of 64 images"),
    (gone("metrics.clean_accuracy"), "metrics.clean_accuracy"),
    (at("metrics.attacks", ATTACKS), "metrics.attacks: Extra inputs"),
    (at("metrics.columns", {"attack_pgd": 1.0}), "metrics.columns: Extra inputs"),
    (at("metrics.smoothness", {"certified": {"8": 1.0}}), "metrics.smoothness: Extra inputs"),
    (at("metrics.fid", 0.1), "metrics.fid: Extra inputs"),
    (at("provenance.evaluation", {"attacks": {}}), "scores are measured"),
    (at("metrics.history.0.epoch", '=cmd|"/c calc"!A1'), "metrics.history.0.epoch"),
    (at("metrics.history.0.epoch", 2), "metrics.history: epochs must count from 1"),
    (at("metrics.history.0.loss", 10**400), "metrics.history.0.loss"),
    (at("metrics.history.0.accuracy", 1.01), "metrics.history.0.accuracy"),
    (at("metrics.history.0.lr", -1), "metrics.history.0.lr"),
    (at("metrics.history.0.note", 1), "metrics.history.0.note"),
    (at("metrics.history", []), "metrics.history: has 0 epochs"),
    (at("metrics.history", {"0": 1}), "metrics.history"),
    (at("metrics.training_set.images", 65), "metrics.training_set.images"),
    (at("metrics.training_set.flipped_labels", 0.5), "no label noise"),
    (at("diverged", {"epoch": 0, "step": 1}), "diverged: a diverged run has"),
    (at("cost.resumed", {"epoch": "=1+1", "step": 0}), "cost.resumed.epoch"),
    (at("cost.resumed", {"epoch": 9, "step": 0}), "cost.resumed"),
    (at("cost.resumed", {"=1+1": 0}), "cost.resumed"),
    (at("cost", {}), "cost."),
    (at("cost.parameters", -1), "cost.parameters"),
    (at("cost.parameters", 3), "the record says 3"),
    (at("cost.peak_memory_bytes", 2**70), "cost.peak_memory_bytes"),
    (at("cost.seconds", {"train": -1.0}), "cost.seconds.train"),
    (at("cost.seconds", {"\x1b[2J": 1.0}), "cost.seconds"),
    (at("cost.epoch_seconds", [1.0] * 9), "cost.epoch_seconds"),
    (at("cost.images_per_second", 0.0), "cost.images_per_second"),
    (gone("provenance.device"), "provenance.device"),
    (at("provenance.device.type", "abacus"), "provenance.device.type"),
    (at("provenance.device.name", "a\x1b[2J"), "provenance.device.name: has a control character"),
    (at("provenance.device.side_by_side", 0), "provenance.device.side_by_side"),
    (at("provenance.device.type", "cuda"), "provenance.numerics.threads"),
    (at("provenance.numerics.threads", 2), "provenance.numerics.threads"),
    (at("provenance.numerics.precision", "bfloat16"), "provenance.numerics.precision"),
    (at("provenance.started", "yesterday"), "provenance.started"),
    (at("provenance.started", "2026-03-01T10:00:00"), "provenance.started"),
    (at("provenance.started", "2999-03-01T10:00:00+00:00"), "provenance.ended: is before"),
    (at("provenance.variant.name", "v\x1b[2J"), "provenance.variant.name: has a control character"),
    (at("provenance.task.name", "t\n"), "provenance.task.name: has a control character"),
    (at("provenance.dataset.note", "a\x00b"), "provenance.dataset.note: has a control character"),
    (at("provenance.dataset.classes", 0), "provenance.dataset.classes"),
    (at("provenance.dataset.channels", True), "provenance.dataset.channels: must be 1 or 3"),
    (at("provenance.dataset.image_size", -8), "provenance.dataset.image_size"),
    (at("provenance.dataset.image_size", 0), "provenance.dataset.image_size"),
    (at("provenance.dataset.image_size", []), "provenance.dataset.image_size"),
    (at("provenance.dataset.image_size", [8, 8, 8]), "provenance.dataset.image_size"),
    (at("provenance.dataset.image_size", [8, -8]), "provenance.dataset.image_size"),
    (at("provenance.task.seed", -1), "provenance.task.Task.seed"),
    (at("provenance.dataset.std", [0.0]), "provenance.dataset.std"),
    (at("provenance.dataset.mean", [0.3, 0.3]), "a number for each channel"),
    (at("provenance.code", "z" * 64), "provenance.code"),
    (at("provenance.git.revision", "main; rm -rf /"), "provenance.git.revision"),
    (at("provenance.versions", {"torch": 2}), "provenance.versions.torch"),
    (at("provenance.task.seeds", [5]), "seed: 0 is none of"),
    (at("seed", True), "seed"),
    (at("format", True), "record of another version"),
    (at("format", 1), "record of version 1"),
    (at("format", 4), "record of another version"),
    (at("\x1b[2J", 1), "Extra inputs"),
    (gone("files"), "files"),
    (at("files", {}), "files: a finished run of this kind has"),
    (at("files", {"generator.pt": {"bytes": 1, "sha256": "x"}}), "files.generator.pt.sha256"),
]


@pytest.mark.parametrize(("change", "line"), RECORDS, ids=[str(number) for number in range(len(RECORDS))])
def test_a_record_of_a_classifier_that_cannot_be(
    made: dict[Kind, Path], change: Callable[[Json, Any], None], line: str
) -> None:
    assert line in refused(forged(made[Kind.CLASSIFICATION], change))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (at("metrics.history.0.iteration", "=1"), "metrics.history.0.iteration"),
        (at("metrics.history.0.discriminator_loss", None), "metrics.history.0.discriminator_loss"),
        (lambda record, parts: record["metrics"]["history"].reverse(), "iterations must ascend"),
        (lambda record, parts: record["metrics"]["history"].pop(), "must end at the last of 2 iterations"),
        (at("metrics.clean_accuracy", 0.5), "metrics.clean_accuracy: Extra inputs"),
        (at("metrics.fid", 0.1), "metrics.fid: Extra inputs"),
        (at("cost.epoch_seconds", [1.0]), "cost.epoch_seconds"),
        (at("cost.parameters", 3), "the record says 3"),
        (at("kind", "classification"), "is no task of the kind"),
    ],
)
def test_a_record_of_a_gan_that_cannot_be(
    made: dict[Kind, Path], change: Callable[[Json, Any], None], line: str
) -> None:
    assert line in refused(forged(made[Kind.GAN], change))


def test_an_accuracy_beyond_what_a_float_holds(made: dict[Kind, Path]) -> None:
    path = forged(made[Kind.CLASSIFICATION], at("metrics.clean_accuracy", 0.0625))
    edited = path.read_bytes()
    assert b'"clean_accuracy": 0.0625' in edited
    # Of the same length, and with the checksums of the manifest made to fit.
    members = {}
    with tarfile.open(path) as opened:
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            members[member.name] = content.read()
    members["record.json"] = members["record.json"].replace(b'"clean_accuracy": 0.0625', b'"clean_accuracy": 1e9999')
    manifest = json.loads(members["manifest.json"])
    manifest["files"]["record.json"]["sha256"] = hashlib.sha256(members["record.json"]).hexdigest()
    members["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(path, "w") as again:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            again.addfile(info, io.BytesIO(data))
    assert "not finite" in refused(path)


def weights(change: Callable[[dict[str, torch.Tensor]], Any], name: str = "weights.pt") -> Callable[[Json, Any], None]:
    def forge(record: Json, parts: dict[str, bytes]) -> None:
        state = dict(torch.load(io.BytesIO(parts[name]), weights_only=True))
        changed = change(state)
        buffer = io.BytesIO()
        torch.save(changed, buffer)
        parts[name] = buffer.getvalue()

    return forge


def predictions(predicted: np.ndarray) -> Callable[[Json, Any], None]:
    def forge(record: Json, parts: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, predicted=predicted)
        parts["predictions.npz"] = buffer.getvalue()

    return forge


def samples(size: tuple[int, int], mode: str = "L", kind: str = "PNG") -> Callable[[Json, Any], None]:
    def forge(record: Json, parts: dict[str, bytes]) -> None:
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, kind)
        parts["samples.png"] = buffer.getvalue()

    return forge


HEAD = "head.weight"


@pytest.mark.parametrize(
    ("kind", "change", "line"),
    [
        (Kind.CLASSIFICATION, weights(lambda state: {"w": torch.zeros(3)}), "weights.pt: lacks "),
        (Kind.CLASSIFICATION, weights(lambda state: {}), "weights.pt: lacks "),
        (Kind.CLASSIFICATION, weights(lambda state: {key: value for key, value in state.items() if key != HEAD}), f"weights.pt: lacks {HEAD}"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {"a\x1b[2J": torch.zeros(1)}), "weights.pt: has a\\x1b[2J"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {3: torch.zeros(1)}), "no plain tensor"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: 3}), "not the state of a network"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {"a_extra_state": {"b": [1]}}), "no plain dictionary"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {"a_extra_state": {"b": 1}}), "has a_extra_state, which"),
        (Kind.CLASSIFICATION, weights(lambda state: [1]), "weights.pt cannot be read (ValueError: 'not the state of a"),
        (Kind.CLASSIFICATION, at("provenance.task.model_options", {"width": 10**6}), "bytes of values, the network of the record "),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: state[HEAD][:2].clone()}), f"weights.pt: {HEAD} is float32 (2, 16), in"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: state[HEAD].double()}), f"weights.pt: {HEAD} is float64"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: state[HEAD].to_sparse()}), "holds more than tensors: GLOBAL"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: torch.zeros(1).expand(4, 10**12)}), "its tensors are larger than the file"),
        (Kind.CLASSIFICATION, weights(lambda state: state | {HEAD: torch.full_like(state[HEAD], torch.nan)}), f"weights.pt: {HEAD} has values that are not finite"),
        (Kind.GAN, weights(lambda state: {"w": torch.zeros(3)}, "generator.pt"), "generator.pt: lacks "),
        (Kind.CLASSIFICATION, predictions(np.zeros(63, np.int32)), "predictions.npz: has 63 predictions, the dataset has 64"),
        (Kind.CLASSIFICATION, predictions(np.zeros((64, 1), np.int32)), "predictions.npz cannot be read (ValueError: '`predicted` of shape (64, 1) in 384 bytes, expected at most 64')"),
        (Kind.CLASSIFICATION, predictions(np.full(64, 4, np.int32)), "classes from 4 to 4, the dataset has 4 classes"),
        (Kind.CLASSIFICATION, predictions(np.full(64, -1, np.int32)), "classes from -1 to -1"),
        (Kind.CLASSIFICATION, predictions(np.zeros(64, np.int64)), "predictions.npz cannot be read"),
        (Kind.GAN, samples((4, 4)), "samples.png: is 4 x 4 L, must be 528 x 528 L"),
        (Kind.GAN, samples((528, 528), "RGB"), "samples.png: is 528 x 528 RGB, must be 528 x 528 L"),
        (Kind.GAN, samples((528, 528), kind="GIF"), "samples.png cannot be read"),
    ],
)  # fmt: skip
def test_files_that_are_not_of_the_run(
    made: dict[Kind, Path], kind: Kind, change: Callable[[Json, Any], None], line: str
) -> None:
    assert line in refused(forged(made[kind], change))


def test_a_layer_may_have_a_state_that_is_no_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of network deconvolution counts its steps; a state of another form is refused."""
    task = sample_runs.task(recipe={"epochs": 1, "batch_size": 16}, model_code=code.model("resnet8"))
    method = {"method": "network_deconvolution", "method_code": code.method("network_deconvolution")}
    variant = sample_runs.variant(options={}, **method)
    run = sample_runs.run(task=task, variant=variant, code=code.training(Kind.CLASSIFICATION))
    claim_and_train(run, splits)
    folder = shutil.move(store.folder(run.id), tmp_path / "trained")
    assert archive.import_(forged(folder, lambda record, parts: None)) == (run.id, True)
    assert capsys.readouterr().err.count("not compared") == 0
    shutil.rmtree(store.folder(run.id))
    other = weights(lambda state: state | {"conv._extra_state": {"steps": "=1"}})
    assert "conv._extra_state is a dictionary of steps (str), in the network of" in refused(forged(folder, other))


def test_files_that_are_not_those_of_the_record(made: dict[Kind, Path]) -> None:
    """The manifest fits the files, the record does not."""
    folder = made[Kind.CLASSIFICATION]

    def other(record: Json, parts: dict[str, bytes]) -> None:
        record["files"]["weights.pt"]["sha256"] = "0" * 64
        parts["held.pt"] = parts.pop("weights.pt")

    path = forged(folder, other)
    members = {}
    with tarfile.open(path) as opened:
        for member in opened:
            content = opened.extractfile(member)
            assert content is not None
            members[member.name.replace("held", "weights")] = content.read()
    members["manifest.json"] = members["manifest.json"].replace(b"held.pt", b"weights.pt")
    with tarfile.open(path, "w") as again:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            again.addfile(info, io.BytesIO(data))
    assert "weights.pt is damaged: its bytes are not those that were written" in refused(path)


def test_the_accuracy_is_computed_again_where_the_dataset_is(made: dict[Kind, Path], tmp_path: Path) -> None:
    """Its labels are those of the dataset with the same fingerprint, and of no other."""
    given = splits()
    arrays: dict[str, np.ndarray] = {}
    for name, split in (("train", given.train), ("test", given.test)):
        arrays[f"{name}_images"] = split.pixels.permute(0, 2, 3, 1).numpy()
        arrays[f"{name}_labels"] = split.labels.numpy()
    folder = tmp_path / "build/data/d"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array))
    bound = sample_runs.bound(fingerprint=by_hand(arrays))
    files.write_json(folder / "meta.json", {"fingerprint": bound.fingerprint})
    run = real_run(Kind.CLASSIFICATION, bound)
    claim_and_train(run, splits)
    accuracy = store.record(run.id).metrics["clean_accuracy"]
    trained = shutil.move(store.folder(run.id), tmp_path / "trained")
    assert archive.import_(forged(trained, lambda record, parts: None)) == (run.id, True)
    shutil.rmtree(store.folder(run.id))
    other = accuracy + (1 / 64 if accuracy < 0.5 else -1 / 64)
    path = forged(trained, at("metrics.clean_accuracy", other))
    assert f"gives a clean accuracy of {accuracy:.6g}, the record says {other:.6g}" in refused(path)
    np.save(folder / "test_labels.npy", arrays["test_labels"][::-1].copy())  # Damaged labels decide nothing.
    assert archive.import_(path) == (run.id, True)


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        ("provenance.code", "0" * 64, "the training code here is not that of the run"),
        ("provenance.task.model_code", "0" * 64, "the model resnet8 here is not that of the run"),
        ("provenance.variant.method", "my_methods/none.py:None", "its method my_methods/none.py:None is no file of this"),
        ("provenance.variant.method", "/etc/hostname.py:X", "is no file of this project"),
        ("provenance.variant.method", "os:system", "its method os:system is no file of this project"),
        ("provenance.variant.method", "no_such_norm", "unknown method"),
        ("provenance.variant.method", "group_norm", "the method group_norm here is not that of the run"),
        ("provenance.task.model", "no_such_net", "unknown model"),
    ],
)  # fmt: skip
def test_other_code_is_not_compared_and_the_line_says_so(
    made: dict[Kind, Path], capsys: pytest.CaptureFixture[str], place: str, value: str, why: str
) -> None:
    archive.import_(forged(made[Kind.CLASSIFICATION], at(place, value)))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("v on t: weights not compared: ")
    assert why in line


PLAIN = """
import torch
from torch import nn

class Norm(nn.Module):
    def __init__(self, num_features, eps: float = 1e-5):
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.ones(num_features, 1, 1)), eps

    def forward(self, x):
        return x * self.scale * (x.square().mean((1, 2, 3), keepdim=True) + self.eps).rsqrt()
"""


@pytest.mark.parametrize(
    ("method", "options", "key"),
    [
        ("conv_spectral_norm", {}, "conv.parametrizations.weight.0._v"),  # a buffer of the size of the images
        ("spectral_batch_norm", {"statistics": "frequency"}, "running_var"),
        ("own.py:Norm", {"eps": 1e-4}, "norm.scale"),
    ],
)
def test_the_state_is_compared_with_that_of_a_network_that_has_seen_images(
    method: str, options: Json, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(PLAIN)
    run = real_run(Kind.CLASSIFICATION, None, method, **options)
    claim_and_train(run, splits)
    trained = shutil.move(store.folder(run.id), tmp_path / "trained")
    assert archive.import_(forged(trained, lambda record, parts: None)) == (run.id, True)
    assert "not compared" not in capsys.readouterr().err
    shutil.rmtree(store.folder(run.id))

    def cut(state: Json) -> Json:
        name = next(name for name in state if name.endswith(key))
        return state | {name: state[name][:1].clone() if name.endswith("scale") else state[name][..., :1].clone()}

    assert key in refused(forged(trained, weights(cut)))


def test_code_that_a_foreign_record_names_is_not_run(made: dict[Kind, Path], tmp_path: Path) -> None:
    """Not even where it lies in the project, unless it is the code of the run."""
    (tmp_path / "evil.py").write_text("open('pwned', 'w').close()\nclass X: pass\n", encoding="utf-8")
    archive.import_(forged(made[Kind.CLASSIFICATION], at("provenance.variant.method", "evil.py:X")))
    assert not (tmp_path / "pwned").exists()
