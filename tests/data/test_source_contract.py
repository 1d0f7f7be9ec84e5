"""What all sources owe, for each that the table has, and a source of one's own from its file to its arrays."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

from normbench.data.sources import base, registry
from normbench.data.sources.base import Source, source
from normbench.suite import resolve
from normbench.suite.file import check_options
from normbench.suite.schema import Dataset
from normbench.system import files
from normbench.system.errors import UserError
from normbench.system.size import sides
from tests.support import forks
from tests.support.project import ROOT, environment

SOURCES = {name: registry.source_class(name) for name in registry.names()}


@pytest.mark.parametrize("name", SOURCES)
def test_contract(name: str) -> None:
    kind = SOURCES[name]
    assert kind.name == name
    assert kind.write is not Source.write
    assert not (kind.__doc__ or "").startswith(f"{kind.__name__}("), "it has only the docstring that dataclasses make"
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        assert field.name in hints
        assert any(f"{field.name}:" in (parent.__doc__ or "") for parent in kind.__mro__), f"{field.name} is explained"
    required = registry.required_options(kind)
    assert dict(check_options(kind, {}, "it")) == dict.fromkeys(required, "missing; it needs it")
    assert (name in registry.builtin_datasets()) == (not required and not kind.needs_image_size)
    assert kind.native_size is None or min(sides(kind.native_size)) >= 4
    assert kind.native_size is not None or name not in registry.builtin_datasets(), (
        "its size is known before a download"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "normbench/data/sources").glob("*.py")), ids=lambda path: path.stem)
def test_no_source_imports_torch_and_none_a_package_of_its_own_at_once(path: Path) -> None:
    def packages(node: ast.AST) -> set[str]:
        if isinstance(node, ast.Import):
            return {name.name.partition(".")[0] for name in node.names}
        return {(node.module or "").partition(".")[0]} if isinstance(node, ast.ImportFrom) else set()

    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "torch" not in {name for node in ast.walk(tree) for name in packages(node)}
    at_once = {name for node in tree.body for name in packages(node)}
    assert at_once <= {*sys.stdlib_module_names, "numpy", "PIL", "pydantic", "normbench"}


def test_the_keys_of_every_dataset_are_those_of_the_schema() -> None:
    assert set(base.COMMON_KEYS) == set(Dataset.model_fields)


OWN = '''
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from normbench.data.arrays import save
from normbench.data.sources.base import Origin, Request, Source, source


@source("levels")
@dataclass(frozen=True)
class Levels(Source):
    """Grey images whose brightness is that of their class."""

    classes: int
    step: float = 10.0
    native_size = 12

    def __post_init__(self):
        if self.classes * self.step > 255:
            raise ValueError("classes x step must be at most 255")

    def write(self, request: Request, out: Path) -> Origin:
        labels = np.arange(6 * self.classes) % self.classes
        images = np.broadcast_to((labels * self.step).astype(np.uint8)[:, None, None], (len(labels), 12, 12))
        save({"train_images": images, "train_labels": labels, "test_images": images[:4], "test_labels": labels[:4]},
             request, out)
        return Origin("made here")
'''
PARAMS = """
suite: {seeds: [0], datasets: [mine, mnist], tasks: [task], variants: [norm], baseline: norm, gan_tasks: [], gan_variants: []}
datasets:
  mine: {source: sources/levels.py:levels, classes: 4, image_size: 16}
tasks:
  task: {dataset: mine, model: resnet8, recipe: {epochs: 1}}
variants:
  norm: {method: batch_norm}
"""


@pytest.fixture
def own_source(own_folders: None) -> None:
    Path("sources").mkdir()
    Path("sources/levels.py").write_text(OWN)
    Path("params.yaml").write_text(PARAMS)


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forks.run(*arguments, cwd=Path.cwd(), env=environment(ROOT))


def run(*arguments: str) -> str:
    """What `python -m ARGUMENTS` prints, in a process that has seen no own file before."""
    done = called("-m", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_of_ones_own_is_enough(own_source: None) -> None:
    run("stages.resolve")
    resolved = files.read_json("build/resolved/datasets/mine.json")
    code = resolved.pop("source_code")
    assert resolved == {"name": "mine", "source": "sources/levels.py:levels", "image_size": 16, "mean": None, "std": None, "note": None, "classes": 4, "step": 10.0}  # fmt: skip
    assert files.read_json("build/resolved/datasets/mnist.json")["mirror"] is None, "a built-in dataset without a task"
    assert "mine: 24 + 4 images of 16x16x1 in 4 classes" in run("stages.download", "--dataset", "mine")
    assert np.load("build/data/mine/train_images.npy")[3, 5, 5, 0] == 30
    assert files.read_json("build/data/mine/meta.json")["source"] == "sources/levels.py:levels"

    # An edited file is another source: the dataset is prepared again, and no other.
    before = Path("build/resolved/datasets/mnist.json").read_bytes()
    Path("sources/levels.py").write_text(OWN.replace("= 10.0", "= 20.0"))
    assert run("normbench", "check").endswith("\nchanged since the last repro: datasets/mine\n")
    run("stages.resolve")
    resolved = files.read_json("build/resolved/datasets/mine.json")
    assert resolved["step"] == 20.0
    assert resolved["source_code"] != code
    assert Path("build/resolved/datasets/mnist.json").read_bytes() == before


def test_a_file_in_the_folder_of_the_package_is_enough(own_source: None) -> None:
    """A folder of the test's own stands for that of the package, to which its files belong in this process."""
    Path("sources/levels.py").write_text(OWN.replace("classes: int\n", "classes: int = 2\n"))
    Path("params.yaml").write_text(
        PARAMS.replace(
            "  mine: {source: sources/levels.py:levels, classes: 4, image_size: 16}", "  mine: {source: levels}"
        )
        .replace("datasets: [mine, mnist]", "datasets: [mine, levels]")
        .replace("dataset: mine", "dataset: levels")
    )
    code = (
        "import normbench.data.sources as package; package.__path__.append('sources')\n"
        "from normbench import cli; from normbench.suite import resolve; from stages.download import download\n"
        "cli.list_(); resolve.write(); download('mine'); download('levels')"
    )
    done = called("-c", code)
    assert done.returncode == 0, done.stderr
    assert "  levels(classes=2, step=10.0)\n" in done.stdout
    assert "levels: 12 + 4 images of 12x12x1 in 2 classes" in done.stdout


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{source: sources/levels.py:levels}", "datasets.mine.classes: missing; source levels needs it"),
        ("{source: sources/levels.py:levels, classes: 2.5}", "datasets.mine.classes = 2.5: must be a whole number"),
        ("{source: sources/levels.py:levels, classes: 3, stepp: 1.0}", "datasets.mine.stepp = 1.0: unknown key; did you mean 'step'?"),
        ("{source: sources/levels.py:levels, classes: 3, imagesize: 8}", "datasets.mine.imagesize = 8: unknown key; did you mean 'image_size'?"),
        ("{source: sources/levels.py:levels, classes: 100}", "datasets.mine: classes x step must be at most 255"),
        ("{source: sources/levels.py:level, classes: 3}", "datasets.mine.source = 'sources/levels.py:level': sources/levels.py registers no source level; did you mean 'levels'?"),
        ("{source: sources/level.py:levels, classes: 3}", "datasets.mine.source = 'sources/level.py:levels': no such file sources/level.py; did you mean 'sources/levels.py'?"),
        ("{source: digits, path: there}", "datasets.mine.path = 'there': unknown key: source digits does not have it; these do: cityscapes, imagefolder, maskfolder, npz, streamed"),
        ("{source: npz, pathh: there}", "datasets.mine.pathh = 'there': unknown key; did you mean 'path'?\nparams.yaml:4: datasets.mine.path: missing; source npz needs it"),
        ("{source: npz, path: 3}", "datasets.mine.path = 3: must be text: write it in quotes"),
        ("{source: imagefolder, path: there}", "datasets.mine.image_size: missing; source imagefolder needs it"),
        ("{source: cifar10, mirror: [there]}", "datasets.mine.mirror = [there]: must be text or null"),
    ],
)  # fmt: skip
def test_one_line_for_a_mistake_in_a_dataset(own_source: None, entry: str, expected: str) -> None:
    Path("params.yaml").write_text(
        PARAMS.replace("{source: sources/levels.py:levels, classes: 4, image_size: 16}", entry)
    )
    with pytest.raises(UserError) as caught:
        resolve.resolve(Path("params.yaml"))
    assert str(caught.value) == f"params.yaml:4: {expected}"


def test_one_line_for_a_mistake_in_its_code(own_source: None) -> None:
    run("stages.resolve")
    for old, new, said in (
        ('return Origin("made here")', 'return "made here"', "dataset 'mine': sources/levels.py:24: write returned a str; expected an Origin\n"),
        ("np.arange(6 *", "np.arage(6 *", "sources/levels.py:25: AttributeError: module 'numpy' has no attribute 'arage'"),
    ):  # fmt: skip
        Path("sources/levels.py").write_text(OWN.replace(old, new))
        done = called("-m", "stages.download", "--dataset", "mine")
        assert done.returncode == 1
        assert done.stderr.startswith(said), done.stderr
        assert done.stderr.count("\n") == 1
        assert not Path("build/data/mine").exists()


def test_an_option_that_is_a_list(own_folders: None) -> None:
    @dataclasses.dataclass(frozen=True)
    class Listed(Source):
        parts: list[str] = dataclasses.field(default_factory=list)

    assert check_options(Listed, {}) == []
    assert check_options(Listed, {"parts": ["a"]}) == []
    assert check_options(Listed, {"parts": "a"})[0][0] == "parts"


def test_what_cannot_be_registered() -> None:
    with pytest.raises(TypeError, match=r"needs a subclass of Source with @dataclass\(frozen=True\) below it"):

        @source("forgotten")
        class Forgotten(Source):
            path: str = ""

    with pytest.raises(TypeError, match="an option of source noted cannot be called 'note'"):

        @source("noted")
        @dataclasses.dataclass(frozen=True)
        class Noted(Source):
            note: str = ""


def test_the_list_shows_every_source_with_its_options() -> None:
    printed = run("normbench", "list").partition("dataset sources\n")[2].partition("\ncorruptions")[0].splitlines()
    assert sorted(line.strip().partition("(")[0] for line in printed) == sorted(SOURCES)
    assert "  npz(path, sha256=None)" in printed
