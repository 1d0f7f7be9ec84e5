"""A folder with a suite of eight runs, of which some are trained, and a server for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from normbench.runs import store
from normbench.runs.run import Kind, Run
from normbench.serve import server
from normbench.serve.server import Server
from normbench.suite.suite import Suite
from normbench.system import files
from tests.support import sample_runs

TASK, GAN_TASK = "t", "gan<b>"
VARIANTS = ["v", "=w<script>"]
SEEDS = [0, 1]


def runs() -> dict[tuple[Kind, str, str, int], Run]:
    """The runs of the suite by their names."""
    found = {}
    for kind, task in ((Kind.CLASSIFICATION, sample_runs.task()), (Kind.GAN, sample_runs.gan_task(name=GAN_TASK))):
        for number, name in enumerate(VARIANTS):
            variant = sample_runs.variant(name=name, options={"eps": 0.1 * (number + 1)})
            for seed in SEEDS:
                found[kind, task.name, name, seed] = sample_runs.run(kind, seed, task=task, variant=variant)
    return found


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Kind, str, str, int], Run]:
    """The working directory has the suite, prepared and not trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMBENCH_STORE", "runs")
    Suite(
        seeds=SEEDS, datasets=["d"], tasks=[TASK], variants=VARIANTS, gan_tasks=[GAN_TASK], gan_variants=VARIANTS
    ).write(Path("build/resolved/suite.json"))
    made = runs()
    for (kind, task, variant, _), run in made.items():
        section = "gan_tasks" if kind is Kind.GAN else "tasks"
        run.task.write(Path(f"build/resolved/{section}/{task}.json"))
        run.variant.write(Path(f"build/resolved/variants/{variant}.json"))
        run.bound.write(Path(f"build/bound/{task}.json"))
        files.write_json(f"build/resolved/code/{'gan' if kind is Kind.GAN else 'train'}.json", {"digest": run.code})
    return made


def trained(run: Run) -> None:
    sample_runs.finished(run, store.folder(run.id))


@pytest.fixture
def served(suite: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of that folder at a free port, which looks at the disk for each request."""
    monkeypatch.setattr(server, "KEPT", 0.0)
    with server.opened("127.0.0.1", 0) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()
