"""Tuned values in params.yaml: only they are new, and what stands there is resolved."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from normbench.runs.variant import Tuned
from normbench.suite.compose import composed
from normbench.suite.file import ParamsFile
from normbench.suite.resolve import resolve
from normbench.system.errors import UserError
from normbench.tuning.write import write
from tests.support.project import ROOT, suites
from tests.support.suite_folder import PARAMS

TUNED = Tuned(lr=0.0213, weight_decay=2.5e-5, options={"coefficient": 1e-5}, study="1234567890123456", trials=20)
PLAIN = TUNED.model_copy(update={"options": {}})


def lines(path: Path, before: str) -> list[str]:
    """The lines that differ, marked by - and +."""
    after = path.read_text().splitlines()
    return [line for line in difflib.ndiff(before.splitlines(), after) if line[0] in "-+"]


@pytest.mark.parametrize("suite", [ROOT / "params.yaml", *suites()], ids=lambda path: path.stem)
def test_only_the_line_of_the_variant_changes(suite: Path, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    before = composed(suite)
    path.write_text(before)
    suite_of = ParamsFile(path).params.suite
    if not suite_of.tasks:
        pytest.skip("a suite of GANs alone, which are not tuned")
    task, variant = suite_of.tasks[0], suite_of.baseline
    write(path, {(variant, task): PLAIN})
    changed = lines(path, before)
    assert changed
    assert all(variant in line or "tuned" in line or task in line for line in changed), changed
    assert ParamsFile(path).params.variants[variant].tuned == {task: PLAIN}
    write(path, {(variant, task): PLAIN.model_copy(update={"lr": 0.5})})
    assert ParamsFile(path).params.variants[variant].tuned[task].lr == 0.5
    assert path.read_text().count("tuned") == before.count("tuned") + 1


def test_comments_anchors_and_other_tasks_stay(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = """\
# At the top.
x-recipe: &recipe {epochs: 1, weight_decay: 5.0e-4}   # an anchor
suite: {seeds: [0], datasets: [digits], tasks: [a, b], variants: ["ff", bn], baseline: bn, gan_tasks: [], gan_variants: []}
tasks:
  a: {dataset: digits, model: resnet8, recipe: *recipe}

  b:
      dataset: digits   # four spaces
      model: resnet8
      recipe: {<<: *recipe, lr: 0.2}
variants:
  bn: {method: batch_norm}
  ff:     # the penalty
    method: 'fantastic_four'
    tuned:
      b: {lr: 1, weight_decay: 0.0, study: old, trials: 1} # kept
# At the end.
"""
    path.write_text(text)
    write(path, {("ff", "a"): TUNED, ("bn", "b"): PLAIN})
    after = path.read_text()
    for comment in ("# At the top.", "# an anchor", "# four spaces", "# the penalty", "# kept", "# At the end."):
        assert comment in after
    for kept in ("&recipe", "*recipe", "5.0e-4", "'fantastic_four'", '"ff"', "<<: *recipe"):
        assert kept in after
    assert "lr: 0.0213, weight_decay: 2.5e-05, options: {coefficient: 1e-05}, study: '1234567890123456'" in after
    found = resolve(path).variants
    assert found["ff"].tuned == {"a": TUNED, "b": Tuned(lr=1.0, weight_decay=0.0, study="old", trials=1)}
    assert found["bn"].tuned == {"b": PLAIN}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "{smal: {lr: 0.1, weight_decay: 0.0, study: s, trials: 1}}",
            "variants.batch_norm.tuned.smal: unknown task; did you mean 'small'?",
        ),
        ("{small-gan: {lr: 0.1, weight_decay: 0.0, study: s, trials: 1}}", "tuned.small-gan: unknown task"),
        (
            "{small: {lr: 0.1, weight_decay: 0.0, study: s, trials: 1, options: {epz: 1}}}",
            "tuned.small.options.epz = 1: unknown",
        ),
        (
            "{small: {lr: 0.1, weight_decay: 0.0, study: s, trials: 1, options: {eps: -1}}}",
            "tuned.small.options.eps = -1: must be above 0",
        ),
        ("{small: {weight_decay: 0.0, study: s, trials: 1}}", "tuned.small.lr: missing"),
    ],
)
def test_mistakes_are_one_line(entry: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(PARAMS.replace("{method: batch_norm}", f"{{method: batch_norm, tuned: {entry}}}"))
    with pytest.raises(UserError) as caught:
        resolve(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
