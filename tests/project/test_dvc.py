"""dvc.yaml: each stage depends on all that shapes what it leaves, on code through the digest of what it means."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from normbench.runs.code import CERTIFIED
from normbench.runs.run import Kind
from normbench.runs.train import TRAINERS
from normbench.suite import code
from normbench.suite.suite import TRAINING_STAGES
from normbench.system import layout
from normbench.system.fingerprint import Root, closure

ROOT = Path(__file__).resolve().parents[2]
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
TRAINING = {stage: kind for kind, stage in TRAINING_STAGES.items()}
# `look` runs always, and `resolve` depends on the code itself. The code behind a dataset has its digest in the JSON of
# the dataset.
BY_DIGEST = [stage for stage in STAGES if stage not in ("look", "resolve", "download")]

# What carries results and shapes none: where files lie and how they are written, processes, messages, tables of names,
# and the types of what is passed on.
CARRIERS = (
    *(f"normbench/{folder}/" for folder in ("checks", "runs", "suite")),
    *(
        f"normbench/system/{name}.py"
        for name in (
            "digests",
            "errors",
            "files",
            "fingerprint",
            "layout",
            "meaning",
            "plugins",
            "preemption",
            "progress",
        )
    ),
    *(f"normbench/system/{name}.py" for name in ("npy", "ranks", "schema", "scratch", "side_by_side", "source_tree")),
    *(f"normbench/system/{name}.py" for name in ("blame", "intact", "narrowing", "quantities", "stage", "text")),
    "normbench/data/intact.py",
    *(f"normbench/{folder}/registry.py" for folder in ("evaluation", "methods", "models")),
    *(f"normbench/{name}.py" for name in ("data/bound", "gan/task", "methods/base", "models/base", "training/task")),
    *("normbench/gan/evaluation.py", "normbench/segmentation/task.py"),
)
# Definitions in other files that shape no result either, with what makes it so.
SHAPES_NOTHING = {
    "CLASSIFIER": "the digest has the code of what it names",
    "METHOD": "the digest has the code of what it names",
    "choose": "which device there is",
    "cores": "how many runs or scores are computed at a time",
    "KINDS": "which device there is",
    "installed_version": "the digest of a method has the version itself",
    "preload": "imports what is imported in any case",
    "keep_compiled": "kernels that are found again compute the same",
    "load_weights": "reads what the training left",
    "memory_format_name": "for the record",
    "step_memory": "a cost, measured once all else is made",
    "LiveBytes": "a cost, measured once all else is made",
    "FILM": "the name of a picture of a run",
    "SIDE": "the size of the picture that the check of a run expects",
    "ARRAYS": "what the check of the bytes reads",
    "BATCH": "how much of it the check of the bytes reads at a time",
    "BYTES": "how much of it the check of the bytes reads at a time",
    "at_a_time": "how much of it the check of the bytes reads at a time",
    "names_in": "what the check of the bytes reads",
    "STREAMED": "what the check of the bytes reads",
    "fingerprint": "the check of the bytes",
    "tensor_bytes": "a cost, measured once all else is made",
}
# What `bind` does to find mistakes, and what that uses: it stops the stage, or shapes nothing.
ONLY_TRIED = [("suite/trial.py", "check"), ("suite/feasible.py", "problems"), ("models/trial.py", "size_problem")]
# What reads streamed images: the description of such a dataset has its digest.
STREAMED = [("data/streamed.py", "load")]
# What `real` and `fid` do to have the weights of Inception: these have a sha256, which is in the resolved JSON.
ONLY_BRINGS = [("gan/inception.py", "read_weights")]
# Stages whose outputs a stage depends on, so that it runs again when their code changes.
AFTER = {"evaluate": ["corrupt", "train"], "real": ["train"], "fid": ["train", "gan", "real"]}


def dependencies(stage: str) -> list[str]:
    return [name.removesuffix("/") for name in STAGES[stage].get("deps", [])]


def calls(stage: str) -> list[Root]:
    """What the script of a stage calls, by its imports from normbench, and the function that trains its runs."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8"))
    used: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.setdefault(node.value.id, set()).add(node.attr)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("normbench"):
            place = ROOT / node.module.replace(".", "/")
            for name in (alias.name for alias in node.names):
                module = place / f"{name}.py"
                if module.is_file():
                    found += [Root(module, attribute) for attribute in sorted(used[name])]
                else:
                    found.append(Root(place / "__init__.py" if place.is_dir() else place.with_suffix(".py"), name))
    if stage in TRAINING:  # It is imported when it is needed, by its name.
        found.append(Root(ROOT / f"{TRAINERS[TRAINING[stage]].replace('.', '/')}.py", "train"))
    return found


def entry_points(stage: str) -> list[Root]:
    """The definitions from which the digest of a stage is made."""
    if stage == "download":
        return [Root(code.PACKAGE / "data/prepare.py", "prepare")]  # see `normbench.suite.code.source`
    places = code.TRAINING[TRAINING[stage]] if stage in TRAINING else code.STAGES[stage]
    return [Root(code.PACKAGE / file, name) for file, name in places]


def definitions(roots: list[Root]) -> set[tuple[str, str]]:
    return {(path.relative_to(ROOT).as_posix(), name) for path, name in closure(roots).definitions}


@pytest.mark.parametrize("stage", BY_DIGEST)
def test_a_stage_depends_on_the_digest_of_its_code(stage: str) -> None:
    assert {"build/resolved", f"build/resolved/code/{stage}.json"} & {*dependencies(stage)}


def test_each_stage_has_a_digest() -> None:
    found = code.of_stages({"contrast": "contrast"}, ["attacks"])
    assert set(found) == set(BY_DIGEST)
    assert all(re.fullmatch("[0-9a-f]{64}", value["digest"]) for value in found.values())
    assert len({value["digest"] for value in found.values()}) == len(found)
    assert set(found["corrupt"]["corruptions"]) == {"contrast"}
    assert set(found["evaluate"]["scores"]) == {"attacks"}


def test_the_digest_of_what_a_download_runs_is_in_the_json_of_its_dataset() -> None:
    assert "build/resolved/datasets/${item.dataset}.json" in dependencies("download")
    assert (ROOT / "normbench/data/prepare.py").relative_to(ROOT).as_posix() in {
        file for file, _ in definitions(calls("download"))
    }
    assert len(code.source("digits")) == 64
    assert code.source("digits") != code.source("mnist")


@pytest.mark.parametrize("stage", [*BY_DIGEST, "download"])
def test_the_entry_points_of_a_digest_are_what_its_stage_calls(stage: str) -> None:
    called = definitions(calls(stage))
    noted = {"streamed.py"} if stage == "bind" else set()  # of which it notes the digest
    for root in entry_points(stage):
        assert root.file.name in noted or (root.file.relative_to(ROOT).as_posix(), root.name) in called


@pytest.mark.parametrize("stage", [*BY_DIGEST, "download"])
def test_all_that_a_stage_calls_and_that_shapes_a_result_is_in_a_digest(stage: str) -> None:
    """In that of the stage, or in that of a stage whose outputs it depends on."""
    digested = definitions([root for each in (stage, *AFTER.get(stage, [])) for root in entry_points(each)])
    # The ids of runs whose recipe has a loss have a digest of that; that of a plain class covers how these are used.
    digested |= definitions([CERTIFIED])
    # Those of streamed datasets and of segmentation have digests of their own.
    apart = [*STREAMED, *code.TRAINING[Kind.SEGMENTATION], *(code.SEGMENTATION if stage == "evaluate" else [])]
    digested |= definitions([Root(code.PACKAGE / file, name) for file, name in apart])
    digested |= definitions([Root(code.PACKAGE / "methods/plain.py", "adapted")])
    digested |= (
        definitions([Root(code.PACKAGE / file, name) for file, name in ONLY_TRIED]) if stage == "bind" else set()
    )
    if stage in ("real", "fid"):
        digested |= definitions([Root(code.PACKAGE / file, name) for file, name in ONLY_BRINGS])
    left = {
        (file, name)
        for file, name in definitions(calls(stage)) - digested
        if not file.startswith(CARRIERS) and name not in SHAPES_NOTHING
    }
    assert left == set()


def test_carriers_are_there() -> None:
    assert [name for name in CARRIERS if not (ROOT / name).exists()] == []


def test_a_stage_that_scores_depends_on_the_outputs_of_those_that_train() -> None:
    task_and_variant = "${item.task}/${item.variant}"
    assert f"{layout.TRAINED}/{task_and_variant}" in dependencies("evaluate")
    assert f"{layout.GENERATED}/{task_and_variant}" in dependencies("fid")
    assert f"{layout.REAL}/${{item.task}}" in dependencies("fid")
    assert "build/resolved/gan_evaluation.json" in dependencies("fid")
    assert "build/resolved/gan_evaluation.json" in dependencies("real")


def test_what_gans_are_compared_with_has_the_training_of_its_features_in_its_digest() -> None:
    features = code.of_stages({}, [])["real"]["features"]
    assert features[0] == code.training(Kind.CLASSIFICATION)
    assert len(features) == 3


def test_resolve_depends_on_all_folders_from_which_code_is_read() -> None:
    """The package, the script, and each folder for files of one's own that a reader is told of."""
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "suites").glob("*.yaml"), ROOT / "params.yaml"]
    named = {name for path in texts for name in re.findall(r"\b(my_[a-z]+)/\w+\.py", path.read_text(encoding="utf-8"))}
    there = {path.name for path in ROOT.glob("my_*") if path.is_dir()}
    assert {"my_methods", "my_models"} <= named
    looked = layout.OUTSIDE.as_posix()
    assert {*dependencies("resolve")} == {looked, "params.yaml", "stages/resolve.py", "normbench", *named, *there}
    assert STAGES["look"]["outs"] == [{looked: {"persist": True}}]
    assert STAGES["look"]["always_changed"] is True


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_depends_on_a_source_file(stage: str) -> None:
    """An edit of one that changes no meaning would run it; but `resolve`, which reads them, takes the folders."""
    assert [name for name in dependencies(stage) if name.endswith(".py") and name != "stages/resolve.py"] == []
    if stage != "resolve":
        assert not [name for name in dependencies(stage) if name.startswith(("normbench", "my_", "stages"))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_the_script_of_its_name(stage: str) -> None:
    assert STAGES[stage]["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert (ROOT / f"stages/{stage}.py").is_file()


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_there(stage: str) -> None:
    for name in dependencies(stage):
        assert "${" in name or name.startswith("build/") or (ROOT / name).exists(), name
