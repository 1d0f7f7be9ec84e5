"""The names of the benchmark and the constants of its corruptions, against the reference's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from normbench.corruptions import EXTRA, MAIN, NAMES, registry
from normbench.corruptions.constants import BENCHMARK, SETS
from normbench.system import files
from tests.oracles.corruptions import ORACLES
from tests.support.shared import CONSTANTS

ROOT = Path(__file__).resolve().parents[2]


def constants_of(benchmark: str) -> dict[str, tuple[Any, ...]]:
    return {name: registry.get(name).constants[benchmark] for name in BENCHMARK}


def test_names() -> None:
    assert len(MAIN) == 15
    assert len(EXTRA) == 4
    assert (*MAIN, *EXTRA) == BENCHMARK == NAMES[: len(BENCHMARK)]
    others = NAMES[len(BENCHMARK) :]
    assert [*others] == sorted(others)
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) == set(registry.TABLE.names())
    assert set(BENCHMARK) == set(ORACLES)


def test_constants_are_pinned() -> None:
    """As they were when they were compared with the reference's (below), and with its scripts."""
    pinned = "ea63f6624ef489491d9890d76395dc136754bd7232bd46a2f8af812d40bf548f"
    assert files.hash_of({benchmark: constants_of(benchmark) for benchmark in SETS}) == pinned


@pytest.mark.skipif(not CONSTANTS.exists(), reason="needs ../shared, the reference's constants")
@pytest.mark.parametrize(
    ("benchmark", "key", "side", "scale"),
    [("cifar", "cifar10_c", 32, 0.2), ("tiny_imagenet", "tiny_imagenet_c", 64, 0.3)],
)
def test_constants_are_the_reference_s(benchmark: str, key: str, side: int, scale: float) -> None:
    reference = json.loads(CONSTANTS.read_text())[key]
    assert set(reference) == set(BENCHMARK)
    for name, values in constants_of(benchmark).items():
        found: Any = [list(value) if isinstance(value, tuple) else value for value in values]
        if name == "zoom_blur":
            found = [f"arange(1, {stop}, {step})" for stop, step in values]
        if name == "frost":
            found = [[share, strength] for share, strength, _ in values]
            assert {value[2] for value in values} == {scale}
        if name == "elastic_transform":
            found = [[pytest.approx(part * side) for part in value] for value in values]
        assert found == reference[name], name


def test_zoom_factors_are_the_reference_s() -> None:
    """The last of severity 5 is a little above 1.25: it decides a rounding."""
    known = registry.get("zoom_blur").constants["cifar"]
    assert [len(np.arange(1, *constants)) for constants in known] == [7, 12, 16, 21, 26]
    assert np.arange(1, *known[4])[-1] == 1.2500000000000002


HEAVY = "{'torch', 'scipy', 'cv2', 'skimage', 'imagecorruptions'} & {*sys.modules}"


@pytest.mark.parametrize(
    ("imported", "loaded"),
    [
        (
            "from normbench.corruptions import MAIN",
            f"{HEAVY} | ({{'PIL', 'normbench.corruptions.noise'}} & {{*sys.modules}})",
        ),
        ("from normbench.corruptions import NAMES", HEAVY),
        ("import stages.corrupt", HEAVY),
    ],
)
def test_imports_are_light(imported: str, loaded: str) -> None:
    """The tables of results import the names alone: no corruption is imported for them, and nothing heavy for any."""
    code = f"import sys; {imported}; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"
