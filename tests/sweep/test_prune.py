"""`normbench runs prune` removes what no run of the suite needs, and nothing else."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from normbench.runs.run import FID_FEATURES
from normbench.sweep import prune
from normbench.system import files, scratch
from normbench.system.errors import UserError
from tests.support.suite_folder import SuiteFolder, records


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("NORMBENCH_STORE", "NORMBENCH_DOWNLOADS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


RUN = "0123456789abcdef"
LEFT = [  # where a killed process leaves something, now and in earlier versions
    "build/data/.digits.01234567.partial",
    "build/corrupted/.digits.01234567.partial",
    "build/trained/task/.variant.01234567.partial",
    "build/.bound.01234567.partial",
    "results/.report.html.01234567.partial",
    ".params.yaml.01234567.partial",
    f"runs/.{RUN}.01234567.partial",
    "runs/.import.01234567.partial",
    f"runs/{RUN}.unfinished/.000001-0123456789abcdef.pt.01234567.partial",
    "build/data/.digits.a1b2c3d4",
    "build/data/.digits.old.a1b2c3d4",
    f"runs/.{RUN}.a1b2c3d4",
    "runs/.import.a1b2c3d4",
]
KEPT = [
    "build/data/digits/meta.json",
    "results/leaderboard.csv",
    f"runs/{RUN}/record.json",
    f"runs/locks/{RUN}.lock",
    "runs/.gitignore",
    "build/.gitignore",
    "build/data/.gitignore",
    "downloads/.lock",
    "downloads/cifar10/cifar-10-python.tar.gz",
    ".git/.x.01234567.partial/file",
]


def test_remains_of_killed_processes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in LEFT:
        (here / name).mkdir(parents=True)
        (here / name / "file").write_bytes(bytes(2**19))
    for name in KEPT:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(b"kept")
    (here / "downloads/cifar10/b.gz.part").write_bytes(bytes(2**19))
    assert set(prune.remains()) == {Path(name) for name in (*LEFT, "downloads/cifar10/b.gz.part")}
    with (
        FileLock(here / f"runs/locks/{RUN}.lock"),  # of earlier versions
        files.atomic_folder("build/data/digits") as mine,
        (here / "downloads/cifar10/.lock").open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert set(prune.remains()) == {Path(name) for name in LEFT if name not in (LEFT[0], f"runs/.{RUN}.a1b2c3d4")}
        assert mine.is_dir()
        (mine / "meta.json").write_bytes(b"kept")
    (here / LEFT[0]).mkdir()

    with pytest.raises(UserError, match=r"params\.yaml: no such file"):  # so that the runs of the suite are not known
        prune.prune(finished=False, remove=True)
    printed = capsys.readouterr().out
    for name in (*LEFT[1:], "downloads/cifar10/b.gz.part"):
        assert not (here / name).exists()
        assert f"{name}: " in printed
    assert f"build/data/{LEFT[0].rpartition('/')[2]}: left behind by a process that was killed, 0.0 MiB" in printed
    assert "14 folders and files, 6.5 MiB, removed" in printed
    assert all((here / name).read_bytes() == b"kept" for name in KEPT if name != "downloads/.lock")
    assert prune.remains() == {}


def test_what_a_writer_had_whole_is_put_in_its_place(here: Path) -> None:
    """Where names cannot be exchanged: it was killed when it had moved the old folder away."""
    left = here / "build/data/.digits.01234567.partial"
    for name, text in (("digits", "new"), (scratch.OLD, "old")):
        (left / name).mkdir(parents=True)
        (left / name / "meta.json").write_text(text)
    with pytest.raises(UserError):
        prune.prune(finished=False, remove=True)
    assert [path.name for path in (here / "build/data").iterdir()] == ["digits"]
    assert (here / "build/data/digits/meta.json").read_text() == "new"


@pytest.mark.slow
def test_prune(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.edit("gan_tasks: [small-gan]", "gan_tasks: []")
    folder.edit("gan_variants: [batch_norm]", "gan_variants: []")
    store = tmp_path / "runs"
    printed = folder.run("normbench", "runs", "prune", code=1)
    assert printed == "dataset digits: not here yet, so that the runs of the suite are not known; " + (
        "`dvc repro bind` makes it\n"
    )
    folder.run("normbench", "sweep")
    assert len(records(store)) == 4
    folder.edit("seeds: [0, 1]", "seeds: [0]")
    folder.run("stages.resolve")
    seed_of = {run: record.seed for run, record in records(store).items()}
    ours = [run for run, seed in seed_of.items() if seed == 0]
    theirs = [run for run, seed in seed_of.items() if seed == 1]
    shutil.rmtree(store / ours[1])  # a run of the suite that is not finished
    state = [f"{run}.unfinished" for run in (ours[0], ours[1], theirs[0], "0" * 16)]
    for name in (*state, f".{ours[0]}.k1lled"):
        (store / name).mkdir()
        (store / name / "000001-0123456789abcdef.pt").write_bytes(bytes(2**20))
    lock = FileLock(store / "locks" / f"{'0' * 16}.lock")

    before = sorted(path.name for path in store.iterdir())
    with lock:  # somebody trains it
        printed = folder.run("normbench", "runs", "prune")
        assert "0" * 16 not in printed
    printed = folder.run("normbench", "runs", "prune")
    assert f"runs/{state[0]}: checkpoints of a finished run, 1.0 MiB" in printed
    assert f"runs/{state[2]}: checkpoints of a run that is not of the suite, 1.0 MiB" in printed
    assert f"runs/.{ours[0]}.k1lled: left behind by a process that was killed, 1.0 MiB" in printed
    assert "4 folders, 4.0 MiB, could be removed, with --remove" in printed
    assert sorted(path.name for path in store.iterdir()) == before

    assert "4 folders, 4.0 MiB, removed" in folder.run("normbench", "runs", "prune", "--remove")
    left = {path.name for path in store.iterdir()}
    assert left & {*state, f".{ours[0]}.k1lled"} == {state[1]}
    assert {*theirs, ours[0], "locks", "compiled"} & {*before} <= left
    assert "nothing is needless" in folder.run("normbench", "runs", "prune")

    features = store / ("f" * 16)  # the FID's classifier, which is in no suite
    features.mkdir()
    record = files.read_json(store / ours[0] / "record.json")
    record["provenance"]["task"]["name"] = FID_FEATURES
    files.write_json(features / "record.json", record)
    printed = folder.run("normbench", "runs", "prune", "--finished", "--remove")
    assert printed.count("finished, not of the suite") == 2
    assert set(records(store)) == {ours[0], features.name}
