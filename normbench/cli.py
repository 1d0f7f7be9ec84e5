"""The `normbench` command: tools besides `dvc repro`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from normbench import __version__
from normbench.system import files, layout, preemption, threads
from normbench.system.errors import UserError, hint
from normbench.system.stage import guarded
from normbench.system.text import complain, say, show_traceback

app = typer.Typer(
    help="Beside `dvc repro`, which makes every result.", no_args_is_help=True, pretty_exceptions_enable=False
)
runs_app = typer.Typer(
    help="The run store: list it, clear it up, and move finished runs between machines.", no_args_is_help=True
)
app.add_typer(runs_app, name="runs")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        say(f"normbench {__version__}")
        raise typer.Exit


def _print_json(value: Any) -> None:
    say(*json.dumps(value, indent=1).split("\n"))


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """normbench: compare normalization methods."""


@app.command()
def check(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A variant of params.yaml, a method, package.module:Class or path/to/file.py:Class; none checks "
            "params.yaml."
        ),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of TARGET, as name=value; repeatable.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Examine TARGET in one network, with fewer steps.")] = False,
    refresh: Annotated[bool, typer.Option(help="Let DVC see files of your own where it does not look.")] = False,
    as_json: Json = False,
) -> None:
    """Examine TARGET: one line a check, pass, warn or fail, and exit code 1 if one fails.

    Without TARGET: check params.yaml, try your own methods and models, and show what has changed since the last
    `dvc repro`.
    """
    if target is None:
        if option or quick:
            raise UserError(f"{'--option' if option else '--quick'}: is for a TARGET, and none is given")
        _check_params(refresh, as_json)
        return
    if refresh:
        raise UserError("--refresh: is for the check of params.yaml, without a TARGET")
    from normbench.suite import kit

    chosen = kit.target(target, option or ())
    found = kit.run(chosen, quick, shown=not as_json)
    if as_json:
        _print_json(kit.as_json(chosen, found))
    else:
        counts = {outcome: sum(each.outcome == outcome for each in found) for outcome in ("pass", "warn", "fail")}
        say(f"{target}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    if any(each.outcome == "fail" for each in found):
        raise typer.Exit(1)


def _check_params(refresh: bool, as_json: bool) -> None:
    from normbench.suite import check as checking

    checked = checking.check(refresh)
    if as_json:
        _print_json(checking.as_json(checked))
    else:
        checking.tell(checked)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the file: lower-case letters, digits and underscores, as my_norm.")],
) -> None:
    """Write my_methods/NAME.py, a norm as a plain module to start from, and a test beside it."""
    from normbench.suite import new as starting

    for line in starting.write(name):
        say(line)


@app.command()
def results() -> None:
    """Make every result, as `make results` does: check, train what is missing on all cores of a CPU, `dvc repro`."""
    from normbench.sweep import everything

    def make_and_show() -> None:
        everything.make()
        from normbench.results import terminal

        terminal.show()

    guarded(make_and_show)


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Where it listens; 0 takes one that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="The address; any other than this one is reached from other machines.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Show the report in a browser while runs are under way, with their progress."""
    from normbench.serve import server

    guarded(lambda: server.serve(host, port))


@app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="REV", help="A revision of git, such as HEAD~1 or v1.0.")],
    after: Annotated[
        str | None, typer.Argument(metavar="[REV2]", help="Another one (default: results/ in the working tree).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show which results have moved between two revisions, with verdicts on runs that are paired by seed."""
    from normbench.results import diff as differences
    from normbench.results import revisions

    old = revisions.of(before)
    new = revisions.of_working_tree() if after is None else revisions.of(after)
    found = differences.diff(old, new)
    if as_json:
        _print_json(differences.as_json(found))
    else:
        differences.tell(found)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """The names that params.yaml may use: methods, models and sources with their options, corruptions and scores."""
    from normbench.suite.names import REQUIRED, names

    found = names()
    if as_json:
        _print_json(found)
        return
    for section, entries in found.items():
        say(section)
        for name, options in entries.items():
            shown = ", ".join(
                option if default == REQUIRED else f"{option}={default!r}" for option, default in options.items()
            )
            say(f"  {name}({shown})" if options else f"  {name}")


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
    """Write corrupted test images in the layout of CIFAR-10-C. When repeated, it keeps the files that are finished."""
    from normbench.corruptions import MAIN, NAMES
    from normbench.corruptions.export import export
    from normbench.suite.corrupt import check_intact

    chosen = {"all": [*NAMES], "main": [*MAIN]}.get(names, [name.strip() for name in names.split(",")])
    levels = severities.split(",")
    if not all(level.strip().isdecimal() for level in levels):
        raise UserError(f"--severities {severities}: valid: some of 1, 2, 3, 4, 5, with commas between")
    numbers = [int(level) for level in levels]

    def checked_export() -> None:
        if (layout.DATA / dataset / "meta.json").is_file():
            check_intact(dataset)
        export(dataset, out, chosen, numbers, seed, engine, constants, workers)

    guarded(checked_export)


@app.command()
def suite(
    name: Annotated[str | None, typer.Argument(help="A file of suites/, without its ending; none lists them.")] = None,
    measure: Annotated[bool, typer.Option(help="Estimate how long it trains here, from a few steps.")] = True,
) -> None:
    """Select a suite: suites/NAME.yaml becomes params.yaml. Edits of params.yaml are kept, as suites/edited-1.yaml."""
    from normbench.suite.compose import LIBRARY, composed

    known = {path.stem: path for path in sorted(layout.SUITES.glob("*.yaml")) if path.name != LIBRARY}
    current = layout.PARAMS.read_bytes() if layout.PARAMS.is_file() else b""
    selected = [stem for stem, path in known.items() if _is_from(current, path)]
    if name is None:
        for stem, path in known.items():
            try:
                about = files.read_text(path).split("\n", 1)[0].lstrip("# ")
            except UserError as error:
                about = f"cannot be read: {error}"
            say(f"{'*' if stem in selected else ' '} {stem}: {about}")
        return
    if name not in known:
        raise UserError(f"suite {name}: unknown; {hint(name, known)}")
    content = composed(known[name]).encode()
    if current and not selected:
        kept = next(stem for n in itertools.count(1) if (stem := f"edited-{n}") not in known)
        files.write_bytes(layout.SUITES / f"{kept}.yaml", current)
        say(f"{layout.PARAMS} had edits: they are kept, and `normbench suite {kept}` brings them back")
    files.write_bytes(layout.PARAMS, content)
    say(f"{layout.PARAMS} is suites/{name}.yaml now: `make results` trains it")
    try:
        from normbench.sweep import rough

        say(*rough.of_params(measure))
    except UserError as error:
        complain(*error.args)


def _is_from(current: bytes, suite: Path) -> bool:
    """Whether params.yaml is a suite with what it takes from the library."""
    from normbench.suite.compose import composed

    content = suite.read_bytes()
    if content == current:
        return True
    try:  # Composing takes most of a second: only the suite with the same first line is looked at.
        return content.split(b"\n", 1)[0] == current.split(b"\n", 1)[0] and composed(suite).encode() == current
    except UserError:
        return False


@app.command()
def plan(
    measure: Annotated[bool, typer.Option(help="Estimate times from 20 training steps of each variant.")] = True,
    as_json: Json = False,
) -> None:
    """Show what `dvc repro` or a sweep would train: runs done, missing, stale (and why), and how long it takes."""
    from normbench.sweep import plan as planning

    def print_plan() -> None:
        made = planning.make(measure)
        if as_json:
            _print_json(planning.as_json(made))
        else:
            planning.show(made)

    guarded(print_plan)


@app.command()
def sweep(
    jobs: Annotated[int | None, typer.Option(help="Runs side by side (default: as many as there is room for).")] = None,
    ray: Annotated[str | None, typer.Option(help="Address of a Ray cluster to run on, host:port or auto.")] = None,
    store: Annotated[
        str | None, typer.Option(help="With --ray, where the nodes share no folder: an fsspec address they all reach.")
    ] = None,
) -> None:
    """Train all missing runs of the suite into the run store; `dvc repro` then only assembles them."""
    from normbench.sweep import command

    guarded(lambda: command.sweep(jobs, ray, store))


@app.command()
def tune(
    trials: Annotated[int, typer.Option(help="Trainings of each variant on each task.")],
    variant: Annotated[
        list[str] | None, typer.Option(help="A variant of the suite; several times (default: all).")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task of the suite; several times (default: all).")] = None,
    validation: Annotated[float, typer.Option(help="Fraction of the training images to measure on.")] = 0.2,
    jobs: Annotated[int | None, typer.Option(help="Runs side by side (default: as many as there is room for).")] = None,
) -> None:
    """Tune learning rate, weight decay and options, equally for every variant, and write the best into params.yaml."""
    from normbench.tuning import command

    guarded(lambda: command.tune(variant or [], task or [], trials, jobs, validation))


@runs_app.command("list")
def runs_list(as_json: Json = False) -> None:
    """List the runs of the suite and the others in the run store: id, task, variant, seed, status, clean accuracy."""
    from normbench.sweep import listing

    if as_json:
        found, absent = listing.listed()
        _print_json({"runs": [dataclasses.asdict(each) for each in found], "absent": absent})
    else:
        listing.show()


@runs_app.command("prune")
def runs_prune(
    remove: Annotated[bool, typer.Option(help="Remove it; otherwise it is only shown.")] = False,
    finished: Annotated[bool, typer.Option(help="Also finished runs that are not of the suite.")] = False,
) -> None:
    """Show what is no longer needed: remains of killed processes, checkpoints of other suites."""
    from normbench.sweep.prune import prune

    guarded(lambda: prune(finished, remove))


@runs_app.command("export")
def runs_export(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of runs (default: all finished of the suite).")] = None,
    to: Annotated[Path, typer.Option(help="The folder for one .run.tar a run.")] = Path("exported"),
) -> None:
    """Write each finished run as one file, to take to another machine."""
    from normbench.runs import archive
    from normbench.sweep import listing

    guarded(lambda: say(archive.export_all(listing.chosen(ids or []), to)))


@runs_app.command("import")
def runs_import(
    paths: Annotated[list[Path], typer.Argument(help="Files .run.tar, or folders of such.")],
) -> None:
    """Add exported runs to the run store after verification; `dvc repro` then assembles them."""
    from normbench.runs import archive

    guarded(lambda: say(archive.import_all(paths)))


def main() -> None:
    """The entry point of the command. A user's mistake ends in one line and exit code 1."""
    threads.set_environment()
    sys.excepthook = show_traceback
    preemption.watch()
    try:
        app()
    except UserError as error:
        complain(*error.args)
        raise SystemExit(1) from None
