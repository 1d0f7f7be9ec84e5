"""The README says what is: its commands run, its example is the file, its columns are those of the table."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from normbench.cli import app
from normbench.results import tables
from normbench.runs.run import Kind
from normbench.suite.compose import composed
from normbench.suite.resolve import resolve
from normbench.training.recipe import Recipe
from tests.support.project import ROOT, suites

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)

# Where each command of the README is run for real.
RUN_BY = {
    "make results": ".ci/run",
    "make test": ".ci/run",
    "dvc repro": "tests/project/test_pipeline.py",
    "dvc status": "tests/project/test_pipeline.py",
    "dvc metrics show": "tests/project/test_pipeline.py",
    "dvc plots show": "tests/project/test_pipeline.py",
    "normbench list": "tests/project/test_readme.py",
    "normbench check": "tests/project/test_readme.py",
    "normbench suite cifar10": "tests/project/test_readme.py",
    "normbench corrupt digits --out corrupted/digits": "tests/system/test_stages.py",
    "normbench diff HEAD": "tests/results/test_diff.py",
    "normbench serve": "tests/serve/test_server.py",
    "normbench plan": "tests/sweep/test_plan.py",
    "normbench sweep": "tests/sweep/test_sweep.py",
    "normbench runs list": "tests/sweep/test_sweep.py",
    "normbench runs export --to exported": "tests/runs/test_transfer.py",
    "normbench runs import exported": "tests/runs/test_transfer.py",
    "python -m stages.resolve": "tests/system/test_stages.py",
    "python -m stages.download --dataset digits": "tests/system/test_stages.py",
    "python -m stages.corrupt --dataset digits": "tests/system/test_stages.py",
    "python -m stages.bind": "tests/system/test_stages.py",
    "python -m stages.train --task digits-resnet8 --variant batch_norm": "tests/system/test_stages.py",
    "python -m stages.evaluate --task digits-resnet8 --variant batch_norm": "tests/system/test_stages.py",
}


def commands() -> list[str]:
    return [line for language, body in BLOCKS if language == "sh" for line in body.splitlines() if line]


def test_every_command_is_run_somewhere():
    assert set(commands()) == set(RUN_BY)
    for command, place in RUN_BY.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        word = command.split()[-1 if command.startswith("make") else 1].replace("python", "stages")
        assert word.split(".")[-1] in text, (command, place)


def test_list_and_check():
    for command in ("list", "check"):
        done = subprocess.run(["normbench", command], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if command == "list":
            assert "network_deconvolution(block=64" in done.stdout
            assert "gaussian_noise" in done.stdout


def test_suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`normbench suite cifar10` and back, with an edit that is not lost."""
    monkeypatch.chdir(tmp_path)

    def suite(*name: str) -> str:
        done = CliRunner().invoke(app, ["suite", *name, "--no-measure"])
        assert (done.exit_code != 0) == (name == ("cifar",)), done.output
        return f"{done.exception}" if name == ("cifar",) else done.output

    shutil.copytree(ROOT / "suites", tmp_path / "suites")
    params, digits = tmp_path / "params.yaml", (ROOT / "suites/digits.yaml").read_text(encoding="utf-8")
    params.write_text(digits, encoding="utf-8")
    assert "* digits: Handwritten digits" in suite()
    selected = suite("cifar10").splitlines()
    assert selected == [
        "params.yaml is suites/cifar10.yaml now: `make results` trains it",
        "66 runs: 2 tasks x 11 variants x 3 seeds",
    ]
    assert params.read_text(encoding="utf-8") == (ROOT / "suites/cifar10.yaml").read_text(encoding="utf-8")
    edited = digits.replace("epochs: 5", "epochs: 6")
    params.write_text(edited, encoding="utf-8")
    assert "params.yaml had edits: they are kept" in suite("digits")
    params.write_text(edited.replace("epochs: 6", "epochs: 7"), encoding="utf-8")
    assert "`normbench suite edited-2` brings them back" in suite("digits")
    suite("edited-1")
    assert params.read_text(encoding="utf-8") == edited
    assert suite("cifar").startswith("suite cifar: unknown; did you mean")


@pytest.mark.parametrize("path", suites(), ids=lambda path: path.stem)
def test_every_suite_is_in_order(path: Path, tmp_path: Path):
    params = tmp_path / "params.yaml"
    params.write_text(composed(path), encoding="utf-8")
    assert resolve(params).suite.seeds


def test_the_cifar10_suite_is_the_protocol_of_the_paper():
    tasks = resolve(ROOT / "suites/cifar10.yaml").tasks[Kind.CLASSIFICATION]
    recipe = tasks["cifar10-resnet18-20ep"].recipe
    assert isinstance(recipe, Recipe)
    assert tasks["cifar10-vgg16-20ep"].recipe == recipe
    assert recipe.weight_decay == 1e-3


def test_the_example_is_the_file():
    (example,) = [text for language, text in BLOCKS if language == "python" and "import normbench" not in text]
    assert example == (ROOT / "my_methods/rms_norm.py").read_text(encoding="utf-8")


def test_every_column_is_explained():
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([^|]*)` \|", page, flags=re.MULTILINE))
    names = {name for row in explained for name in re.split("`, `", row)}
    spread = {name for name in (*tables.LEADERBOARD, *tables.GAN) if name.endswith(("_std", "_verdict"))}
    assert {"..._std", "..._verdict"} < names
    assert {*tables.LEADERBOARD, *tables.GAN} - spread - names == {"task", "variant", "method", "missing"}


def test_pictures_and_links_are_there():
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", README):
        assert (ROOT / target).is_file(), target
