"""results/certified.md: certified accuracy beside that under attack."""

from __future__ import annotations

from normbench.comparison.verdicts import Verdict
from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.certificates import SHARES
from normbench.results.tables.markdown import document, marked, percent, table_text
from normbench.results.tables.marks import Marks
from normbench.results.tables.table import Row, Table

HEADS = ["task", "variant", "radius", "clean (%)", "PGD (%)", "Lipschitz (%)", "curvature (%)"]
CAPTION = (
    "The share of test images that keep their right class within a radius, a 2-norm of pixels in 0..1: under PGD in "
    "the 2-norm, and by proof from Lipschitz constants or from curvature; docs/certificates.md explains them. Mean ± "
    "sample standard deviation over the finished runs of a variant, one run a seed."
)


VERDICTS = (
    "Better and worse are against `{}`, on the same images and seeds (docs/statistics.md); without either word no "
    "difference is shown."
)


def certified_markdown(table: Table, baseline: str | None) -> str:
    """Returns the text. table: certified.csv. baseline: the variant on which the verdicts are."""
    marks = Marks([row["why"] for row in table.rows], SHARES)
    lines = [HEADS, ["---"] * 2 + ["---:"] * 5]
    for row in table.rows:
        names = [markdown_cell(row[name]) for name in ("task", "variant")]
        lines.append([*names, f"{row['radius']:.4g}", *(_share(row, name, marks) for name in SHARES)])
    judged = any(row.get(f"{name}_verdict") for row in table.rows for name in SHARES)
    caption = f"{CAPTION} {VERDICTS.format(baseline)}" if judged else CAPTION
    shown = table_text(lines) if table.rows else "No run was scored with `certificates`."
    return document(["# Certified robustness", caption, shown], marks)


def _share(row: Row, name: str, marks: Marks) -> str:
    verdict = row.get(f"{name}_verdict")
    text = percent(row[name], row[f"{name}_std"], bold=False)
    if verdict in (Verdict.BETTER, Verdict.WORSE):
        text += f", {verdict}"
    return marked(text, marks.of(row["why"], name))
