"""What is shown beside the pointer: fields of a row, and ranges in words where a row has one."""

from __future__ import annotations

from normbench.results.charts.chart import Spec

RANGE: Spec = {"calculate": "isValid(datum.low) ? datum.low + ' to ' + datum.high : 'unknown'", "as": "range"}


def deviation(axis: str) -> Spec:
    """Returns the transformation that gives a point along `x` or `y` with its standard deviation, as `shown_x`."""
    text = f"datum.{axis} + (isValid(datum.sd_{axis}) ? ' \u00b1 ' + datum.sd_{axis} : '')"
    return {"calculate": text, "as": f"shown_{axis}"}


def tooltip(*fields: str, **titled: str) -> list[Spec]:
    """Returns the fields of a tooltip. titled: fields that have another title than their name."""
    titles = {field: field for field in fields} | titled
    return [{"field": field, "type": "nominal", "title": title} for field, title in titles.items()]
