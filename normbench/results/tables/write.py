"""The stage `aggregate`: writes all tables."""

from __future__ import annotations

from collections.abc import Iterable

from normbench.results import published
from normbench.results.records import leave_out
from normbench.results.tables import checksums, latex, outcomes
from normbench.results.tables.agreement import agreement_table, class_table
from normbench.results.tables.certificates import bound_table, certified_curve, certified_table
from normbench.results.tables.certified_markdown import certified_markdown
from normbench.results.tables.claims.declared import declared
from normbench.results.tables.claims.measured import Measured
from normbench.results.tables.claims.table import claim_table, claims_markdown
from normbench.results.tables.comparisons import comparisons
from normbench.results.tables.corruptions import Corruptions, corruption_table
from normbench.results.tables.costs import speed_table
from normbench.results.tables.curves import curve_table
from normbench.results.tables.facts import facts
from normbench.results.tables.filter_pictures import draw_filters
from normbench.results.tables.filters import filter_table
from normbench.results.tables.gan import gan_table
from normbench.results.tables.gan_markdown import gan_markdown
from normbench.results.tables.gan_training import failures, gan_curve_table, gan_norm_table
from normbench.results.tables.leaderboard import leaderboard
from normbench.results.tables.manifest import manifest
from normbench.results.tables.markdown import markdown
from normbench.results.tables.masks import draw_masks
from normbench.results.tables.means import Runs, finished
from normbench.results.tables.metrics import metrics, write_metrics
from normbench.results.tables.overall import overall_table
from normbench.results.tables.pictures import copy_samples, draw_contact_sheets, draw_films, draw_real_images
from normbench.results.tables.published import published_table
from normbench.results.tables.reading import read
from normbench.results.tables.reasons import Why, is_off, with_left_out
from normbench.results.tables.robustness import robustness_table
from normbench.results.tables.run_facts import run_facts
from normbench.results.tables.runs import cost_table, run_table
from normbench.results.tables.segmentation import corrupted_table, iou_table, segmentation_table
from normbench.results.tables.segmentation_markdown import segmentation_markdown
from normbench.results.tables.smoothness import feature_table, layer_table, smoothness_table
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Table
from normbench.runs.run import Kind
from normbench.suite import resolved
from normbench.suite.suite import Suite
from normbench.system import files, layout

OPTIONAL = (
    "attacks",
    "batch_statistics",
    "certificates",
    "filters",
    "smoothness",
)  # the scores that `evaluation` can turn off
EXPLAINED = (
    "leaderboard",
    "segmentation",
    "gan",
    "robustness",
    "smoothness",
)  # the tables with one row for each task and variant
# Tables whose columns are left out of results/ where no row has a value; the others always have the same columns.
SPARSE = ("robustness", "smoothness", "layers", "features", "filters", "certified", "bounds")
OF_GANS = ("gan", "gan_curves")
OF_SEGMENTATION = ("segmentation", "segmentation_classes", "segmentation_corruptions")
OF_EPOCHS = ("curves",)  # the table of the kinds that are trained in epochs
OF_ALL = ("comparisons", "runs", "costs", "claims", "metrics")  # the tables that have runs of all kinds


def reasons(table: Table) -> dict[str, dict[str, Why]]:
    """Returns task -> variant -> column -> why the cell is empty, for the report."""
    found: dict[str, dict[str, Why]] = {}
    for row in table.rows:
        found.setdefault(row["task"], {})[row["variant"]] = row["why"]
    return found


def off(runs: Runs) -> dict[str, list[str]]:
    """Returns task -> the built-in scores that `evaluation` had off for all its finished runs."""
    found: dict[str, list[str]] = {}
    for task in dict.fromkeys(task for task, _ in runs):
        done = [record for (of, _), records in runs.items() if of == task for record in finished(records)]
        found[task] = [score for score in OPTIONAL if done and all(is_off(record, score) for record in done)]
    return found


def by_task(failed: dict[tuple[str, str], dict[int, str]]) -> dict[str, list[str]]:
    """Returns task -> a sentence for each run of a GAN that failed, for the report. failed: see `failures`."""
    found: dict[str, list[str]] = {}
    for (task, variant), seeds in failed.items():
        found.setdefault(task, []).extend(f"{variant}, seed {seed} {why}." for seed, why in seeds.items())
    return found


def behind(tables: Iterable[str]) -> dict[str, list[Kind]]:
    """Returns the kinds of runs behind each table."""
    found = {name: [kind_of(name)] for name in tables}
    found |= {name: [Kind.CLASSIFICATION, Kind.SEGMENTATION] for name in OF_EPOCHS}
    return found | {name: [*Kind] for name in OF_ALL}


def kind_of(table: str) -> Kind:
    """Returns the kind of the runs behind a table that has those of one kind."""
    if table in OF_SEGMENTATION:
        return Kind.SEGMENTATION
    return Kind.GAN if table in OF_GANS else Kind.CLASSIFICATION


def aggregate() -> None:
    """Write the tables of results/ and the folder build/tables.

    A record that is missing or cannot be used is named on stderr, and the rows of its variant say so. Predictions and
    samples that are missing or damaged are named and left out. Raises UserError if no record is left, or if claims.yaml
    has a mistake.
    """
    suite, corruptions, claimed = Suite.resolved(), Corruptions.resolved(), declared()
    found = read(suite, corruptions)
    runs = {kind: each.runs for kind, each in found.items()}
    classifiers, segmented, gans = runs[Kind.CLASSIFICATION], runs[Kind.SEGMENTATION], runs[Kind.GAN]

    named = [
        (task, variant, record)
        for of_kind in runs.values()
        for (task, variant), records in of_kind.items()
        for record in records
    ]
    predictions = {
        (task, variant, record.seed): outcomes.read(task, variant, record)
        for (task, variant), records in classifiers.items()
        for record in finished(records)
    }
    unread = dict.fromkeys(why for why in predictions.values() if isinstance(why, str))
    leave_out(layout.SCORES, list(unread))
    compared = comparisons(runs, predictions)
    board = leaderboard(classifiers, suite.baseline, corruptions, compared)
    gan = gan_table(gans, suite.baseline, compared)
    tables = {
        "leaderboard": board,
        "segmentation": segmentation_table(segmented, suite.baseline, compared),
        "segmentation_classes": iou_table(segmented),
        "segmentation_corruptions": corrupted_table(segmented, corruptions),
        "gan": gan,
        "comparisons": compared,
        "overall": overall_table(classifiers, suite.baseline),
        "runs": run_table(named),
        "costs": cost_table(named),
        "robustness": robustness_table(classifiers, suite.baseline, corruptions),
        "corruptions": corruption_table(classifiers, corruptions),
        "smoothness": smoothness_table(classifiers),
        "layers": layer_table(classifiers),
        "features": feature_table(classifiers),
        "filters": filter_table(classifiers),
        "certified": certified_table(classifiers, suite.baseline, compared),
        "bounds": bound_table(classifiers),
        "curves": curve_table(classifiers | segmented),
        "gan_curves": gan_curve_table(gans),
        "published": published_table(classifiers, published.facts()),
    }
    for name in EXPLAINED:
        left_out = found[kind_of(name)].left_out
        tables[name] = with_left_out(tables[name], left_out, len(suite.seeds))
    texts = {f"{name}.csv": table.csv() for name, table in tables.items()}
    of_report = {
        "speeds": speed_table(runs, suite.baseline),
        "classes": class_table(classifiers, predictions),
        "agreement": agreement_table(classifiers, predictions),
        "gan_norms": gan_norm_table(gans),
        "certified_curve": certified_curve(classifiers),
    }
    origin = facts(suite, corruptions, runs)
    measured = Measured(tables, origin, classifiers)
    claims = claim_table(claimed, measured, timed=False)
    of_report["claims"] = claim_table(claimed, measured, timed=True)

    standing = Standing(compared.rows)
    test_images = {
        task: record.provenance.dataset.test for (task, _), records in classifiers.items() for record in records
    }
    of_paper = {
        "leaderboard": latex.LEADERBOARD,
        "gan": latex.GAN,
        "robustness": (*latex.ROBUSTNESS, *latex.own_scores(tables["robustness"].columns)),
    }
    for name, table in tables.items():
        text = (table.without_empty() if name in SPARSE else table).csv()
        files.write_text(layout.RESULTS / f"{name}.csv", text)
    files.write_text(layout.RESULTS / "claims.csv", claims.csv())
    files.write_text(layout.RESULTS / "claims.md", claims_markdown(claims))
    files.write_text(layout.RESULTS / "certified.md", certified_markdown(tables["certified"], suite.baseline))
    for name, columns in of_paper.items():
        files.write_text(layout.RESULTS / f"{name}.tex", latex.latex(tables[name].rows, columns, standing))
    text = markdown(tables["leaderboard"].rows, suite, corruptions, standing, test_images)
    files.write_text(layout.RESULTS / "leaderboard.md", text)
    failed = {cell: failures(records) for cell, records in gans.items()}
    text = gan_markdown(tables["gan"].rows, suite.baseline, standing, failed)
    files.write_text(layout.RESULTS / "gan.md", text)
    iou = tables["segmentation"].rows
    text = segmentation_markdown(iou, tables["segmentation_classes"].rows, suite.baseline, standing)
    files.write_text(layout.RESULTS / "segmentation.md", text)
    write_metrics(metrics(board.rows, gan.rows, iou), layout.RESULTS / "metrics")
    code = {stage: resolved.digest(stage) for stage in ("evaluate", "fid")}
    files.write_json(layout.RESULTS / "manifest.json", manifest(runs, behind(tables), code))
    with files.atomic_folder(layout.TABLES) as folder:
        for name, text in texts.items():
            files.write_text(folder / name, text)
        for name, table in of_report.items():
            files.write_text(folder / f"{name}.csv", table.csv())
        files.write_json(folder / "runs.json", run_facts(named))
        origin.write(folder / "provenance.json")
        missing = {name: reasons(tables[name]) for name in EXPLAINED}
        ended = {"failed": by_task(failed), "off": off(classifiers)}
        files.write_json(folder / "missing.json", missing | ended)
        copy_samples(gans, folder / "samples")
        draw_films(gans, folder / "films")
        draw_real_images(gans, folder / "real")
        draw_masks(segmented, folder / "masks")
        draw_contact_sheets(suite.datasets, folder / "corrupted")
        draw_filters(classifiers, folder / "filters")
        checksums.note(folder)
