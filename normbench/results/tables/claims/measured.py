"""What a claim can be tested against: the tables and runs of a suite, and the part of them that a claim is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from normbench.results.tables.claims.declared import Side, Tasks
from normbench.results.tables.facts import Facts
from normbench.results.tables.means import Runs
from normbench.results.tables.table import Row, Table
from normbench.runs.run import Kind
from normbench.training.task import Task


@dataclass(frozen=True)
class Measured:
    """The tables by name, the facts about tasks and variants, and the runs of classifiers."""

    tables: Mapping[str, Table]
    facts: Facts
    runs: Runs

    def rows(self, name: str, **wanted: object) -> list[Row]:
        """Returns the rows of a table that have these values; none if there is no such table."""
        rows = self.tables[name].rows if name in self.tables else []
        return [row for row in rows if all(row[column] == value for column, value in wanted.items())]

    def cells(self, kind: Kind, tasks: Tasks, side: Side) -> Iterator[tuple[str, str]]:
        """Yields the tasks of a kind that a claim is about, each with every variant of a side."""
        for row in sorted_by_suite(self.rows("gan" if kind is Kind.GAN else "leaderboard"), self.facts, kind):
            task, variant = row["task"], row["variant"]
            if self._has(kind, task, tasks) and self._is_of(variant, side):
                yield task, variant

    def pairs(self, kind: Kind, tasks: Tasks, of: Side, against: Side) -> Iterator[tuple[str, str, str]]:
        """Yields the tasks of a kind that a claim is about, with every pair of variants of two sides."""
        others = list(self.cells(kind, tasks, against))
        for task, variant in self.cells(kind, tasks, of):
            yield from ((task, variant, other) for at, other in others if at == task and other != variant)

    def network(self, kind: Kind, task: str) -> str:
        """Returns the model of a task."""
        return self.facts.tasks[kind][task].task.model

    def _has(self, kind: Kind, name: str, wanted: Tasks) -> bool:
        task = self.facts.tasks[kind][name].task
        if wanted.networks and task.model not in wanted.networks:
            return False
        if wanted.datasets and task.dataset not in wanted.datasets:
            return False
        noisy = scarce = adversarial = False
        if isinstance(task, Task):
            if task.recipe.loss is not None:
                return False  # The claims are about the cross-entropy.
            noisy = task.label_noise is not None and task.label_noise.fraction > 0
            scarce, adversarial = task.train_fraction < 1, task.recipe.adversary is not None
        conditions = (wanted.label_noise, wanted.scarce_data, wanted.adversarial_training)
        of_length = wanted.epochs is None or (isinstance(task, Task) and task.recipe.epochs == wanted.epochs)
        return of_length and (noisy, scarce, adversarial) == conditions

    def _is_of(self, name: str, side: Side) -> bool:
        variant = self.facts.variants[name]
        return variant.method == side.method and all(
            option in variant.options and variant.options[option] == value for option, value in side.options.items()
        )


def sorted_by_suite(rows: list[Row], facts: Facts, kind: Kind) -> list[Row]:
    """Returns rows in the order of the tasks and variants of the suite, in which a ranking changes nothing."""
    tasks, variants = facts.suite.of_kind(kind)
    return sorted(rows, key=lambda row: (tasks.index(row["task"]), variants.index(row["variant"])))
