"""`normbench corrupt`: its files, what it keeps, what it refuses, and the processes behind it."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench import cli
from normbench.corruptions import MAIN, NAMES, corrupt
from normbench.corruptions import export as module
from normbench.corruptions import files as corrupted
from normbench.corruptions.files import write_corrupted
from normbench.data.arrays import fingerprint
from normbench.system import files, layout, scratch
from normbench.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="one process elsewhere")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (7, 32, 32, 3), np.uint8)


@pytest.fixture
def scenes(tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared dataset `scenes` under the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = layout.DATA / "scenes"
    folder.mkdir(parents=True)
    stored = {f"{split}_images": images for split in ("train", "test")}
    stored |= {f"{split}_labels": np.arange(len(images)) for split in ("train", "test")}
    for name, array in stored.items():
        np.save(folder / f"{name}.npy", array)
    files.write_json(folder / "meta.json", {"classes": 10, "fingerprint": fingerprint(stored)})
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["normbench", "corrupt", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", ["name", "folder", "npz"])
def test_the_official_layout(kind: str, scenes: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez("own.npz", test_images=images, test_labels=np.arange(len(images)))
    given = {"name": "scenes", "folder": str(scenes), "npz": "own.npz"}[kind]
    options = ("--names", "fog, impulse_noise", "--severities", "2,4", "--seed", "3")
    assert run(monkeypatch, given, "--out", "out", *options) == 0
    out = Path("out")
    assert sorted(path.name for path in out.iterdir()) == ["fog.npy", "impulse_noise.npy", "labels.npy", "meta.json"]
    for name in ("fog", "impulse_noise"):
        wanted = np.concatenate([corrupt(images, name, severity, 3) for severity in (2, 4)])
        np.testing.assert_array_equal(np.load(out / f"{name}.npy"), wanted)
    labels = np.load(out / "labels.npy")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [*range(7), *range(7)]
    meta = files.read_json(out / "meta.json")
    assert (meta["engine"], meta["constants"], meta["seed"], meta["severities"]) == ("normbench", "cifar", 3, [2, 4])
    assert meta["sha256"]["fog"] == hashlib.sha256((out / "fog.npy").read_bytes()).hexdigest()


def test_all_and_main(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(module, "export", lambda dataset, out, names, *rest: asked.append((names, rest)))
    for names in ("all", "main"):
        assert run(monkeypatch, "scenes", "--out", "out", "--names", names, "--workers", "2") == 0
    assert [names for names, _ in asked] == [[*NAMES], [*MAIN]]
    assert asked[0][1] == ([1, 2, 3, 4, 5], 0, "normbench", "auto", 2)


def test_what_is_finished_is_kept(scenes: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path("out")
    made = []

    def stopped(given: np.ndarray, name: str, *rest: Any) -> np.ndarray:
        made.append(name)
        if name == "contrast":
            raise KeyboardInterrupt
        return corrupt(given, name, *rest)

    monkeypatch.setattr(corrupted, "corrupt", stopped)
    with pytest.raises(KeyboardInterrupt):
        module.export("scenes", out, ["fog", "contrast"], [1])
    assert sorted(path.name for path in out.iterdir()) == ["fog.npy", "labels.npy", "meta.json"]
    assert made == ["fog", "contrast"]
    (out / ".snow.npy.partial").write_text("left by a run that was killed")
    monkeypatch.setattr(
        corrupted, "corrupt", lambda given, name, *rest: (made.append(name), corrupt(given, name, *rest))[1]
    )
    module.export("scenes", out, ["fog", "contrast"], [1])
    assert made == ["fog", "contrast", "contrast"]
    module.export("scenes", out, ["fog"], [1])
    assert len(made) == 3
    assert sorted(path.name for path in out.iterdir()) == ["contrast.npy", "fog.npy", "labels.npy", "meta.json"]
    assert set(files.read_json(out / "meta.json")["sha256"]) == {"fog", "contrast"}
    np.testing.assert_array_equal(np.load(out / "contrast.npy"), corrupt(images, "contrast", 1))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"dataset": "scene"},
            "scene: no prepared dataset (build/data has scenes), no .npz and no folder with test_images.npy",
        ),
        ({"names": ["fogg"]}, "unknown corruption 'fogg': did you mean 'fog'?"),
        ({"severities": [1, "x"]}, "severities [1, 'x']: valid: some of 1, 2, 3, 4, 5, ascending"),
        ({"engine": "normbenk"}, "unknown engine 'normbenk': did you mean 'normbench'?"),
        ({"constants": "cifar10"}, "unknown constants 'cifar10': did you mean 'cifar'?"),
        ({"workers": 0}, "workers: 0: needs 1 or more"),
        ({"seed": 1}, "done: made with other seed: 0, now 1: choose another folder"),
        ({"severities": [1, 2]}, "done: made with other severities: [1], now [1, 2]: choose another folder"),
        ({"constants": "imagenet"}, "done: made with other constants: cifar, now imagenet: choose another folder"),
        ({"out": Path("filled")}, "filled: not empty, and without meta.json: choose another folder"),
        ({"out": Path("file")}, "file: not a folder"),
        ({"out": Path("other")}, "other/meta.json: not of `normbench corrupt`: choose another folder"),
        ({"dataset": "empty.npz"}, "empty.npz: no array 'test_images' among a"),
        ({"dataset": "text.npz"}, "text.npz: not an .npz file"),
        ({"dataset": "cut.npz"}, "cut.npz: a damaged or truncated zip file, not an .npz file"),
        ({"dataset": "page.npz"}, "page.npz: a web page, not an .npz file: the address that it was fetched from gave"),
        ({"dataset": "images.npy"}, "images.npy: a single array (.npy), not an .npz file with test_images, test_lab"),
        ({"dataset": "bare"}, "bare/test_labels.npy: no such file"),
        ({"dataset": "half"}, "half/test_images.npy: is damaged or truncated: mmap length is greater than file size"),
        (
            {"dataset": "real.npz"},
            "real.npz: test_images are float64, uint8 (0..255) is needed: for values in 0..1, (255 * images).round()",
        ),
        ({"dataset": "few.npz"}, "few.npz: test_labels are 3 for 7 test_images"),
        (
            {"dataset": "flat.npz"},
            "flat.npz: test_images are 7 x 1024; N x H x W x C is needed, C 1 or 3;"
            " rows of pixels become images by images.reshape(-1, 32, 32)",
        ),
        (
            {"dataset": "small.npz"},
            "small.npz: test_images: images of shape (1, 32, 7, 1): corruptions need a side of 8 pixels or more",
        ),
        ({"out": layout.DATA / "scenes/corrupted"}, "build/data/scenes/corrupted: is in the folder of the dataset, "),
        (
            {"out": layout.DATA / "scenes"},
            "build/data/scenes: is in the folder of the dataset, build/data/scenes: choose",
        ),
    ],
)
def test_refuses_in_one_line(
    change: dict[str, Any], line: str, scenes: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    module.export("scenes", Path("done"), ["contrast"], [1])
    for folder, name, text in (("filled", "a", "a"), ("other", "meta.json", "[]")):
        Path(folder).mkdir()
        (Path(folder) / name).write_text(text)
    Path("file").write_text("")
    Path("text.npz").write_text("a note")
    Path("page.npz").write_text("\n<!DOCTYPE html><title>Sign in</title>")
    np.savez("empty.npz", a=images)
    Path("cut.npz").write_bytes(Path("empty.npz").read_bytes()[:-9])
    np.save("images.npy", images)
    for folder in ("bare", "half"):
        Path(folder).mkdir()
        shutil.copy("images.npy", f"{folder}/test_images.npy")
    np.save("half/test_labels.npy", np.arange(7))
    os.truncate("half/test_images.npy", 5000)
    np.savez("small.npz", test_images=images[..., :7, 0], test_labels=np.arange(7))
    np.savez("real.npz", test_images=images / 255, test_labels=np.arange(7))
    np.savez("few.npz", test_images=images, test_labels=np.arange(3))
    np.savez("flat.npz", test_images=images.reshape(7, -1)[:, :1024], test_labels=np.arange(7))
    before = sorted(str(path) for path in Path().rglob("*"))
    arguments: dict[str, Any] = {"dataset": "scenes", "out": Path("done"), "names": ["contrast"], "severities": [1]}
    with pytest.raises(UserError) as caught:
        module.export(**{**arguments, **change})
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert sorted(str(path) for path in Path().rglob("*")) == before


@pytest.mark.parametrize("form", ["column", "no channel axis", "channels first", "one-hot", "not square"])
def test_what_has_one_reading_is_taken(form: str, scenes: Path, images: np.ndarray) -> None:
    labels, wanted = np.arange(7), images
    given = {"test_images": images, "test_labels": labels}
    match form:
        case "column":
            given["test_labels"] = labels[:, None].astype(">f8")
        case "no channel axis":
            given["test_images"], wanted = images[..., 0], images[..., :1]
        case "channels first":
            given["test_images"] = images.transpose(0, 3, 1, 2).astype(np.int64)
        case "one-hot":
            given["test_labels"] = np.eye(7)
        case "not square":
            given["test_images"] = wanted = images[:, :20]
    np.savez("own.npz", **given)
    module.export("own.npz", Path("out"), ["contrast", "glass_blur"], [2])
    for name in ("contrast", "glass_blur"):
        np.testing.assert_array_equal(np.load(f"out/{name}.npy"), corrupt(wanted, name, 2))
    assert np.load("out/labels.npy").tolist() == labels.tolist()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("closed").mkdir(mode=0o500)
    assert run(monkeypatch, "scenes", "--out", "closed/out", "--names", "contrast") == 1
    assert capsys.readouterr().err == "closed/out: Permission denied\n"


def test_a_file_where_a_folder_should_be_is_one_line(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("file").write_text("")
    assert run(monkeypatch, "scenes", "--out", "file/out", "--names", "contrast") == 1
    assert capsys.readouterr().err == "file/out: Not a directory\n"


def test_an_error_is_one_line(scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert run(monkeypatch, "scenes", "--out", "out", "--severities", "9") == 1
    assert capsys.readouterr().err == "severities [9]: valid: some of 1, 2, 3, 4, 5, ascending\n"


# ------------------------------------------------------------------------------------------------------ processes


@needs_fork
def test_bytes_do_not_depend_on_the_workers(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corrupted, "IMAGES", 3)
    for workers in (1, 2, 4):
        write_corrupted(scenes, Path(f"made{workers}"), list(NAMES), [1, 4], 5, workers=workers)
        module.export("scenes", Path(f"exported{workers}"), list(NAMES), [1, 4], 5, workers=workers)
    for file in sorted(Path("made1").iterdir()):
        for other in ("made2", "made4"):
            assert (Path(other) / file.name).read_bytes() == file.read_bytes(), file.name
        for other in ("exported1", "exported2", "exported4"):
            if file.name != "meta.json":
                assert (Path(other) / file.name).read_bytes() == file.read_bytes(), file.name


def test_small_work_stays_in_one_process(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def noted(*arguments: Any) -> np.ndarray:
        seen.add(os.getpid())
        return corrupt(*arguments)

    monkeypatch.setattr(corrupted, "corrupt", noted)
    write_corrupted(scenes, Path("out"), ["contrast"], [1], 0)
    assert seen == {os.getpid()}


@needs_fork
@pytest.mark.parametrize("fault", ["error", "killed"])
def test_a_failing_worker_ends_the_whole(fault: str, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(images: np.ndarray, name: str, *rest: Any) -> np.ndarray:
        if name == "fog" and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "fog":
            raise UserError("fog: a line")
        return corrupt(images, name, *rest)

    monkeypatch.setattr(corrupted, "corrupt", failing)
    line = "^fog: a line$" if fault == "error" else "^a process was killed: "
    with pytest.raises(UserError, match=line):
        write_corrupted(scenes, Path("out"), ["contrast", "fog"], [1], 0, workers=2)
    assert sorted(path.name for path in Path().iterdir()) == ["build"]
    with pytest.raises(UserError, match=line):
        module.export("scenes", Path("out"), ["contrast", "fog"], [1], workers=2)
    assert {path.name for path in Path("out").iterdir()} <= {"contrast.npy", "labels.npy", "meta.json"}


def group_ends(group: int) -> bool:
    """Whether all processes of a group end within ten seconds. Their work would take minutes."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@needs_fork
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_no_worker_goes_on_alone(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal; SIGTERM and a kill reach the first one alone."""
    images = np.zeros((20000, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "own.npz", test_images=images, test_labels=np.zeros(20000, int))
    command = [sys.executable, "-m", "normbench", "corrupt", "own.npz", "--out", "out", "--workers", "2"]
    child = subprocess.Popen(
        [*command, "--names", "elastic_transform,snow"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            if list((tmp_path / "out").glob(".arrays.*.partial/snow.npy")):
                break
            time.sleep(0.1)
        time.sleep(0.5)
        (os.killpg if number == signal.SIGINT else os.kill)(child.pid, number)
        child.wait(timeout=60)
        assert group_ends(child.pid)
        lines = child.communicate()[1].splitlines()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    if number == signal.SIGKILL:
        assert left[0].startswith(".arrays.")
        assert left[1:] == ["labels.npy", "meta.json"]
        assert scratch.left_behind(tmp_path / "out") == [tmp_path / "out" / left[0]]
        np.savez(tmp_path / "own.npz", test_images=images[:1], test_labels=np.zeros(1, int))
        (tmp_path / "out/meta.json").unlink()  # the kill may come as early as this
        (tmp_path / "out/labels.npy").unlink()
        module.export(str(tmp_path / "own.npz"), tmp_path / "out", ["snow"], [1])
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["labels.npy", "meta.json", "snow.npy"]
        return
    assert child.returncode == (130 if number == signal.SIGINT else 75)
    assert lines == ["interrupted: what was finished is kept, the same command goes on"] * (number == signal.SIGINT)
    assert left == ["labels.npy", "meta.json"]


EARLY = """
import os, signal, sys, threading, time
from pathlib import Path
from normbench.corruptions.files import write_corrupted
from normbench.system import preemption

fork, first = os.fork, os.getpid()

def slowly() -> int:
    process = fork()
    if not process:
        time.sleep(1)
    return process

os.fork = slowly
preemption.watch()
threading.Timer(0.3, os.kill, (first, signal.SIGTERM)).start()
try:
    write_corrupted(Path(sys.argv[1]), Path("out"), ["fog", "snow"], [1], 0, workers=2)
finally:
    print("left by", "first" if os.getpid() == first else "worker", flush=True)
"""


@needs_fork
def test_a_signal_that_comes_while_workers_start_does_not_make_them_run_the_code_of_their_parent(scenes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY, str(scenes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "left by first\n", "")
    assert not Path("out").exists()


@needs_fork
def test_an_error_beside_the_workers_ends_them(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the results of some are taken, others are at work."""

    def slow(images: np.ndarray, name: str, *rest: Any) -> np.ndarray:
        if name == "fog":
            time.sleep(600)
        return corrupt(images, name, *rest)

    def stopped(path: Path) -> str:
        raise SystemExit(75)

    monkeypatch.setattr(corrupted, "corrupt", slow)
    for module_, call in ((module, module.export), (corrupted, write_corrupted)):
        monkeypatch.setattr(module_, "sha256", stopped)
        source: Any = "scenes" if call is module.export else scenes
        with pytest.raises(SystemExit):
            call(source, Path("out"), ["contrast", "fog"], [1], 0, workers=2)
        assert multiprocessing.active_children() == []
    assert sorted(path.name for path in Path("out").iterdir()) == ["labels.npy", "meta.json"]
