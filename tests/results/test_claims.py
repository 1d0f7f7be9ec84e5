"""Claims of papers: what claims.yaml may hold, and what made-up results with known truth say about each kind of claim."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from normbench.data.labels import LabelNoise
from normbench.results.tables import aggregate
from normbench.results.tables.claims.declared import declared
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.claims.table import COLUMNS, claim_table, claims_markdown
from normbench.results.tables.corruptions import Corruptions
from normbench.results.tables.costs import costs
from normbench.results.tables.facts import facts
from normbench.results.tables.means import Runs
from normbench.results.tables.reasons import UNTIMED
from normbench.results.tables.table import Row, Table
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system.errors import UserError
from normbench.training.recipe import Adversary
from tests.results.made_up_suite import rows
from tests.support.records import EPOCHS, change, record

ROOT = Path(__file__).resolve().parents[2]
COMPARISON = "comparison: {measure: clean_accuracy, of: {method: conv_norm}, against: {method: batch_norm}}"
SPEED = "cost: {column: images_per_second, of: {method: conv_norm}, against: {method: batch_norm}, at_least: 0.5}"


def cell(at: str, variant: str, method: str = "", seeds: int = 3, failed: int = 0, **changed: Any) -> Runs:
    """The runs of a variant at a task. failed: how many of them diverged.

    changed: the options of the variant (`options`), other values of the task (`task`), the score `smoothness` and the
    `features` of each seed, and the kind.
    """
    found = []
    for seed in range(seeds):
        diverged = seed >= seeds - failed
        scores = {name: changed[name][seed] for name in ("smoothness", "features") if name in changed}
        found.append(
            record(
                at,
                variant,
                seed,
                "diverged" if diverged else "finished",
                changed.get("kind", "classification"),
                metrics={} if diverged else scores,
                provenance={
                    "variant": {"method": method or variant, "options": changed.get("options", {})},
                    "task": changed.get("task", {}),
                },
            )
        )
    return {(at, variant): found}


def of_suite(*cells: Runs, gans: tuple[Runs, ...] = (), **tables: list[Row]) -> Measured:
    """Results of a suite. tables: the rows of those that the runs do not give."""
    runs = {key: value for each in cells for key, value in each.items()}
    gan_runs = {key: value for each in gans for key, value in each.items()}
    suite = Suite(
        seeds=[0, 1, 2],
        datasets=["digits"],
        baseline="batch_norm",
        tasks=list(dict.fromkeys(task for task, _ in runs)),
        variants=list(dict.fromkeys(variant for _, variant in runs)),
        gan_tasks=list(dict.fromkeys(task for task, _ in gan_runs)),
        gan_variants=list(dict.fromkeys(variant for _, variant in gan_runs)),
    )
    of_kinds = {Kind.CLASSIFICATION: runs, Kind.GAN: gan_runs}
    origin = facts(suite, Corruptions(names=["contrast"], severities=[1]), of_kinds)
    boards = {
        name: [{"task": task, "variant": variant} | costs(records) for (task, variant), records in of.items()]
        for name, of in (("leaderboard", runs), ("gan", gan_runs))
    }
    boards["leaderboard"].reverse()  # ranked by accuracy, which says nothing of the order of the suite
    return Measured({name: Table({}, each) for name, each in (boards | tables).items()}, origin, runs)


def judged(evidence: str, measured: Measured, tasks: str = "{}", within_build: bool = True) -> tuple[str, str]:
    """Outcome and evidence of one claim, from a file of claims."""
    path = Path("claims.yaml")
    path.write_text(
        f"claims:\n  mine:\n    paper: P\n    statement: S.\n    tasks: {tasks}\n    evidence: {{{evidence}}}\n",
        encoding="utf-8",
    )
    (row,) = claim_table(declared(path), measured, within_build).rows
    assert (row["claim"], row["paper"], row["statement"]) == ("mine", "P", "S.")
    return row["outcome"], row["evidence"]


def compared(task: str, variant: str, other: str, difference: float, verdict: str, **changed: Any) -> Row:
    """A row of results/comparisons.csv."""
    return {
        "kind": "classification",
        "task": task,
        "measure": "clean_accuracy",
        "variant": variant,
        "other": other,
        "seeds": 3,
        "examples": 360,
        "difference": difference,
        "low": difference - 0.008,
        "high": difference + 0.004,
        "verdict": verdict,
        "smallest_effect": 0.019,
        "missing": "",
    } | changed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


TWO = (cell("a", "batch_norm"), cell("a", "conv_norm"))


# Paired comparisons


@pytest.mark.parametrize(
    ("verdict", "outcome", "said"),
    [
        ("better", "supported", "better"),
        ("worse", "contradicted", "worse"),
        ("indistinguishable", "undecided", "indistinguishable (an effect of 1.9 points would have shown)"),
    ],
)
def test_a_comparison(verdict: str, outcome: str, said: str) -> None:
    row = compared("a", "conv_norm", "batch_norm", 0.003, verdict)
    text = f"a: conv_norm +0.3 points [-0.5, 0.7] against batch_norm, 3 seeds: {said}"
    assert judged(COMPARISON, of_suite(*TWO, comparisons=[row])) == (outcome, text)


@pytest.mark.parametrize(
    ("verdict", "outcome", "said"),
    [("better", "contradicted", "worse"), ("worse", "supported", "better"), ("indistinguishable", "undecided", "indistinguishable (an effect of 1.9 points would have shown)")],
)  # fmt: skip
def test_a_comparison_that_the_table_has_the_other_way_round(verdict: str, outcome: str, said: str) -> None:
    row = compared("a", "batch_norm", "conv_norm", 0.003, verdict)
    text = f"a: conv_norm -0.3 points [-0.7, 0.5] against batch_norm, 3 seeds: {said}"
    assert judged(COMPARISON, of_suite(*TWO, comparisons=[row])) == (outcome, text)


def test_zero_has_no_sign_of_its_own() -> None:
    row = compared("a", "conv_norm", "batch_norm", -1e-9, "indistinguishable", low=-0.0004, high=0.02)
    _, text = judged(COMPARISON, of_suite(*TWO, comparisons=[row]))
    assert text.startswith("a: conv_norm +0.0 points [0.0, 2.0] against")


def test_no_verdict_is_undecided() -> None:
    nothing: dict[str, Any] = {"smallest_effect": math.nan, "low": math.nan, "high": math.nan}
    missing = compared("a", "conv_norm", "batch_norm", math.nan, "", seeds=0, **nothing | {"missing": "no seed"})
    measured = of_suite(*TWO, comparisons=[missing])
    assert judged(COMPARISON, measured) == ("undecided", "a: conv_norm against batch_norm: no seed")
    few = {"seeds": 1, "missing": "verdict: 1 seed in common, and a verdict needs 3"}
    row = compared("a", "conv_norm", "batch_norm", 0.01, "", **nothing | few)
    text = "a: conv_norm +1.0 points against batch_norm, 1 seed: 1 seed in common, and a verdict needs 3"
    assert judged(COMPARISON, of_suite(*TWO, comparisons=[row])) == ("undecided", text)


def test_what_was_not_compared_is_not_run() -> None:
    needs = "needs a task; variants of conv_norm and batch_norm; the measure clean_accuracy"
    other = compared("a", "conv_norm", "batch_norm", 0.003, "better", measure="attack_pgd")
    assert judged(COMPARISON, of_suite(*TWO)) == ("not run", needs)
    assert judged(COMPARISON, of_suite(*TWO, comparisons=[other])) == ("not run", needs)
    row = compared("a", "group_norm", "batch_norm", 0.003, "better")
    assert judged(COMPARISON, of_suite(TWO[0], cell("a", "group_norm"), comparisons=[row])) == ("not run", needs)


def test_variants_are_found_by_their_method_and_options() -> None:
    """Whatever their names: `conv_norm` is the name of another method's variant here."""
    cells = (
        cell("a", "plain", "batch_norm"),
        cell("a", "conv_norm", "group_norm"),
        cell("a", "x", "conv_norm", options={"affine": True}),
        cell("a", "y", "conv_norm", options={"affine": False}),
    )
    table = [
        compared("a", "plain", "conv_norm", 0.02, "better"),
        compared("a", "plain", "x", -0.02, "worse"),
        compared("a", "plain", "y", 0.02, "better"),
    ]
    outcome, text = judged(COMPARISON, of_suite(*cells, comparisons=table))
    assert outcome == "contradicted"
    assert [part.split(" ")[1] for part in text.split("; ")] == ["x", "y"]
    affine = COMPARISON.replace("conv_norm}", "conv_norm, options: {affine: true}}")
    assert judged(affine, of_suite(*cells, comparisons=table))[0] == "supported"


@pytest.mark.parametrize(
    ("verdicts", "outcome"),
    [
        (("better", "better"), "supported"),
        (("better", "indistinguishable"), "undecided"),
        (("better", "worse"), "contradicted"),
        (("worse", "indistinguishable"), "contradicted"),
        (("better", ""), "undecided"),
    ],
)
def test_a_claim_is_about_all_of_its_tasks(verdicts: tuple[str, str], outcome: str) -> None:
    cells = [cell(task, variant) for task in ("a", "b") for variant in ("batch_norm", "conv_norm")]
    table = [compared(t, "conv_norm", "batch_norm", 0.01, v) for t, v in zip(("a", "b"), verdicts, strict=True)]
    found, text = judged(COMPARISON, of_suite(*cells, comparisons=table))
    assert found == outcome
    assert [part[:2] for part in text.split("; ")] == ["a:", "b:"]


KINDS_OF_TASKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "wide": {"model": "resnet18"},
    "noisy": {"label_noise": LabelNoise(fraction=0.4)},
    "clean": {"label_noise": LabelNoise(fraction=0.0)},
    "scarce": {"train_fraction": 0.1},
    "attacked": {"recipe": {"adversary": Adversary(kind="free")}},
    "other": {"dataset": "cifar10"},
}


@pytest.mark.parametrize(
    ("tasks", "about"),
    [
        ("{}", ["plain", "wide", "clean", "other"]),
        ("{label_noise: true}", ["noisy"]),
        ("{scarce_data: true}", ["scarce"]),
        ("{adversarial_training: true}", ["attacked"]),
        ("{datasets: [cifar10]}", ["other"]),
        ("{networks: [resnet18]}", ["wide"]),
        (f"{{epochs: {EPOCHS}}}", ["plain", "wide", "clean", "other"]),
        ("{epochs: 20}", []),
        ("{label_noise: true, scarce_data: true}", []),
    ],
)
def test_which_tasks_a_claim_is_about(tasks: str, about: list[str]) -> None:
    cells = [cell(t, v, task=changes) for t, changes in KINDS_OF_TASKS.items() for v in ("batch_norm", "conv_norm")]
    table = [compared(task, "conv_norm", "batch_norm", 0.01, "better") for task in KINDS_OF_TASKS]
    outcome, text = judged(COMPARISON, of_suite(*cells, comparisons=table), tasks)
    assert outcome == ("supported" if about else "not run")
    assert [part.partition(":")[0] for part in text.split("; ") if ":" in part] == about


def test_what_would_have_to_run_is_said() -> None:
    tasks = "{epochs: 1, label_noise: true, scarce_data: true, adversarial_training: true, networks: [vgg16, dpn92], datasets: [cifar10]}"
    assert judged(COMPARISON, of_suite(*TWO), tasks) == (
        "not run",
        "needs a task with 1 epoch and label noise and fewer training images than there are and adversarial training "
        "and the dataset cifar10 and each of vgg16, dpn92; variants of conv_norm and batch_norm; "
        "the measure clean_accuracy",
    )


@pytest.mark.parametrize(
    ("verdicts", "outcome", "end"),
    [
        ({"n1": "better", "n2": "better"}, "supported", "better"),
        ({"n1": "better"}, "undecided", "not run: n2"),
        ({"n2": "worse"}, "contradicted", "not run: n1"),
        ({"n1": "better", "n2": "indistinguishable"}, "undecided", "would have shown)"),
        ({}, "not run", "the measure clean_accuracy"),
    ],
)
def test_a_claim_about_all_networks_needs_all_of_them(verdicts: dict[str, str], outcome: str, end: str) -> None:
    """Ten networks, of which nine are better, do not support a claim about ten."""
    networks = {"n1": "vgg16", "n2": "resnet18", "n3": "resnet8"}
    cells = [cell(t, v, task={"model": m}) for t, m in networks.items() for v in ("batch_norm", "conv_norm")]
    table = [compared(task, "conv_norm", "batch_norm", 0.01, v) for task, v in verdicts.items()]
    table.append(compared("n3", "conv_norm", "batch_norm", -0.01, "worse"))  # is none of the two
    found, text = judged(COMPARISON, of_suite(*cells, comparisons=table), "{networks: [vgg16, resnet18]}")
    assert found == outcome
    assert text.endswith(end.replace("n1", "vgg16").replace("n2", "resnet18"))


@pytest.mark.parametrize(("verdict", "outcome"), [("better", "supported"), ("worse", "contradicted")])
def test_gans(verdict: str, outcome: str) -> None:
    """FID has no percent, and a task of the same name that trains classifiers is another one."""
    gans = (cell("g", "sn", "spectral_norm", kind="gan"), cell("g", "conv_norm", kind="gan"))
    row = compared("g", "conv_norm", "sn", -1.25, verdict, kind="gan", measure="fid", low=-2.0, high=-0.5)
    evidence = "comparison: {measure: fid, of: {method: conv_norm}, against: {method: spectral_norm}}"
    found = judged(evidence, of_suite(cell("g", "batch_norm"), gans=gans, comparisons=[row]))
    assert found == (outcome, f"g: conv_norm -1.2 [-2.0, -0.5] against sn, 3 seeds: {verdict}")
    assert judged(evidence, of_suite(*TWO)) == (
        "not run",
        "needs a GAN task; variants of conv_norm and spectral_norm; the measure fid",
    )


# The order of numbers


def networks(*norms: float) -> list[dict[str, Any]]:
    """The score `smoothness` of networks with two layers, whose norms have the given sums."""
    layers = [[{"name": name, "bound": norm / 2, "estimate": None} for name in ("conv", "head")] for norm in norms]
    local = {"mean": 1.0, "max": 2.0, "examples": 10}
    return [{"layers": each, "product": 2.0, "bound": 3.0, "local": local, "certified": {"36": 0.0}} for each in layers]


ORDER = "order: {column: layer_bound_sum, expected: lower, of: {method: conv_norm}, against: {method: batch_norm}}"


def test_lower_norms() -> None:
    """Differences of -9, -10 and -11: mean -10, standard error 1/sqrt(3), t(0.975, 2) = 4.302653."""
    measured = of_suite(
        cell("a", "batch_norm", smoothness=networks(20, 30, 40)),
        cell("a", "conv_norm", smoothness=networks(11, 20, 29)),
    )
    outcome, text = judged(ORDER, measured)
    half = 4.302653 / math.sqrt(3)
    numbers = f"20 against 30 of batch_norm, -10 [{-10 - half:.3g}, {-10 + half:.3g}], 3 seeds"
    assert (outcome, text) == ("supported", f"a: layer_bound_sum of conv_norm {numbers}: lower")
    assert judged(ORDER.replace("lower", "higher"), measured) == ("contradicted", text)


def test_norms_that_are_not_told_apart() -> None:
    """Differences of -1, 0 and 2.5: the effect that would have shown is that of two quantiles of Student's t."""
    measured = of_suite(
        cell("a", "batch_norm", smoothness=networks(20, 30, 40)),
        cell("a", "conv_norm", smoothness=networks(19, 30, 42.5)),
    )
    outcome, text = judged(ORDER, measured)
    error = math.sqrt(((-1.5) ** 2 + 0.5**2 + 2**2) / 2 / 3)
    assert outcome == "undecided"
    assert text.endswith(f"(an effect of {error * (4.302653 + 1.060660):.3g} would have shown)")


def test_several_variants_are_judged_together() -> None:
    """One difference is found alone, at p = 0.03, and not among five."""
    base, near = networks(30, 30, 30), networks(28, 29, 28.3)
    alone = of_suite(cell("a", "batch_norm", smoothness=base), cell("a", "x", "conv_norm", smoothness=near))
    assert judged(ORDER, alone)[0] == "supported"
    others = [cell("a", f"x{n}", "conv_norm", smoothness=networks(29, 30, 32)) for n in range(4)]
    five = of_suite(cell("a", "batch_norm", smoothness=base), cell("a", "x", "conv_norm", smoothness=near), *others)
    outcome, text = judged(ORDER, five)
    assert outcome == "undecided"
    assert text.count("indistinguishable") == 5


def test_equal_numbers_decide_nothing() -> None:
    evidence = ORDER.replace("layer_bound_sum", "certified_36").replace("lower", "higher")
    measured = of_suite(*(cell("a", v, smoothness=networks(2, 3, 4)) for v in ("batch_norm", "conv_norm")))
    outcome, text = judged(evidence, measured)
    assert (outcome, text.rpartition(": ")[2]) == ("undecided", "equal in all runs")


def test_seeds_are_paired_and_too_few_give_no_verdict() -> None:
    """The last seed of one variant diverged, so that two are left of three."""
    measured = of_suite(
        cell("a", "batch_norm", smoothness=networks(20, 30, 40)),
        cell("a", "conv_norm", failed=1, smoothness=networks(11, 20, 29)),
    )
    text = "a: layer_bound_sum of conv_norm against batch_norm, 2 seeds: no verdict"
    assert judged(ORDER, measured) == ("undecided", text)


def test_networks_without_the_score_are_not_run() -> None:
    needs = "needs a task; variants of conv_norm and batch_norm; the score smoothness"
    assert judged(ORDER, of_suite(*TWO)) == ("not run", needs)


def maps(*last: float) -> list[dict[str, Any]]:
    """Feature maps of two blocks, the last of which has these maxima after training, and half of it before."""
    shares = {"rms": 1.0, "mean": 0.25, "low": 0.25, "middle": 0.25, "high": 0.25}
    return [
        {when: [shares | {"max": 7.0}, shares | {"max": factor * each}] for when, factor in (("initial", 0.5), ("trained", 1))}
        for each in last
    ]  # fmt: skip


@pytest.mark.parametrize(("when", "factor"), [("initial", 0.5), ("trained", 1)])
def test_feature_maps_of_the_last_block(when: str, factor: float) -> None:
    measured = of_suite(
        cell("a", "batch_norm", features=maps(20, 30, 40)), cell("a", "conv_norm", features=maps(11, 20, 29))
    )
    evidence = ORDER.replace("column: layer_bound_sum", f"when: {when}, column: max")
    outcome, text = judged(evidence, measured)
    assert outcome == "supported"
    assert text.startswith(f"a: max of conv_norm {20 * factor:g} against {30 * factor:g} of batch_norm, ")


# Costs


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [("at_least: 1.2", "supported"), ("at_most: 1.2", "contradicted"), ("at_most: 1.25", "supported"), ("at_least: 1.3", "contradicted")],
)  # fmt: skip
def test_memory(limit: str, outcome: str) -> None:
    board = [{"task": "a", "variant": v, "finished": 3, "peak_memory_mib": m, "runs": 3, "failed": 0} for v, m in (("batch_norm", 4.0), ("conv_norm", 5.0))]  # fmt: skip
    evidence = SPEED.replace("at_least: 0.5", limit).replace("images_per_second", "peak_memory_mib")
    text = "a: conv_norm has 1.25 times the memory of batch_norm"
    for place in (True, False):
        assert judged(evidence, of_suite(*TWO, leaderboard=board), within_build=place) == (outcome, text)


def timed(at: str, variant: str, *speeds: float | None, beside: int = 1, name: str = "Some CPU") -> Runs:
    """Runs that were timed beside others, or alone, on a machine of this name."""
    runs = cell(at, variant, seeds=len(speeds))
    return {
        key: [
            change(
                each, cost={"images_per_second": speed}, provenance={"device": {"side_by_side": beside, "name": name}}
            )
            for each, speed in zip(records, speeds, strict=True)
        ]
        for key, records in runs.items()
    }


BASE = timed("a", "batch_norm", *(100 * math.exp(each) for each in (-0.02, 0.0, 0.02)))


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [("at_least: 0.5", "supported"), ("at_least: 0.6", "undecided"), ("at_least: 0.7", "contradicted"), ("at_most: 0.7", "supported")],
)  # fmt: skip
def test_speed(limit: str, outcome: str) -> None:
    """Logarithms with means 0 and log 0.6 and deviations of 0.02: four degrees of freedom, t(0.975, 4) = 2.776445."""
    slower = timed("a", "conv_norm", *(60 * math.exp(each) for each in (-0.02, 0.0, 0.02)))
    half = 2.776445 * 0.02 * math.sqrt(2 / 3)
    between = f"[{0.6 * math.exp(-half):.2f}, {0.6 * math.exp(half):.2f}]"
    text = f"a: conv_norm has 0.60 times {between} the speed of batch_norm, 3 seeds"
    assert judged(SPEED.replace("at_least: 0.5", limit), of_suite(BASE, slower)) == (outcome, text)


def test_speeds_without_spread() -> None:
    text = "a: conv_norm has 0.50 times [0.50, 0.50] the speed of batch_norm, 3 seeds"
    cells = timed("a", "batch_norm", 100, 100, 100), timed("a", "conv_norm", 50, 50, 50)
    assert judged(SPEED.replace("0.5", "0.49"), of_suite(*cells)) == ("supported", text)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (timed("a", "conv_norm", 60, 61, 62, beside=2), "up to 2 runs shared the machine while they were timed"),
        (timed("a", "conv_norm", 60, 61, 62, name="Another CPU"), "timed on different machines"),
        (timed("a", "conv_norm", None, None, None), UNTIMED),
        (timed("a", "conv_norm", 60, 61), "2 runs timed: no verdict"),
        (timed("a", "conv_norm", 60, 61, None), "2 runs timed: no verdict"),
    ],
)
def test_speeds_that_cannot_be_compared(other: Runs, why: str) -> None:
    assert judged(SPEED, of_suite(BASE, other)) == ("undecided", f"a: conv_norm against batch_norm: {why}")


def test_files_that_are_committed_hold_no_times() -> None:
    outcome, text = judged(SPEED, of_suite(BASE, timed("a", "conv_norm", 60, 61, 62)), within_build=False)
    assert outcome == "see report"
    assert not any(char.isdigit() for char in text)
    needs = "needs a task; variants of conv_norm and batch_norm"
    assert judged(SPEED, of_suite(BASE), within_build=False) == ("not run", needs)


# Failures and bounds


@pytest.mark.parametrize(
    ("seeds", "failed", "outcome", "text"),
    [
        (3, 0, "supported", "a: 0 of 3 runs of conv_norm failed"),
        (3, 1, "contradicted", "a: 1 of 3 runs of conv_norm failed"),
        (1, 1, "contradicted", "a: 1 of 1 run of conv_norm failed"),
        (2, 0, "undecided", "a: 0 of 2 runs of conv_norm failed: no verdict"),
    ],
)
def test_failures(seeds: int, failed: int, outcome: str, text: str) -> None:
    evidence = "no_failures: {of: {method: conv_norm}}"
    measured = of_suite(TWO[0], cell("a", "conv_norm", seeds=seeds, failed=failed))
    assert judged(evidence, measured) == (outcome, text)
    assert judged(evidence, of_suite(TWO[0])) == ("not run", "needs a task; variants of conv_norm")


@pytest.mark.parametrize(
    ("layers", "outcome", "text"),
    [
        ([(2.0, 1.0), (3.0, 2.0), (5.0, 4.0)], "supported", "1.250 to 2.000 times the estimate of the norm, median 1.500, 3 layers"),
        ([(2.0, 1.0), (3.0, 3.0 * (1 + 1e-7))], "supported", "1.000 to 2.000 times the estimate of the norm, median 1.500, 2 layers"),
        ([(2.0, 1.0), (3.0, 3.1)], "contradicted", "0.968 to 2.000 times the estimate of the norm, median 1.484, 2 layers"),
        ([(2.0, 1.0), (3.0, math.nan), (math.nan, 1.0)], "supported", "2.000 to 2.000 times the estimate of the norm, median 2.000, 1 layer"),
    ],
)  # fmt: skip
def test_bounds(layers: list[tuple[float, float]], outcome: str, text: str) -> None:
    table = [{"task": "a", "variant": "conv_norm", "bound": bound, "estimate": norm} for bound, norm in layers]
    evidence = "bounds: {of: {method: conv_norm}}"
    assert judged(evidence, of_suite(*TWO, layers=table)) == (outcome, f"a: conv_norm {text}")


def test_layers_without_bounds_are_not_run() -> None:
    table = [{"task": "a", "variant": "conv_norm", "bound": math.nan, "estimate": 1.0}]
    needs = "needs a task; variants of conv_norm; the score smoothness"
    assert judged("bounds: {of: {method: conv_norm}}", of_suite(*TWO, layers=table)) == ("not run", needs)


@pytest.mark.parametrize(
    ("layers", "within", "outcome", "text"),
    [
        ([(1.0, 1.0), (0.995, 1.004)], "0.01", "supported", "0.995 to 1.004"),
        ([(1.0, 1.0), (0.995, 1.004)], "0.0045", "contradicted", "0.995 to 1.004"),
        ([(1.0, 1.02), (1.0, 1.0)], "0.01", "contradicted", "1.000 to 1.020"),
        ([(1.0, 1.0), (1.0, 1.0), (math.nan, math.nan)], "0.01", "supported", "1.000 to 1.000"),
    ],
)
def test_isometry(layers: list[tuple[float, float]], within: str, outcome: str, text: str) -> None:
    table = [{"task": "a", "variant": "conv_norm", "spectrum_low": low, "spectrum_high": high} for low, high in layers]
    evidence = f"isometry: {{of: {{method: conv_norm}}, within: {within}}}"
    said = f"a: conv_norm {text} times a channel's mean over frequencies, 2 layers"
    assert judged(evidence, of_suite(*TWO, layers=table)) == (outcome, said)


def bounds_of(
    *layers: tuple[float, float, float, float], norm: float = 1.0, kernel: str = "3x3"
) -> list[dict[str, Any]]:
    """Rows of results/bounds.csv."""
    return [
        {"task": "a", "variant": "conv_norm", "kernel": kernel, "fantastic_four": min(four), "zero_padded": norm}
        | dict(zip("rstu", four, strict=True))
        for four in layers
    ]


LEAST = [(1.0, 2.0, 2.0, 2.0), (2.0, 1.2, 2.0, 2.0), (2.0, 2.0, 1.4, 2.0), (2.0, 2.0, 2.0, 1.6)]
LINEAR = bounds_of((math.nan,) * 4, kernel="linear")


@pytest.mark.parametrize(
    ("table", "outcome", "text"),
    [
        (bounds_of(*LEAST) + LINEAR, "supported", "R 1, S 1, T 1, U 1, 4 layers"),
        (bounds_of(*LEAST[:3], LEAST[0]), "undecided", "R 2, S 1, T 1, U 0, 4 layers"),
        (bounds_of(*LEAST[:3]) + bounds_of(LEAST[3], kernel="1x1 / 2"), "undecided", "R 1, S 1, T 1, U 0, 3 layers"),
    ],
)
def test_each_of_the_four_is_the_least(table: list[dict[str, Any]], outcome: str, text: str) -> None:
    evidence = "four_bounds: {show: each_least, of: {method: conv_norm}}"
    said = f"a: conv_norm least one by number of layers: {text}"
    assert judged(evidence, of_suite(*TWO, bounds=table)) == (outcome, said)


@pytest.mark.parametrize(("at_most", "outcome"), [("1.31", "supported"), ("1.29", "contradicted")])
def test_the_least_of_the_four_is_close(at_most: str, outcome: str) -> None:
    evidence = f"four_bounds: {{show: close, of: {{method: conv_norm}}, at_most: {at_most}}}"
    said = "a: conv_norm 1.000 to 1.600 times the norm, median 1.300, 4 layers"
    assert judged(evidence, of_suite(*TWO, bounds=bounds_of(*LEAST) + LINEAR)) == (outcome, said)


def test_without_bounds_the_four_are_not_run() -> None:
    evidence = "four_bounds: {show: close, of: {method: conv_norm}}"
    needs = "needs a task; variants of conv_norm; the score certificates"
    assert judged(evidence, of_suite(*TWO, bounds=LINEAR)) == ("not run", needs)


def test_what_is_not_measured_is_not_run() -> None:
    evidence = "unmeasured: {needs: a score that stores filters}"
    assert judged(evidence, of_suite(*TWO)) == ("not run", "needs a score that stores filters")


# Filters


def filtered(iterations: int, **changed: Any) -> list[Row]:
    """The rows of results/filters.csv of three runs. changed: other numbers."""
    row: Row = {"task": "a", "variant": "conv_norm", "iterations": iterations, "own_iterations": 5, "ring": -0.4}
    row |= {"centre": 2.0, "sum": 0.02, "others": math.nan, "kurtosis_before": -0.8, "kurtosis_after": 0.6}
    row |= {"near_zero_before": 0.07, "near_zero_after": 0.08}
    return [row | {"seed": seed} | changed for seed in (0, 1, 2)]


def filters_say(show: str, *each: list[Row]) -> tuple[str, str]:
    table = [row for some in each for row in some]
    return judged(f"filters: {{show: {show}, of: {{method: conv_norm}}}}", of_suite(*TWO, filters=table))


@pytest.mark.parametrize(
    ("changed", "outcome", "shown"),
    [
        ({}, "supported", "-0.400 of the centre beside it and +0.020 in all"),
        ({"sum": -0.099}, "supported", "-0.400 of the centre beside it and -0.099 in all"),
        ({"sum": -0.101}, "undecided", "-0.400 of the centre beside it and -0.101 in all"),
        ({"ring": 0.001}, "contradicted", "+0.001 of the centre beside it and +0.020 in all"),
    ],
)
def test_a_surround_is_judged_after_the_most_iterations(changed: dict[str, float], outcome: str, shown: str) -> None:
    few, many = filtered(5, ring=-0.06, sum=0.6), filtered(15)
    many[1] |= changed
    text = f"a: conv_norm {shown} after 15 iterations (-0.060 beside it after the 5 of the network), 3 seeds"
    assert filters_say("centre_surround", many, few) == (outcome, text)


@pytest.mark.parametrize("ring", [-0.4, 0.1])
def test_few_iterations_decide_nothing_about_a_surround(ring: float) -> None:
    text = f"a: conv_norm {ring:+.3f} of the centre beside it and +0.020 in all after 14 iterations, "
    text += "of which 15 are needed, 3 seeds"
    assert filters_say("centre_surround", filtered(14, ring=ring, own_iterations=14)) == ("undecided", text)


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, "supported"),
        ({"near_zero_after": 0.06}, "undecided"),
        ({"kurtosis_after": -0.9}, "undecided"),
        ({"kurtosis_after": -0.9, "near_zero_after": 0.06}, "contradicted"),
    ],
)
def test_sparser_is_judged_with_the_iterations_of_the_network(changed: dict[str, float], outcome: str) -> None:
    numbers = filtered(5)[0] | changed
    text = (
        f"a: conv_norm excess kurtosis -0.80 before and {numbers['kurtosis_after']:.2f} after, near zero 7.0 % before "
    )
    text += f"and {100 * numbers['near_zero_after']:.1f} % after, 5 iterations, 3 seeds"
    others = filtered(15, kurtosis_after=-2.0, near_zero_after=0.0)
    assert filters_say("sparser", filtered(5, **changed), others) == (outcome, text)


def test_filters_without_sparsity_and_networks_without_filters() -> None:
    found = filters_say("sparser", filtered(5, kurtosis_before=math.nan))
    assert found == ("undecided", "a: conv_norm next to no variance, 3 seeds")
    needs = "needs a task; variants of conv_norm; the score filters"
    assert filters_say("sparser", filtered(5, variant="batch_norm")) == ("not run", needs)


# The file


def problem(text: str) -> str:
    Path("claims.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        declared()
    return str(caught.value)


GOOD = f"claims:\n  mine:\n    paper: P\n    statement: S.\n    evidence:\n      {COMPARISON}\n"
AT = "claims.mine.evidence"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("paper: P", "papr: P", "claims.yaml:3: claims.mine.papr = 'P': unknown key; did you mean 'paper'?"),
        ("    statement: S.\n", "", "claims.yaml:2: claims.mine.statement: missing"),
        ("statement: S.", "statement: 5", "claims.yaml:4: claims.mine.statement = 5: must be text: write it in quotes"),
        ("clean_accuracy", "clean_acuracy", f"claims.yaml:6: {AT}.comparison.measure = 'clean_acuracy': not valid; did you mean 'clean_accuracy'?"),
        ("measure:", "measur:", f"claims.yaml:6: {AT}.comparison.measur = 'clean_accuracy': unknown key; did you mean 'measure'?"),
        ("comparison:", "comparisn:", f"claims.yaml:6: {AT}.comparisn: unknown key; did you mean 'comparison'?"),
        (COMPARISON, "unmeasured: {needs: x}\n      no_failures: {of: {method: fixup}}", f"claims.yaml:5: {AT}: must have one of comparison, order, cost"),
        ("evidence:\n      " + COMPARISON, "evidence: {}", f"claims.yaml:5: {AT} = {{}}: must have one of comparison, order, cost"),
        ("method: conv_norm", "method: convnorm", f"claims.yaml:6: {AT}.comparison.of.method = 'convnorm': no method; did you mean 'conv_norm'?"),
        ("method: conv_norm", "methd: conv_norm", f"claims.yaml:6: {AT}.comparison.of.methd = 'conv_norm': unknown key; did you mean 'method'?"),
        ("    evidence", "    tasks: {epochs: many}\n    evidence", "claims.yaml:5: claims.mine.tasks.epochs = 'many': must be a whole number"),
        ("    evidence", "    tasks: {epoch: 1}\n    evidence", "claims.yaml:5: claims.mine.tasks.epoch = 1: unknown key; did you mean 'epochs'?"),
        (COMPARISON, ORDER.replace("layer_bound_sum", "layer_bound_sums"), f"claims.yaml:6: {AT}.order.column = 'layer_bound_sums': no number of results/smoothness.csv; did you mean 'layer_bound_sum'?"),
        (COMPARISON, ORDER.replace("column: layer_bound_sum", "when: trained, column: rmss"), f"claims.yaml:6: {AT}.order.column = 'rmss': no number of results/features.csv; did you mean 'rms'?"),
        (COMPARISON, "filters: {show: sparsr, of: {method: conv_norm}}", f"claims.yaml:6: {AT}.filters.show = 'sparsr': not valid; did you mean 'sparser'?"),
        (COMPARISON, SPEED.replace(", at_least: 0.5", ""), f"claims.yaml:6: {AT}.cost: needs a limit, either `at_least` or `at_most`"),
        (COMPARISON, SPEED.replace("0.5", "0.5, at_most: 1"), f"claims.yaml:6: {AT}.cost: needs a limit, either `at_least` or `at_most`"),
        ("  mine:", "  mine:\n    paper: Q", "claims.yaml:4: claims.mine.paper: stands here twice, first in line 3"),
        (GOOD, "claim: {}\n", "claims.yaml:1: claim = {}: unknown key; did you mean 'claims'?"),
        (GOOD, "claims: [\n", "claims.yaml:2: not YAML"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(old: str, new: str, said: str) -> None:
    Path("claims.yaml").write_text(GOOD, encoding="utf-8")
    assert list(declared()) == ["mine"]
    assert old in GOOD
    assert said in problem(GOOD.replace(old, new))


def test_all_mistakes_are_named_at_once() -> None:
    text = GOOD.replace("paper: P", "papr: P").replace("method: conv_norm", "methd: conv_norm")
    assert len(problem(text).splitlines()) == 4  # two unknown keys, and what is missing in their places


def test_without_the_file_there_are_no_claims() -> None:
    assert declared() == {}
    table = claim_table({}, of_suite(*TWO), timed=True)
    assert table.csv() == "claim,paper,statement,outcome,evidence\n"
    assert "No claim is declared." in claims_markdown(table)


def test_a_method_of_the_users_own() -> None:
    """It is the reference that stands in params.yaml."""
    path = "my_methods/mine.py:Mine"
    evidence = COMPARISON.replace("{method: conv_norm}", f"{{method: '{path}'}}")
    row = compared("a", "mine", "batch_norm", 0.003, "better")
    outcome, _ = judged(evidence, of_suite(TWO[0], cell("a", "mine", path), comparisons=[row]))
    assert outcome == "supported"


def test_the_claims_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = declared(ROOT / "claims.yaml")
    papers = [claim.paper.partition(",")[0] for claim in claims.values()]
    assert list(dict.fromkeys(papers)) == [
        "Network Deconvolution",
        "ConvNorm",
        "Spectral Batch Normalization",
        "Fantastic Four",
    ]
    assert len(claims["nd-ten-networks"].tasks.networks) == len(set(claims["nd-ten-networks"].tasks.networks)) == 10
    table = claim_table(claims, of_suite(cell("a", "group_norm")), timed=True)
    assert {row["outcome"] for row in table.rows} == {"not run"}


# The stage


def test_aggregate_writes_the_claims_of_the_user(suite: None) -> None:
    text = (ROOT / "claims.yaml").read_text(encoding="utf-8")
    own = "  '=mine|<b>':\n    paper: '*P* <script>'\n    statement: Ends.\n    evidence: {no_failures: {of: {method: no_norm}}}\n"
    Path("claims.yaml").write_text(text + own, encoding="utf-8")
    aggregate()
    first = {name: Path("results", name).read_bytes() for name in ("claims.csv", "claims.md")}
    found = {row["claim"]: row for row in rows("results/claims.csv")}
    assert list(found["sbn-no-explosion"]) == list(COLUMNS)
    assert found["sbn-no-explosion"]["outcome"] == "supported"
    mine = found["'=mine|<b>"]  # no formula
    assert (mine["outcome"], mine["evidence"]) == ("contradicted", "digits-resnet8: 1 of 3 runs of no_norm failed")
    assert found["nd-cost"]["outcome"] == "see report"
    assert (found["nd-filters"]["outcome"], found["nd-sparsity"]["outcome"]) == ("supported", "supported")
    assert {row["claim"]: row["outcome"] for row in rows("build/tables/claims.csv")}["nd-cost"] != "see report"
    shown = first["claims.md"].decode()
    assert "| =mine\\|\\<b\\> | \\*P\\* \\<script\\> | Ends. | contradicted |" in shown
    assert len({line.count(" | ") for line in shown.splitlines() if line.startswith("| ")}) == 1
    aggregate()
    assert {name: Path("results", name).read_bytes() for name in first} == first


def test_aggregate_without_claims(suite: None) -> None:
    aggregate()
    assert Path("results/claims.csv").read_text(encoding="utf-8") == ",".join(COLUMNS) + "\n"


def test_a_wrong_file_stops_the_stage_before_it_writes(suite: None) -> None:
    Path("claims.yaml").write_text("claims: {mine: {}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"claims.yaml:1: claims.mine.paper: missing"):
        aggregate()
    assert not Path("results").exists()
