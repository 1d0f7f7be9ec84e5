"""Published numbers: the file of them, and results/published.csv, where they stand beside what was measured."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from normbench.data.bound import Validation
from normbench.data.labels import LabelNoise
from normbench.results.published import PATH, facts
from normbench.results.tables import aggregate
from normbench.results.tables.means import Runs
from normbench.results.tables.published import COLUMNS, MEASURES, METHODS, NETWORKS, published_table
from normbench.results.tables.table import Row
from normbench.runs.record import Record
from normbench.system.errors import UserError
from normbench.training.recipe import Adversary
from tests.results.made_up_suite import rows
from tests.support.records import record
from tests.support.shared import SHARED

GIVEN = SHARED / "spec/published_results.csv"
WORDED = ("protocol", "note")  # what is in words of its own here

RECIPE = {"epochs": 20, "batch_size": 128, "weight_decay": 1e-3, "crop_padding": 4, "flip": True}
FREE = Adversary(kind="free")
ATTACKED = RECIPE | {"epochs": 30, "weight_decay": 1e-4, "schedule": "step", "milestones": [10.0, 20.0]}
ATTACKS = {"attacks": {"epsilon": 8.0, "step": 2.0, "steps": 20, "restarts": 1}}
# Numbers of the reprint and of the replication, of ResNet-18 after 20 epochs on CIFAR-10.
PAPER, REPLICATED, REPLICATED_STD = 92.64, 92.35, 0.04


def run(seed: int, accuracy: float | None, variant: str = "batch_norm", **changed: Any) -> Record:
    """A run of ResNet-18 on CIFAR-10. accuracy: on the clean test images; None if it diverged.

    changed: of the task, the recipe (`recipe`), the options (`options`), the dataset (`dataset`) or the columns of the
    scores (`columns`).
    """
    recipe = RECIPE | changed.get("recipe", {})
    task = {"model": "resnet18", "model_options": {"width": 64}, "recipe": recipe} | changed.get("task", {})
    shape = {"name": "cifar10", "channels": 3, "image_size": 32, "train": 50_000, "test": 10_000}
    dataset = shape | {"mean": [0.5] * 3, "std": [0.25] * 3} | changed.get("dataset", {})
    metrics: dict[str, Any] = {
        "training_set": {"images": dataset["train"], "flipped_labels": 0.0},
        "history": [],
    }
    if accuracy is not None:
        epochs = range(1, recipe["epochs"] + 1)
        metrics["history"] = [{"epoch": n, "lr": 0.1, "loss": 1.0, "accuracy": 0.5} for n in epochs]
        metrics |= {"clean_accuracy": accuracy, "columns": changed.get("columns", {})}
    return record(
        variant=variant,
        seed=seed,
        status="finished" if accuracy is not None else "diverged",
        diverged=None if accuracy is not None else {"epoch": 0, "step": 3},
        metrics=metrics,
        provenance={
            "task": task,
            "dataset": dataset,
            "variant": {"method": changed.get("method", variant), "options": changed.get("options", {})},
            "evaluation": changed.get("evaluation"),
            "numerics": {key: recipe[key] for key in ("precision", "memory_format", "threads") if key in recipe},
        },
    )


def runs(accuracies: list[float | None], variant: str = "batch_norm", **changed: Any) -> Runs:
    """The runs of one variant, one a seed, of the task `mine`."""
    return {("mine", variant): [run(seed, each, variant, **changed) for seed, each in enumerate(accuracies)]}


def found(of: Runs, metric: str = "top-1 test accuracy") -> list[Row]:
    return [row for row in published_table(of, facts()).rows if row["metric"] == metric]


@pytest.mark.skipif(not GIVEN.exists(), reason="needs ../shared, where the published numbers come from")
def test_all_facts_are_there_as_they_were_given() -> None:
    def read(path: Path) -> list[dict[str, str]]:
        with path.open(encoding="utf-8", newline="") as file:
            return [{k: v for k, v in row.items() if k not in WORDED} for row in csv.DictReader(file)]

    given = read(GIVEN)
    assert len(given) == 418
    assert read(PATH) == given
    assert len(facts()) == 418


@pytest.mark.skipif(not GIVEN.exists(), reason="needs ../shared, where the published numbers come from")
def test_protocols_state_the_numbers_that_were_given() -> None:
    """The learning rate, batch size and weight decay of the file are those of the sentences that it was made from."""
    with GIVEN.open(encoding="utf-8", newline="") as file:
        sentences = [row["protocol"] for row in csv.DictReader(file)]
    marks = {"lr": "lr ", "batch_size": "batch ", "weight_decay": "wd ", "momentum": "momentum "}
    compared = Counter[str]()
    for fact, sentence in zip(facts(), sentences, strict=True):
        for key, mark in marks.items():
            if mark in sentence and "batch-norm" not in sentence:
                stated = sentence.partition(mark)[2].split()[0].rstrip(";,")
                assert fact.protocol[key] == float(stated), (sentence, key)
                compared[key] += 1
            elif key != "momentum":
                assert key not in fact.protocol, (sentence, key)
    assert all(count > 100 for count in compared.values()), compared


def test_every_name_of_the_mapping_is_published() -> None:
    for mapping, column in ((MEASURES, "metric"), (NETWORKS, "architecture"), (METHODS, "method")):
        assert set(mapping) <= {getattr(fact, column) for fact in facts()}


def test_accuracy_beside_the_paper_and_its_replication() -> None:
    """Three seeds of mean 92.5 and deviation 0.1: t(0.975, 2) = 4.302653, so the interval is 92.5 +- 0.248414."""
    paper, replicated = found(runs([0.924, 0.925, 0.926]))
    assert (paper["published"], replicated["published"]) == (PAPER, REPLICATED)
    assert replicated["published_std"] == REPLICATED_STD
    assert math.isnan(paper["published_std"])
    for row in (paper, replicated):
        assert row["ours"] == pytest.approx(92.5)
        assert row["ours_high"] - row["ours"] == pytest.approx(0.248414, abs=1e-6)
        assert row["ours"] - row["ours_low"] == pytest.approx(0.248414, abs=1e-6)
        assert (row["verdict"], row["seeds"], row["missing"]) == ("agrees", 3, "")
        assert row["recipe_difference"] == "none in what the source states"
    assert paper["difference"] == pytest.approx(92.5 - PAPER)


def test_far_numbers_differ() -> None:
    paper, replicated = found(runs([0.9285, 0.9295, 0.9305]))  # 92.95 - 0.2484 = 92.7016
    assert (paper["verdict"], replicated["verdict"]) == ("differs", "differs")
    assert (paper["difference"], replicated["difference"]) == (pytest.approx(0.31), pytest.approx(0.6))


@pytest.mark.parametrize(
    ("mean", "verdict"), [(92.61, "agrees"), (92.64, "differs"), (92.09, "agrees"), (92.05, "differs")]
)
def test_a_spread_that_is_published_widens_the_interval(mean: float, verdict: str) -> None:
    """From 92.61 the interval reaches 92.3616, and with the spread of 0.04 it reaches 92.3216, below 92.35."""
    (_, replicated) = found(runs([(mean + each) / 100 for each in (-0.1, 0, 0.1)]))
    assert replicated["verdict"] == verdict


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ([0.92], "1 seed"),
        ([0.92, 0.93], "2 seeds"),
        ([0.92, 0.93, None], "2 seeds of 3 finished"),
        ([None], "0 seeds of 1 finished"),
    ],
)
def test_too_few_seeds_give_no_verdict(accuracies: list[float | None], why: str) -> None:
    for row in found(runs(accuracies)):
        assert (row["verdict"], row["missing"]) == ("not comparable", why)
        assert math.isnan(row["ours_low"])


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": {"epochs": 21}},
        {"task": {"model": "resnet20"}},
        {"task": {"model_options": {"width": 32}}},
        {"task": {"label_noise": LabelNoise(fraction=0.4)}},
        {"task": {"train_fraction": 0.5}},
        {"recipe": {"adversary": FREE}},
        {"dataset": {"name": "cinic10"}},
        {"dataset": {"train": 49_999}},
        {"dataset": {"image_size": 16}},
        {"dataset": {"validation": Validation(fraction=0.1, seed=0)}},
        {"options": {"ghost_batch": 16}},
        {"method": "group_norm"},
    ],
)
def test_what_is_another_experiment_is_not_compared(changed: dict[str, Any]) -> None:
    assert published_table(runs([0.92, 0.93, 0.94]), facts()).rows
    assert published_table(runs([0.92, 0.93, 0.94], **changed), facts()).rows == []


def test_names_of_tasks_variants_and_datasets_do_not_matter() -> None:
    assert found(runs([0.924, 0.925, 0.926], variant="x", method="batch_norm", dataset={"name": "CIFAR-10 (mine)"}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"recipe": {"weight_decay": 5e-4}}, "weight decay 5e-4, published 1e-3"),
        ({"recipe": {"lr": 0.05, "batch_size": 64}}, "batch size 64, published 128; learning rate 0.05, published 0.1"),
        ({"recipe": {"schedule": "step", "milestones": [5.0, 10.0]}}, "schedule step, published cosine; milestones 5/10, published not stated; gamma 0.1, published not stated"),
        ({"recipe": {"precision": "bfloat16"}}, "precision bfloat16, published not stated"),
        ({"recipe": {"flip": False}}, "flip false, published true"),
        ({"recipe": {"label_smoothing": 0.1}}, "label smoothing 0.1, published not stated"),
        ({"recipe": {"threads": 2, "memory_format": "contiguous", "compile": "default"}}, "none in what the source states"),
    ],
)  # fmt: skip
def test_the_difference_of_the_recipes_is_named(changed: dict[str, Any], said: str) -> None:
    assert {row["recipe_difference"] for row in found(runs([0.92, 0.93, 0.94], **changed))} == {said}


def test_the_form_of_the_network_is_named() -> None:
    """The numbers of EfficientNet are of a network in which the blocks are not deconvolved."""
    networks = {
        True: "none in what the source states",
        False: "the network's default form, published that of the authors",
    }
    for form, said in networks.items():
        task = {"model": "efficientnet_b0", "model_options": {"width": 32, "authors_form": form}}
        rows = found(runs([0.8, 0.81, 0.82], task=task))
        assert rows
        assert all(str(row["recipe_difference"]).startswith(said) for row in rows)


def test_options_of_the_method_are_compared() -> None:
    options = {"block": 64, "linear_block": 0, "sampling_stride": 3, "iterations": 5, "covariance": "float32"}
    (paper, replicated) = found(runs([0.94, 0.941, 0.942], "network_deconvolution", options=options))
    assert (paper["published"], replicated["published"]) == (94.07, 94.20)
    assert paper["recipe_difference"] == "linear block 0, published 512"


def test_accuracy_under_attack() -> None:
    """The official numbers of adversarially trained networks: 4 seeds and their mean."""
    columns = [{"attack_fgsm": each, "attack_pgd": each - 0.08} for each in (0.511, 0.515, 0.519)]
    given: Runs = {
        ("a", "cn"): [
            run(
                n,
                0.8,
                "cn",
                method="conv_norm",
                recipe=ATTACKED | {"adversary": FREE},
                columns=each,
                evaluation=ATTACKS,
            )
            for n, each in enumerate(columns)
        ]
    }
    fgsm = found(given, "robust accuracy FGSM eps 8/255 (mean of 4 seeds)")
    assert [(row["published"], row["published_std"], row["measure"]) for row in fgsm] == [(52.87, 0.28, "attack_fgsm")]
    assert fgsm[0]["ours"] == pytest.approx(51.5)
    assert fgsm[0]["verdict"] == "differs"  # 51.5 + 0.9937 + 0.28 = 52.7737
    pgd = found(given, "robust accuracy PGD-20 eps 8/255 step 2/255 (mean of 4 seeds)")
    assert [(row["published"], row["ours"]) for row in pgd] == [(44.75, pytest.approx(43.5))]
    assert {row["recipe_difference"] for row in (*fgsm, *pgd)} == {"none in what the source states"}
    assert len(published_table(given, facts()).rows) == 10


@pytest.mark.parametrize(
    ("examples", "said"),
    [(1000, "1000 attacked images, published not stated"), (10_000, "none in what the source states")],
)
def test_attacks_on_some_of_the_images_are_named(examples: int, said: str) -> None:
    attacks = {"attacks": ATTACKS["attacks"] | {"examples": examples}}
    made = {"recipe": ATTACKED | {"adversary": FREE}, "columns": {"attack_fgsm": 0.5}, "evaluation": attacks}
    fgsm = found(runs([0.8, 0.8, 0.8], method="conv_norm", **made), "robust accuracy FGSM eps 8/255")
    assert len(fgsm) == 4
    assert {row["recipe_difference"] for row in fgsm} == {said}


@pytest.mark.parametrize(
    ("evaluation", "columns", "why"),
    [
        (None, {}, "no attack was made here"),
        ({"attacks": None}, {}, "no attack was made here"),
        (
            {"attacks": ATTACKS["attacks"] | {"steps": 10}},
            {"attack_pgd": 0.44},
            "another attack: steps 10, published 20",
        ),
        (
            {"attacks": ATTACKS["attacks"] | {"epsilon": 4.0}},
            {"attack_pgd": 0.6},
            "another attack: epsilon 4, published 8",
        ),
        (
            {"attacks": ATTACKS["attacks"] | {"norm": "l2"}},
            {"attack_pgd": 0.6},
            "another attack: in the 2-norm, published in the maximum norm",
        ),
    ],
)
def test_another_attack_is_not_comparable(evaluation: Any, columns: dict[str, float], why: str) -> None:
    recipe = ATTACKED | {"adversary": FREE}
    made = {"method": "conv_norm", "recipe": recipe, "columns": columns, "evaluation": evaluation}
    pgd = found(runs([0.8, 0.8, 0.8], **made), "robust accuracy PGD-20 eps 8/255 step 2/255")
    assert len(pgd) == 4
    assert {(row["verdict"], row["missing"]) for row in pgd} == {("not comparable", why)}


def test_an_empty_table_has_its_header(suite: None) -> None:
    """Nothing is published of the digits."""
    aggregate()
    for folder in ("results", "build/tables"):
        text = Path(folder, "published.csv").read_text(encoding="utf-8")
        assert text == ",".join(COLUMNS) + "\n"


def test_the_table_has_fixed_decimals(tmp_path: Path) -> None:
    text = published_table(runs([0.924, 0.925, 0.926]), facts()).csv()
    (tmp_path / "published.csv").write_text(text, encoding="utf-8")
    first = rows(str(tmp_path / "published.csv"))[0]
    assert [first[name] for name in ("published", "published_std", "ours", "ours_low", "ours_high", "difference")] == [
        "92.640",
        "",
        "92.500",
        "92.252",
        "92.748",
        "-0.140",
    ]


HEADER = "method,metric,dataset,architecture,protocol,epochs,value,std,unit,source,trust,note"
GOOD = "BN,top-1 test accuracy,CIFAR-10,VGG-16,lr=0.1,20,90.07,,%,a paper,abstract,"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (GOOD.replace("90.07", "many"), "value = 'many': must be a number"),
        (GOOD.replace("90.07", "inf"), "value = 'inf': must be a number"),
        (GOOD.replace("90.07", ""), "value: Input should be a valid number"),
        (GOOD.replace("90.07", "107"), "value: 107.0 % is more than all"),
        (GOOD.replace(",20,", ",2.5,"), "epochs = '2.5': must be a whole number"),
        (GOOD.replace("%", "percent"), "unit: Input should be '%'"),
        (GOOD.replace("abstract", "hearsay"), "trust: Input should be 'official-repository'"),
        (GOOD.replace("lr=0.1", "lrr=0.1"), "protocol: unknown key 'lrr'; did you mean 'lr'?"),
        (GOOD.replace("lr=0.1", "lr=fast"), "protocol: lr = 'fast': must be a number"),
        (GOOD.replace("lr=0.1", "flip=yes"), "protocol: flip = 'yes': must be true or false"),
        (GOOD.replace("lr=0.1", "lr=0.1; lr=0.2"), "protocol: 'lr' stands here twice"),
        (GOOD.replace("a paper", ""), "source: String should have at least 1 character"),
        (GOOD + ",", "has 13 cells, must have 12"),
    ],
)
def test_a_wrong_line_is_named(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(f"{HEADER}\n{GOOD}\n", encoding="utf-8")
    (fact,) = facts(path)
    assert (fact.value, fact.std, fact.epochs, fact.protocol) == (90.07, None, 20, {"lr": 0.1})
    path.write_text(f"{HEADER}\n{GOOD}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        facts(path)
    assert str(caught.value).startswith(f"{path}:3: {problem}")


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(f"{HEADER},more\n", encoding="utf-8")
    with pytest.raises(UserError, match="must have the columns method, metric"):
        facts(path)
