"""The stage `aggregate`: writes all tables."""

from __future__ import annotations

from normbench.results.tables.corruptions import Corruptions, corruption_table
from normbench.results.tables.curves import curve_table
from normbench.results.tables.facts import facts
from normbench.results.tables.gan import gan_table
from normbench.results.tables.leaderboard import leaderboard
from normbench.results.tables.markdown import markdown
from normbench.results.tables.metrics import metrics
from normbench.results.tables.pictures import copy_samples, draw_contact_sheets
from normbench.results.tables.reading import check_corruptions, read
from normbench.results.tables.robustness import robustness_table
from normbench.results.tables.smoothness import feature_table, layer_table, smoothness_table
from normbench.runs.run import Kind
from normbench.suite.suite import Suite
from normbench.system import files, layout


def aggregate() -> None:
    """Write the tables of results/ and the folder build/tables.

    Raises UserError if a record is missing or was scored with other corruptions.
    """
    suite, corruptions = Suite.resolved(), Corruptions.resolved()
    runs = {kind: read(suite, kind) for kind in Kind}
    classifiers, gans = runs[Kind.CLASSIFICATION], runs[Kind.GAN]
    check_corruptions(classifiers, corruptions)

    board, gan = leaderboard(classifiers, suite.baseline, corruptions), gan_table(gans)
    tables = {
        "leaderboard": board,
        "gan": gan,
        "robustness": robustness_table(classifiers, suite.baseline, corruptions),
        "corruptions": corruption_table(classifiers, corruptions),
        "smoothness": smoothness_table(classifiers),
        "layers": layer_table(classifiers),
        "features": feature_table(classifiers),
        "curves": curve_table(classifiers),
    }
    texts = {f"{name}.csv": table.csv() for name, table in tables.items()}
    origin = facts(suite, corruptions, runs)

    for name, text in texts.items():
        files.write_text(layout.RESULTS / name, text)
    files.write_text(layout.RESULTS / "leaderboard.md", markdown(board.rows, suite, corruptions))
    files.write_json(layout.RESULTS / "metrics.json", metrics(board.rows, gan.rows))
    with files.atomic_folder(layout.TABLES) as folder:
        for name, text in texts.items():
            files.write_text(folder / name, text)
        origin.write(folder / "provenance.json")
        copy_samples(gans, folder / "samples")
        draw_contact_sheets(suite.datasets, folder / "corrupted")
