"""The table of GANs as a Markdown table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from normbench.gan.evaluation import BOUND, Extractor, column
from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.gan import FIDS
from normbench.results.tables.markdown import NO_VERDICTS, document, marked, table_text, verdict_text
from normbench.results.tables.marks import Marks
from normbench.results.tables.standing import Standing
from normbench.results.tables.table import Row, cell

Failed = Mapping[tuple[str, str], Mapping[int, str]]  # (task, variant) -> seed -> why the run failed


@dataclass(frozen=True)
class Score:
    """A score in words. factor, form: from its values in gan.csv to those that are shown. small: its unit, or empty."""

    head: str
    factor: float = 1
    form: str = ".2f"
    small: str = ""


# By the names of `normbench.results.tables.gan`, without the network of the features.
SCORES = {
    "fid": Score("FID"),
    "fid_infinity": Score("FID∞"),
    "kid": Score("KID", 1000, ".2f", "\N{MULTIPLICATION SIGN}10³"),
    "score": Score("score"),
    "precision": Score("precision", 100, ".1f", "%"),
    "recall": Score("recall", 100, ".1f", "%"),
    "density": Score("density"),
    "coverage": Score("coverage", 100, ".1f", "%"),
}
NETWORKS: dict[Extractor, str] = {"classifier": "", "inception": "Inception"}  # what heads say of the features
COUNTS = {"peak_memory_mib": ("peak memory (MiB)", ".1f"), "parameters": ("parameters", "d")}
ENDS = {"diverged": "diverged runs", "collapsed": "collapsed runs"}


def known_scores() -> dict[str, tuple[Score, str]]:
    """Returns every column of gan.csv that is a score, with its words and the network of its features."""
    found = {
        column(network, name): (score, said) for network, said in NETWORKS.items() for name, score in SCORES.items()
    }
    return found | {BOUND: (Score("Lipschitz bound of the discriminator", form=".3g"), "")}


def gan_markdown(rows: list[Row], baseline: str | None, standing: Standing, failed: Failed) -> str:
    """Returns the text of the file: heading, caption, the rows of the table of GANs, and how runs failed.

    Scores besides the FID that no run has are left out. rows: see `normbench.results.tables.gan.gan_table`.
    """
    scores = {
        name: words for name, words in known_scores().items() if name == "fid" or any(_has(r, name) for r in rows)
    }
    marks = Marks((row["why"] for row in rows), [*scores, *COUNTS, "runs"])
    leaders = {name: standing.leaders(rows, name, name, highest=False) for name in scores if name in FIDS}
    heads, aligned = ["task", "variant"], ["---", "---"]
    for name, (score, network) in scores.items():
        behind = ", ".join(filter(None, (network, score.small)))
        heads.append(f"{score.head} ({behind})" if behind else score.head)
        aligned.append("---:")
        if name in FIDS:
            heads.append("against baseline")
            aligned.append("---")
    heads += [*(head for head, _ in COUNTS.values()), "finished runs", *ENDS.values()]
    aligned += ["---:"] * (len(COUNTS) + 1 + len(ENDS))

    def cells(row: Row) -> list[str]:
        shown = [markdown_cell(row["task"]), markdown_cell(row["variant"])]
        for name, (score, _) in scores.items():
            text = spread(row, name, score, (row["task"], row["variant"]) in leaders.get(name, ()))
            shown.append(marked(text, marks.of(row["why"], name)))
            if name in FIDS:
                effect = standing.smallest_effect(row["task"], name, row["variant"], baseline or "")
                text = marked(verdict_text(row[f"{name}_verdict"], effect), "")
                shown.append("baseline" if row["variant"] == baseline else text)
        shown += [marked(cell(row[name], form), marks.of(row["why"], name)) for name, (_, form) in COUNTS.items()]
        shown.append(marked(f"{row['finished']}/{row['runs']}", marks.of(row["why"], "runs")))
        return [*shown, *(str(row[name]) for name in ENDS)]

    table = table_text([heads, aligned, *map(cells, rows)])
    return document(
        ["# GANs", _caption(rows, scores), table, _verdicts(rows, scores, baseline), _failures(failed)], marks
    )


def spread(row: Row, name: str, score: Score, bold: bool) -> str:
    """Returns a mean over runs with its sample standard deviation, `1.07 ± 0.16`; empty without a mean."""
    mean, deviation = (score.factor * row.get(each, math.nan) for each in (name, f"{name}_std"))
    if math.isnan(mean):
        return ""
    text = f"**{mean:{score.form}}**" if bold else f"{mean:{score.form}}"
    return text if math.isnan(deviation) else f"{text} ± {deviation:{score.form}}"


def _has(row: Row, name: str) -> bool:
    return not math.isnan(row.get(name, math.nan))


def _caption(rows: list[Row], scores: Mapping[str, object]) -> str:
    if not rows:
        return "The suite has no GAN task."
    sentences = ["Mean ± sample standard deviation over the finished runs of a variant, one run a seed."]
    sentences.append("A run that collapsed or diverged counts in no mean. Times are in `costs.csv`.")
    if any(name not in FIDS for name in scores):
        sentences.append(
            "For FID, FID∞ and KID low is best, and high for the others; docs/gans.md says what each is and in which "
            "features."
        )
    return " ".join(sentences)


def _verdicts(rows: list[Row], scores: Mapping[str, object], baseline: str | None) -> str:
    """Returns how the verdicts are to be read, or why there are none."""
    if baseline is None or not rows:
        return ""
    if not any(row.get(f"{name}_verdict") for row in rows for name in FIDS if name in scores):
        return NO_VERDICTS
    return (
        f"Verdicts compare the FIDs of runs with those of `{baseline}` by seeds, with Holm's correction over all pairs "
        "of variants of a task. In brackets: the smallest difference that this many seeds would have shown with 80 % "
        "power. In bold: the best, and what is indistinguishable from it."
    )


def _failures(failed: Failed) -> str:
    """Returns a list of the runs that failed, with the reasons."""
    lines = [
        f"- {markdown_cell(task)}, {markdown_cell(variant)}, seed {seed} {markdown_cell(why)}"
        for (task, variant), seeds in failed.items()
        for seed, why in seeds.items()
    ]
    return "\n".join(["Runs that failed:", "", *lines]) if lines else ""
