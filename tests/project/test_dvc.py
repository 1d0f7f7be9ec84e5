"""dvc.yaml: every file that shapes what a stage leaves is among what the stage depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from normbench.system import fingerprint
from normbench.training import loop

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

# What carries results and shapes none: where files lie, how they are written, processes, messages.
CARRIERS = {
    *(
        "normbench/runs/checkpoint.py",
        "normbench/system/errors.py",
        "normbench/system/files.py",
        "normbench/system/fingerprint.py",
    ),
    *(
        "normbench/system/side_by_side.py",
        "normbench/system/layout.py",
        "normbench/system/preemption.py",
        "normbench/system/progress.py",
    ),
    *("normbench/runs/provenance.py", "normbench/runs/run.py", "normbench/system/stage.py", "normbench/runs/store.py"),
    *("normbench/methods/registry.py", "normbench/models/registry.py", "normbench/system/plugins.py"),
}
# Read for names and constants alone; what they make is a dependency of its own.
NAMES_OF = {"aggregate": ("normbench/corruptions/",), "report": ("normbench/corruptions/",)}


def missing(stage: str, files: list[Path]) -> list[str]:
    deps = [name.removesuffix("/") for name in STAGES[stage]["deps"]]
    names = [path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"]
    found = [name for name in names if not any(name == dep or name.startswith(f"{dep}/") for dep in deps)]
    return [name for name in found if name not in CARRIERS and not name.startswith(NAMES_OF.get(stage, ("-",)))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_that_it_runs(stage: str) -> None:
    (script,) = (name for name in STAGES[stage]["deps"] if name.startswith("stages/"))
    found = missing(stage, fingerprint.closure(ROOT / script))
    # A method imports the base class and what its layers are made of; evaluation reads models and methods by name.
    allowed = {
        "download": {"normbench/data/labels.py", "normbench/system/seeds.py"},  # in the package's __init__
        "bind": {  # it reads which images a model takes
            "normbench/data/labels.py",
            "normbench/methods/base.py",
            "normbench/models/build.py",
            "normbench/system/seeds.py",
        },
        "evaluate": {
            "normbench/data/labels.py",
            "normbench/training/keeper.py",
            "normbench/training/adversary.py",
            "normbench/training/classify.py",
            "normbench/training/compilation.py",
            "normbench/training/meter.py",
            "normbench/training/numerics.py",
            *(name for name in found if name.startswith("normbench/methods/")),
        },
    }
    assert set(found) - allowed.get(stage, set()) == set()


@pytest.mark.parametrize(("stage", "file"), [("train", Path(loop.__file__)), ("gan", ROOT / "normbench/gan/loop.py")])
def test_a_stage_depends_on_what_is_in_the_id_of_its_runs(stage: str, file: Path) -> None:
    """Else a change would make runs missing that nobody asks for."""
    assert missing(stage, fingerprint.closure(file)) == []


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_there(stage: str) -> None:
    for name in STAGES[stage]["deps"]:
        assert "${" in name or name.startswith("build/") or (ROOT / name).exists(), name
