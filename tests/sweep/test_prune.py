"""`normbench runs prune` removes what no run of the suite needs, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from normbench.runs.run import FID_FEATURES
from normbench.system import files
from tests.support.suite_folder import SuiteFolder, records


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
