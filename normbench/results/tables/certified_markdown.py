"""results/certified.md: certified accuracy beside that under attack."""

from __future__ import annotations

from normbench.results.tables.cells import markdown_cell
from normbench.results.tables.certificates import SHARES
from normbench.results.tables.markdown import document, marked, percent, table_text
from normbench.results.tables.marks import Marks
from normbench.results.tables.table import Table

HEADS = ["task", "variant", "radius", "clean (%)", "PGD (%)", "Lipschitz (%)", "curvature (%)"]
CAPTION = (
    "The share of test images that keep their right class within a radius, a 2-norm of pixels in 0..1: under PGD in "
    "the 2-norm, and by proof from Lipschitz constants or from curvature; docs/certificates.md explains them. Mean ± "
    "sample standard deviation over the finished runs of a variant, one run a seed."
)


def certified_markdown(table: Table) -> str:
    """Returns the text. table: certified.csv."""
    marks = Marks([row["why"] for row in table.rows], SHARES)
    lines = [HEADS, ["---"] * 2 + ["---:"] * 5]
    for row in table.rows:
        names = [markdown_cell(row[name]) for name in ("task", "variant")]
        shares = [
            marked(percent(row[name], row[f"{name}_std"], bold=False), marks.of(row["why"], name)) for name in SHARES
        ]
        lines.append([*names, f"{row['radius']:.4g}", *shares])
    shown = table_text(lines) if table.rows else "No run was scored with `certificates`."
    return document(["# Certified robustness", CAPTION, shown], marks)
