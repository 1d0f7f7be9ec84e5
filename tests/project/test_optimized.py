"""Under `python -O`, which removes asserts, everything works and what is wrong is refused all the same."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from normbench.runs.contents import RECORD
from tests.support import forks
from tests.support.suite_folder import SuiteFolder

pytestmark = pytest.mark.slow


def test_from_the_data_to_another_store(tmp_path: Path) -> None:
    folder = SuiteFolder(tmp_path)
    folder.environment["PYTHONOPTIMIZE"] = "1"
    with forks.surrounded(folder.environment):
        assert forks.run("-c", "assert False", cwd=tmp_path, env=folder.environment).returncode == 0
        from_the_data_to_another_store(folder)


def from_the_data_to_another_store(folder: SuiteFolder) -> None:
    tmp_path = folder.path
    for old, new in {
        "variants: [batch_norm, group_norm]": "variants: [batch_norm]",
        "seeds: [0, 1]": "seeds: [0]",
        "gan_tasks: [small-gan]": "gan_tasks: []",
        "gan_variants: [batch_norm]": "gan_variants: []",
    }.items():
        folder.edit(old, new)
    folder.bind()
    one = ["--task", "small", "--variant", "batch_norm"]
    folder.run("stages.train", *one)
    folder.run("stages.evaluate", *one)
    folder.run("stages.aggregate")
    folder.run("stages.report")
    folder.run("normbench", "runs", "export")
    (archive,) = (tmp_path / "exported").glob("*.run.tar")
    there = str(tmp_path / "there")
    assert "1 runs taken" in folder.run("normbench", "runs", "import", "exported", NORMBENCH_STORE=there)

    # A link in place of the record: where an assert said so, tarfile's None would have been read.
    with tarfile.open(archive) as opened, tarfile.open(tmp_path / "x.run.tar", "w") as forged:
        for member in opened:
            content = opened.extractfile(member)
            if member.name == RECORD:
                member.type, member.size, member.linkname = tarfile.LNKTYPE, 0, "manifest.json"
            forged.addfile(member, content)
    refused = folder.run("normbench", "runs", "import", "x.run.tar", code=1, NORMBENCH_STORE=str(tmp_path / "third"))
    assert "x.run.tar: " in refused
    assert "Traceback" not in refused

    # A record of a classifier that says it is one of a GAN.
    record = tmp_path / f"build/trained/small/batch_norm/0/{RECORD}"
    gan = {"name": "g", "seed": 0, "seeds": [0], "dataset": "digits", "model": "sngan", "model_options": {"width": 8}}
    gan |= {"model_code": "x", "recipe": {"iterations": 4}}
    value = json.loads(record.read_text())
    value["provenance"]["task"] = gan
    record.write_text(json.dumps(value))
    refused = folder.run("stages.evaluate", *one, code=1)
    assert "Traceback" not in refused
    assert str(record.relative_to(tmp_path)) in refused
