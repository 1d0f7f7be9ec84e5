"""The `normbench` command: what helps beside `dvc repro`."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from normbench.system import files, layout
from normbench.system.errors import UserError, hint

app = typer.Typer(
    help="Beside `dvc repro`, which makes every result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


runs_app = typer.Typer(
    help="The run store: list it, clear it up, and move finished runs between machines.", no_args_is_help=True
)
app.add_typer(runs_app, name="runs")


@app.callback()
def _commands() -> None:
    """normbench: compare normalization methods."""


@app.command()
def check(
    refresh: Annotated[bool, typer.Option(help="Let DVC see files of your own where it does not look.")] = False,
) -> None:
    """Check params.yaml, and whether the files of methods and data sources are as they were at the last `dvc repro`."""
    from normbench.suite.resolve import resolve

    fresh = resolve()
    changed = [
        name
        for name, value in fresh.items()
        if name.startswith(("variants/", "datasets/")) and _before(name) not in (None, value)
    ]
    if changed and refresh:
        # DVC watches normbench/ and my_methods/ alone; `resolve` is what reads a file that lies elsewhere.
        subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "--quiet", "--force", "--single-item", "resolve"], check=True
        )
    suite = fresh["suite"]
    runs = len(suite["seeds"]) * (
        len(suite["tasks"]) * len(suite["variants"]) + len(suite["gan_tasks"]) * len(suite["gan_variants"])
    )
    print(f"{layout.PARAMS}: in order; the suite has {runs} runs")
    if changed:
        print(f"changed since the last repro: {', '.join(name.partition('/')[2] for name in changed)}")


def _before(name: str) -> dict | None:
    path = layout.RESOLVED / f"{name}.json"
    return files.read_json(path) if path.is_file() else None


@app.command("list")
def list_() -> None:
    """The names that params.yaml may use: methods and dataset sources with their options, models, corruptions."""
    from normbench.corruptions import NAMES
    from normbench.data.sources import registry as sources
    from normbench.methods import registry as methods
    from normbench.models import registry as models

    print("methods")
    for name in methods.names():
        print(f"  {name}({_options(methods.method_class(name))})")
    print("models", *models.CLASSIFIERS, sep="\n  ")
    print("GAN models", *models.GANS, sep="\n  ")
    print("dataset sources")
    for name in sources.names():
        print(f"  {name}({_options(sources.source_class(name))})")
    print("corruptions", *NAMES, sep="\n  ")


def _options(kind: type) -> str:
    """The fields of a dataclass with their defaults, as its signature has them."""
    return ", ".join(
        f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default!r}" for f in dataclasses.fields(kind)
    )


@app.command()
def corrupt(
    dataset: Annotated[
        str, typer.Argument(help="A dataset in build/data, an .npz with test_images and test_labels, or a folder.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for <corruption>.npy, labels.npy and meta.json.")],
    names: Annotated[str, typer.Option(help="Corruptions with commas between, `main` (15) or `all` (19).")] = "all",
    severities: Annotated[str, typer.Option(help="Some of 1 to 5, with commas between.")] = "1,2,3,4,5",
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    constants: Annotated[
        str, typer.Option(help="What a severity means: cifar, tiny_imagenet, imagenet; auto goes by the image size.")
    ] = "auto",
    engine: Annotated[str, typer.Option(help="normbench or imagecorruptions (constants of imagenet).")] = "normbench",
    workers: Annotated[int | None, typer.Option(help="Processes (default: one for each core).")] = None,
) -> None:
    """Write corrupted test images in the layout of CIFAR-10-C. Repeated, it keeps what is finished."""
    from normbench.corruptions import MAIN, NAMES
    from normbench.corruptions.export import export
    from normbench.system.stage import guarded

    chosen = {"all": [*NAMES], "main": [*MAIN]}.get(names, [name.strip() for name in names.split(",")])
    levels = severities.split(",")
    if not all(level.strip().isdecimal() for level in levels):
        raise UserError(f"--severities {severities}: valid: some of 1, 2, 3, 4, 5, with commas between")
    numbers = [int(level) for level in levels]
    guarded(lambda: export(dataset, out, chosen, numbers, seed, engine, constants, workers))


@app.command()
def suite(
    name: Annotated[str | None, typer.Argument(help="A file of suites/, without its ending; none lists them.")] = None,
) -> None:
    """Select a suite: suites/NAME.yaml becomes params.yaml. Edits of params.yaml are kept, as suites/edited-1.yaml."""
    known = {path.stem: path for path in sorted(layout.SUITES.glob("*.yaml"))}
    current = layout.PARAMS.read_bytes() if layout.PARAMS.is_file() else b""
    selected = [stem for stem, path in known.items() if path.read_bytes() == current]
    if name is None:
        for stem, path in known.items():
            about = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
            print(f"{'*' if stem in selected else ' '} {stem}: {about}")
        return
    if name not in known:
        raise UserError(f"suite {name}: unknown; {hint(name, known)}")
    content = known[name].read_text(encoding="utf-8")
    if current and not selected:
        kept = next(stem for n in itertools.count(1) if (stem := f"edited-{n}") not in known)
        files.write_text(layout.SUITES / f"{kept}.yaml", current.decode())
        print(f"{layout.PARAMS} had edits: they are kept, and `normbench suite {kept}` brings them back")
    files.write_text(layout.PARAMS, content)
    print(f"{layout.PARAMS} is suites/{name}.yaml now: `make results` trains it")


@app.command()
def plan(
    measure: Annotated[bool, typer.Option(help="Estimate times from 20 training steps of each variant.")] = True,
) -> None:
    """Show what `dvc repro` or a sweep would train: runs done, missing, stale (and why), and how long it takes."""
    from normbench.sweep import plan as planning
    from normbench.system.stage import guarded

    guarded(lambda: planning.plan(measure))


@app.command()
def sweep(
    jobs: Annotated[int | None, typer.Option(help="Runs side by side (default: as many as there is room for).")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run on, host:port or auto.")] = None,
    store: Annotated[
        str | None, typer.Option(help="With --ray, where the nodes share no folder: an fsspec address they all reach.")
    ] = None,
) -> None:
    """Train all missing runs of the suite into the run store; `dvc repro` then only assembles them."""
    from normbench.sweep import command as sweeping
    from normbench.system.stage import guarded

    guarded(lambda: sweeping.sweep(jobs, ray, store))


@runs_app.command("list")
def runs_list() -> None:
    """The runs of the suite, and others in the run store: id, task, variant, seed, status, clean accuracy."""
    from normbench.sweep.listing import show

    show()


@runs_app.command("prune")
def runs_prune(
    remove: Annotated[bool, typer.Option(help="Remove it; else it is only shown.")] = False,
    finished: Annotated[bool, typer.Option(help="Also finished runs that are not of the suite.")] = False,
) -> None:
    """Show what the run store no longer needs: checkpoints of other suites, remains of killed processes."""
    from normbench.sweep.prune import prune
    from normbench.system.stage import guarded

    guarded(lambda: prune(finished, remove))


@runs_app.command("export")
def runs_export(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of runs (default: all finished of the suite).")] = None,
    to: Annotated[Path, typer.Option(help="The folder for one .run.tar a run.")] = Path("exported"),
) -> None:
    """Write finished runs as one file each, to take to another machine."""
    from normbench.runs import archive as transfer
    from normbench.sweep import listing
    from normbench.system.stage import guarded

    def export() -> None:
        chosen = listing.chosen(ids or [])
        for run in chosen:
            print(transfer.export(run, to))
        print(f"{len(chosen)} runs in {to}; `normbench runs import` takes them into another run store")

    guarded(export)


@runs_app.command("import")
def runs_import(
    paths: Annotated[list[Path], typer.Argument(help="Files .run.tar, or folders of such.")],
) -> None:
    """Take exported runs into the run store, verified; `dvc repro` then assembles them."""
    from normbench.runs import archive as transfer
    from normbench.system.stage import guarded

    new = equal = 0
    problems: list[str] = []

    def take(path: Path) -> None:
        nonlocal new, equal
        try:
            added = transfer.import_(path)[1]
        except UserError as error:
            problems.append(str(error))
            return
        new, equal = new + added, equal + (not added)

    def take_all() -> None:
        for path in transfer.archives(paths):
            take(path)
        print(f"{new} runs taken into {layout.store()}, {equal} were there")
        if problems:
            raise UserError("\n".join(problems))

    guarded(take_all)


def main() -> None:
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
