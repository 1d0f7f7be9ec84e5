"""Each check of the kit finds what it is for, in plain classes with one mistake each, and finds nothing in a right one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from normbench.checks.kit import case, learning, state, table
from normbench.checks.kit.table import CHECKS, FIRST, Check, Finding, examine
from normbench.methods import registry
from normbench.methods.base import ConvSpec, Method
from normbench.suite import kit, new
from normbench.system.errors import UserError
from tests.checks.broken import BROKEN, DOUBTFUL, HEAD, RIGHT, written
from tests.support import forks
from tests.support.project import ROOT, environment

# Checks that take longer than the others together.
LONG = {"compiling", "learning", "speed", "memory use", "memory growth", "modes agree"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(method: Method, *names: str, quick: bool = True) -> dict[str, Finding]:
    """What some of the checks find, and the first ones, by name."""

    def chosen(tried: table.Tried, checks: Sequence[Check]) -> list[Finding]:
        return [tried(check) for check in checks if check.name in names]

    return {finding.check: finding for finding in examine(method, quick, chosen)}


@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_fails_by_its_line(name: str, folder: Path) -> None:
    check, said, text = BROKEN[name]
    finding = found(written(folder, text), check)[check]
    assert (finding.outcome, said in finding.seen) == ("fail", True), finding
    assert "\n" not in finding.line()


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_doubtful_warns_by_its_line(name: str, folder: Path) -> None:
    check, said, text = DOUBTFUL[name]
    finding = found(written(folder, text), check)[check]
    assert (finding.outcome, said in finding.seen) == ("warn", True), finding
    assert finding.advice


def test_dropout_is_deterministic(folder: Path) -> None:
    text = """
        class Layer(Base):
            def forward(self, x):
                return functional.dropout(super().forward(x), 0.1, self.training)
        """
    finding = found(written(folder, text), "determinism")["determinism"]
    assert finding.outcome == "pass"
    assert "with draws of torch's generator, which checkpoints keep" in finding.seen


@dataclass(frozen=True)
class Undilated(Method):
    """A method that forgets one argument of its convolutions, or refuses it."""

    refuses: bool = False

    def conv(self, spec: ConvSpec) -> nn.Module:
        if self.refuses and spec.dilation > 1:
            raise ValueError("no dilation here")
        return super().conv(replace(spec, dilation=1))


def test_a_dilation_that_is_forgotten_or_refused() -> None:
    """The first is a mistake, the second a limit of the method."""
    forgot, refused = (found(Undilated(each), "geometries")["geometries"] for each in (False, True))
    assert forgot.outcome == "fail"
    assert "dilated convolutions: shape (4, 8, 10, 10); expected (4, 8, 8, 8)" in forgot.seen
    assert refused.outcome == "warn"
    assert "no dilation here" in refused.seen


def test_every_check_fails_or_warns_for_some_class() -> None:
    """The cost of a method is told, and never fails."""
    names = {check.name for check in (*FIRST, *CHECKS)}
    shown = {check for table in (BROKEN, DOUBTFUL) for check, _, _ in table.values()}
    assert names - shown == {"building", "speed", "memory use"}
    assert shown - names == {"channels"}


def test_nothing_is_found_in_a_right_class(folder: Path) -> None:
    names = [check.name for check in CHECKS if check.name not in LONG]
    findings = found(written(folder, RIGHT), *names)
    assert [finding.line() for finding in findings.values() if finding.outcome != "pass"] == []
    assert list(findings) == [*(check.name for check in FIRST), *names]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        # The mean is not moved to another type or device either.
        (
            "a running mean as a plain attribute",
            {"stored state", "float64", "bfloat16", "device", "finite differences"},
        ),
        ("an output of wrong shape", {"shapes"}),
        ("statistics of the batch in evaluation", {"other images"}),
        ("a parameter never used", {"parameters"}),
    ],
)
def test_one_mistake_fails_no_other_line_in_three_networks(name: str, lines: set[str], folder: Path) -> None:
    findings = found(
        written(folder, BROKEN[name][2]), *{check.name for check in CHECKS} - LONG - {"finite"}, quick=False
    )
    assert {finding.check for finding in findings.values() if finding.outcome == "fail"} == lines


def test_a_mistake_in_one_network_alone(folder: Path) -> None:
    """A norm that refuses maps of 32 x 32, which the plain network alone has."""
    text = "class Layer(Base):\n    def forward(self, x):\n        assert x.shape[-1] < 32\n        return super().forward(x)\n"
    method = written(folder, text)
    assert found(method)["shapes"].outcome == "pass"
    finding = found(method, quick=False)["shapes"]
    assert finding.outcome == "fail"
    assert "(vgg11)" in finding.seen


@pytest.mark.parametrize(("text", "outcome", "in_haste"), [(RIGHT, "warn", 1), (BROKEN["no learning"][2], "fail", 2)])
def test_learning_is_tried_again_in_haste_only_if_the_loss_has_not_fallen(
    text: str, outcome: str, in_haste: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found is the same as otherwise."""
    monkeypatch.setattr(learning, "ATTEMPTS", ((3, 0.1), (3, 0.05)))
    monkeypatch.setattr(learning, "ENOUGH", 2.0)  # which nothing reaches
    method = written(folder, text)
    for quick, attempts in ((True, in_haste), (False, 2)):
        finding = found(method, "learning", quick=quick)["learning"]
        assert (finding.outcome, finding.seen.count("at a learning rate of")) == (outcome, attempts), finding


def test_the_mistakes_of_the_suites_own_check_fail_too(folder: Path) -> None:
    path = folder / "mine.py"
    path.write_text(f"{HEAD}SHARED = nn.Parameter(torch.ones(1))\n{RIGHT}")
    line = len(HEAD.splitlines()) + 1
    finding = found(registry.build("mine.py:Layer", {}))["building"]
    assert (finding.outcome, finding.seen[: finding.seen.index(":", 8)]) == ("fail", f"mine.py:{line}")


def test_generators_and_settings_are_left_as_they_were(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found(written(folder, RIGHT), "repeated", "float64", "determinism")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_the_relative_difference() -> None:
    """Against the definition in numpy: it does not depend on what all rows have in common."""
    one, other = torch.tensor([[1.0, 5.0], [3.0, 9.0]]), torch.tensor([[1.0, 5.0], [3.0, 10.0]])
    centred = one.numpy() - one.numpy().mean(0)
    expected = ((one.numpy() - other.numpy()) ** 2).mean() ** 0.5 / (centred**2).mean() ** 0.5
    assert case.difference(one, other) == pytest.approx(expected)
    assert case.difference(one + 100, other + 100) == pytest.approx(expected)
    assert case.difference(one, torch.full_like(one, torch.nan)) == float("inf")
    assert case.difference(one, one) == 0


def test_what_counts_as_changed() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    assert case.changed({"x": a, "y": b}, {"x": a.clone(), "y": b + 1, "z": a}) == ["y", "z"]
    assert state.FEWER < state.STEPS == 200


# --- targets and the command -----------------------------------------------------------------------------------------


def test_a_target_is_a_variant_a_method_or_a_class(folder: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(f"{text}  thin: {{method: group_norm, options: {{channels_per_group: 2}}}}\n")
    assert kit.target("thin").method() == registry.build("group_norm", {"channels_per_group": 2})
    assert kit.target("thin", ["channels_per_group=4"]).options == {"channels_per_group": 4}
    assert kit.target("batch_norm", ["eps=1e-3"]).method() == registry.build("batch_norm", {"eps": 1e-3})
    written(folder, RIGHT)
    assert kit.target("mine.py:Layer", ["eps=1"]).method() == registry.build("mine.py:Layer", {"eps": 1.0})
    assert kit.target("torch.nn:InstanceNorm2d", ["affine=true"]).options == {"affine": True}
    Path("params.yaml").unlink()  # A method needs none.
    assert kit.target("conv_norm").reference == "conv_norm"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "batchnorm",
            [],
            "batchnorm: no variant of params.yaml, method or place of a class; did you mean 'batch_norm'?",
        ),
        ("batch_norm", ["epz=1"], "batch_norm: epz = 1: unknown option of BatchNorm; did you mean 'eps'?"),
        ("batch_norm", ["eps=-1"], "batch_norm: eps = -1: must be above 0"),
        ("batch_norm", ["eps"], "--option eps: expected name=value"),
        ("batch_norm", ["eps="], "--option eps=: expected name=value"),
        ("batch_norm", ["eps=[1"], "--option eps=[1:"),
        ("no/such/file.py:Layer", [], "no such file no/such/file.py"),
    ],
)
def test_what_is_no_target_gets_one_line(name: str, options: list[str], said: str, folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        kit.target(name, options).method()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return forks.run("-m", "normbench", *arguments, cwd=Path.cwd(), env=environment(ROOT))


def test_the_command_prints_json_and_exits_with_1(folder: Path) -> None:
    """For a class that fails at once, so that little is computed."""
    written(folder, BROKEN["an output of wrong shape"][2])
    done = command("check", "mine.py:Layer", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    value = json.loads(done.stdout)
    assert (value["target"], value["failed"]) == ("mine.py:Layer", ["shapes"])
    assert [each["outcome"] for each in value["checks"]] == ["pass", "fail"]


def test_all_checks_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """In forked processes; a line is printed for each, and the findings come back in the order of the table."""
    rows = tuple(check for check in CHECKS if check.name in ("sharing", "one pixel", "pickling"))
    monkeypatch.setattr(table, "CHECKS", rows)
    written(folder, DOUBTFUL["a function as an attribute"][2])
    findings = kit.run(kit.target("mine.py:Layer"), quick=True, shown=True)
    names = [check.name for check in (*FIRST, *rows)]
    assert [finding.check for finding in findings] == names
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "mine.py:Layer: Layer is taken for a norm whose number of channels is num_features"
    assert sorted(lines[1:]) == sorted(finding.line() for finding in findings)
    assert [finding.outcome for finding in findings] == ["pass", "pass", "pass", "pass", "warn"]
    assert kit.as_json(kit.target("mine.py:Layer"), findings)["failed"] == []


# --- normbench new ---------------------------------------------------------------------------------------------------


def test_a_new_norm_is_ready_to_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its test passes as it is, and so do format, lint and types of this project."""
    (folder / "my_methods").mkdir()
    lines = new.write("kit_norm")
    assert "my_methods/kit_norm.py:KitNorm" in lines[1]
    text = Path("my_methods/kit_norm.py").read_text()
    assert len(text.splitlines()) <= 35
    assert "normbench" not in text
    for tool in (["ruff", "format", "--check"], ["ruff", "check"]):
        options = ["--config", str(ROOT / "pyproject.toml"), "--config", "lint.isort.known-first-party=['normbench']"]
        done = subprocess.run([sys.executable, "-m", *tool, *options, "my_methods"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(folder / "my_methods")
    import test_kit_norm  # type: ignore[import-not-found]  # `normbench new` has just written it

    test_kit_norm.test_the_formula()
    test_kit_norm.test_no_check_fails()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "MyNorm",
            "new MyNorm: a name has lower-case letters, digits and underscores, as my_norm; did you mean 'my_norm'?",
        ),
        ("my-norm", "did you mean 'my_norm'?"),
        ("class", "new class: a name has lower-case letters"),
        ("../up", "did you mean 'up'?"),
        ("test_norm", "new test_norm: a name has"),
        ("torch", "new torch: an installed module has this name"),
        ("", "new : a name has"),
        ("there", "my_methods/there.py: exists already, and is kept"),
        ("tested", "my_methods/test_tested.py: exists already, and is kept"),
    ],
)
def test_a_bad_name_of_a_new_norm_gets_one_line(name: str, said: str, folder: Path) -> None:
    (folder / "my_methods").mkdir()
    for kept in ("there.py", "test_tested.py"):
        (folder / "my_methods" / kept).write_text("kept")
    with pytest.raises(UserError) as caught:
        new.write(name)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    contents = {path.name: path.read_text() for path in (folder / "my_methods").iterdir()}
    assert contents == {"there.py": "kept", "test_tested.py": "kept"}


def test_a_new_norm_needs_the_folder(folder: Path) -> None:
    with pytest.raises(UserError, match=r"^my_methods: no such folder; run from the repository's root$"):
        new.write("my_norm")
