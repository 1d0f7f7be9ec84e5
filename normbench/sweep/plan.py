"""What `dvc repro` or a sweep would train: which runs are missing, which are stale and why, and how long it takes."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from normbench.data.batches import Batches, Images
from normbench.runs import provenance, store
from normbench.runs import run as runs
from normbench.runs.run import Run
from normbench.system import device as devices
from normbench.system import files, layout
from normbench.system import side_by_side as jobs
from normbench.system.progress import Progress, duration
from normbench.system.seeds import derive
from normbench.training import numerics

WARM, STEPS = 3, 20  # steps that are not measured, as kernels are chosen in them, and steps that are
STATES = ("done", "unfinished", "stale", "missing")


@dataclass(frozen=True)
class Planned:
    """A run and its state, one of `STATES`. reasons: what of a finished run of this name was another.
    share: the part of its training that a checkpoint has."""

    run: Run
    state: str
    reasons: list[str] = field(default_factory=list)
    share: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take. step: seconds of a training step. steps: of the whole training. rest: seconds
    beside the steps. memory: peak bytes of a step on a GPU, 0 elsewhere."""

    step: float
    steps: int
    rest: float
    memory: int

    def seconds(self, share: float = 0.0) -> float:
        """Of a run whose training is done to a part of `share`."""
        return self.step * self.steps * (1 - share) + self.rest


def of_runs(suite: list[Run]) -> list[Planned]:
    """The state of each run."""
    before = finished_before(suite)
    return [of_run(run, before.get(run.name)) for run in suite]


def of_run(run: Run, before: dict[str, Any] | None) -> Planned:
    """before: the record of the last finished run of this task, variant and seed, or None."""
    if runs.done(run):
        return Planned(run, "done")
    reasons = differences(before["provenance"], run) if before is not None else []
    share = checkpointed(run)
    if share is not None:
        return Planned(run, "unfinished", reasons, share)
    return Planned(run, "stale" if before is not None else "missing", reasons)


def finished_before(suite: list[Run]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Records by task, variant and seed: those in the outputs of the stages, else the newest in the store."""
    wanted = {run.name for run in suite if not runs.done(run)}
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for record in map(store.record, store.all_finished() if wanted else []):
        origin = record["provenance"]
        name = origin["task"]["name"], origin["variant"]["name"], record["seed"]
        if name in wanted and (name not in found or origin["ended"] > found[name]["provenance"]["ended"]):
            found[name] = record
    for run in suite:
        path = runs.linked(run) / store.RECORD
        if run.name in wanted and path.is_file():
            found[run.name] = files.read_json(path)
    return found


def differences(was: dict[str, Any], run: Run) -> list[str]:
    """In words, what of a finished run's provenance is another for `run`: `recipe.epochs was 5, is 6`, `model code`."""
    found = []
    if was["dataset"]["fingerprint"] != run.bound["fingerprint"]:
        found.append(f"dataset {run.bound['name']}: other content")
    if was["code_fingerprint"] != run.code:
        found.append("training code")
    for old, new in ((was["task"], run.task), (was["variant"], run.variant)):
        flat_old, flat_new = flat(old), flat(new)
        for key in [*flat_new, *(key for key in flat_old if key not in flat_new)]:
            if key in ("name", "seeds") or flat_old.get(key) == flat_new.get(key):
                continue
            if key in ("model_code", "method_code"):
                found.append(key.replace("_", " "))
            elif key not in flat_old:
                found.append(f"{key} is new, {flat_new[key]!r}")
            elif key not in flat_new:
                found.append(f"{key} was {flat_old[key]!r}, is gone")
            else:
                found.append(f"{key} was {flat_old[key]!r}, is {flat_new[key]!r}")
    return found or ["what a run's id is made of"]


def flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"recipe": {"epochs": 5}} -> {"recipe.epochs": 5}."""
    out: dict[str, Any] = {}
    for key, item in value.items():
        out |= flat(item, f"{above}{key}.") if isinstance(item, dict) and item else {f"{above}{key}": item}
    return out


def checkpointed(run: Run) -> float | None:
    """The part of its training that the newest checkpoint of a run has, 0..1; None without a checkpoint."""
    for path in sorted(store.unfinished(run.id).glob("[0-9]*-*.pt"), reverse=True):
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")["training"]
        except Exception:
            continue  # damaged, as it will turn out when the run goes on
        if run.kind == "gan":
            return state["step"] / run.task["recipe"]["iterations"]
        return state["epoch"] / run.task["recipe"]["epochs"]
    return None


class Enough(Exception):
    """Ends a training whose steps are measured."""


class Stopwatch:
    """A `resumable.Keeper` that keeps nothing and takes the time of steps: a training loop asks it after each."""

    spent = 0.0

    def __init__(self, device: str):
        self.device, self.times = device, [time.perf_counter()]

    def resume(self) -> None:
        return None

    def due(self) -> bool:
        if len(self.times) in (WARM, WARM + STEPS) and self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if len(self.times) > WARM + STEPS:
            raise Enough
        return False

    def save(self, state: dict[str, Any]) -> None:
        if "epoch" in state:  # the loop of classifiers saves after the last step of an epoch, in place of asking
            self.due()

    def step(self) -> float:
        """Seconds of a step, without the first few where there are others."""
        first = WARM if len(self.times) > WARM + 1 else 0
        return (self.times[-1] - self.times[first]) / max(1, len(self.times) - 1 - first)

    def before(self) -> float:
        """Seconds to the end of the first step that are not those of a step: a recipe may compile the network."""
        return max(0.0, self.times[1] - self.times[0] - self.step()) if len(self.times) > 1 else 0.0


def measure(run: Run, data: dict[str, Images]) -> Cost:
    """The cost of a run, from its first steps on this device, with as many threads as torch has now."""
    from normbench.methods import registry as methods

    device = data["train"].pixels.device.type
    with torch.random.fork_rng():
        torch.manual_seed(derive(run.task["seed"], "init", run.seed))
        method = methods.build(run.variant["method"], run.variant["options"])
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        step, steps, rest = (_measure_gan if run.kind == "gan" else _measure_classifier)(run, method, data, device)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    if device == "cuda":
        torch.cuda.empty_cache()
    return Cost(step, steps, rest, memory)


def _measure_classifier(run: Run, method: Any, data: dict[str, Images], device: str) -> tuple[float, int, float]:
    from normbench.models import registry as models
    from normbench.training import loop
    from normbench.training.classify import measure_memory
    from normbench.training.logits import logits

    chosen = run.numerics or devices.by_rule(run.task["recipe"], device)
    recipe, wanted = run.task["recipe"] | {"precision": chosen.precision}, chosen.memory_format
    images, _ = loop.training_set(data["train"], run.task, run.bound["classes"])
    channels, classes = images.pixels.shape[1], run.bound["classes"]
    model = models.classifier(run.task["model"], run.task["model_options"], method, channels, classes)
    model = devices.placed(model, device, wanted)
    images, test = images.made_for(model, wanted), data["test"].made_for(model, wanted)
    watch = Stopwatch(device)
    with contextlib.suppress(Enough):
        loop.fit(model, method, images, recipe, 0, lambda *_: None, watch)
    start = time.perf_counter()
    part = test.pixels[:500]
    logits(model, test, part, recipe["precision"])
    rest = (time.perf_counter() - start) * len(test) / len(part)
    start = time.perf_counter()
    measure_memory(model, method, images, recipe)
    rest += time.perf_counter() - start
    batches = Batches(images, recipe["batch_size"], 0, False, recipe["drop_last"], 0)
    return watch.step(), batches.steps * recipe["epochs"], rest + watch.before()


def _measure_gan(run: Run, method: Any, data: dict[str, Images], device: str) -> tuple[float, int, float]:
    from normbench.gan import loop
    from normbench.gan.train import measure_memory, networks

    generator, discriminator = (devices.placed(network, device) for network in networks(run.task, method, run.bound))
    watch = Stopwatch(device)
    with contextlib.suppress(Enough):
        loop.fit(generator, discriminator, method, data["train"], run.task["recipe"], 0, lambda *_: None, watch)
    start = time.perf_counter()
    measure_memory(generator, discriminator, method, data["train"], run.task["recipe"])
    return watch.step(), run.task["recipe"]["iterations"], time.perf_counter() - start


def measure_all(planned: list[Planned], device: str, threads: int) -> dict[tuple[str, str, str], Cost]:
    """The cost of a run of each kind, task and variant that has runs to train."""
    first = {(p.run.kind, *p.run.name[:2]): p.run for p in planned if p.state != "done"}
    costs: dict[tuple[str, str, str], Cost] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    devices.prepare(device)
    data: dict[str, dict[str, Images]] = {}
    with Progress("plan: measuring", max(1, len(first))) as progress:
        for number, (key, run) in enumerate(first.items()):
            progress.update(number, f"{STEPS} steps of {key[1]} {key[2]}")
            if run.bound["path"] not in data:
                data = {run.bound["path"]: runs.load(Path(run.bound["path"]), device)}
            costs[key] = measure(run, data[run.bound["path"]])
    torch.set_num_threads(before)
    return costs


def makespan(seconds: list[float], processes: int) -> float:
    """The time that jobs take in order, each started when the first of `processes` is free."""
    ends = [0.0] * processes
    for each in seconds:
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


def show(planned: list[Planned], absent: dict[str, str], measured: bool) -> None:
    """Prints the plan: a table of tasks and variants, why runs are stale, and the time that all will take."""
    from tabulate import tabulate

    from normbench.sweep import command as sweep

    device = devices.choose()
    threads = jobs.shares(device, len(planned[0].run.task["seeds"]))[1] if planned else 1
    if measured:
        settled = iter(numerics.settled([p.run for p in planned if p.state != "done"], device, threads))
        planned = [dataclasses.replace(p, run=next(settled)) if p.state != "done" else p for p in planned]
    costs = measure_all(planned, device, threads) if measured else {}
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for each in planned:
        groups.setdefault((each.run.kind, *each.run.name[:2]), []).append(each)
    rows = []
    for key, group in groups.items():
        counts = [sum(each.state == state for each in group) or "" for state in STATES]
        row: list[Any] = [*key[1:], *counts]
        if measured and key in costs:
            row += [f"{1000 * costs[key].step:.1f}", duration(costs[key].seconds())]
        rows.append(row)
    headers = ["task", "variant", *STATES, *(["ms/step", "a run"] if measured else [])]
    if rows:
        print(tabulate(rows, headers, tablefmt="simple", disable_numparse=True))
    for each in planned:
        if each.state == "unfinished":
            print(f"unfinished: {each.run.title}: {progress_of(each)}")
    for line in reasons(planned):
        print(line)
    for task, chosen in {p.run.name[0]: p.run.numerics for p in planned if p.run.numerics is not None}.items():
        print(f"{task}: trains in {chosen}, by its measurement on this CPU")
    for dataset, why in absent.items():
        print(f"dataset {dataset}: {why}, so that its runs are not known; make it with `dvc repro bind`")
    todo = [each for each in planned if each.state != "done"]
    total = f"{len(todo)} of {len(planned)} runs to train"
    if todo and measured:
        beside = sweep.processes(
            device, threads, sweep.bytes_of_a_run([p.run for p in todo], costs.values()), len(todo)
        )
        times = [costs[each.run.kind, *each.run.name[:2]].seconds(each.share) for each in todo]
        name = provenance.device(device)["name"]
        total += f", about {duration(makespan(times, beside))} in a sweep on {name}, {beside} side by side"
        total += f", {threads} threads each" if threads > 1 and device == "cpu" else ""
        total += f" (from {STEPS} steps of each; without the evaluation)"
    print(total)


def progress_of(planned: Planned) -> str:
    """Where the checkpoint of an unfinished run stands."""
    recipe = planned.run.task["recipe"]
    unit, total = ("iteration", recipe["iterations"]) if planned.run.kind == "gan" else ("epoch", recipe["epochs"])
    return f"goes on from a checkpoint at {unit} {planned.share * total:.0f} of {total}"


def reasons(planned: list[Planned]) -> list[str]:
    """A line for each task and variant with stale runs of one reason: `stale: t v, seeds 0, 1: model code`."""
    found: dict[tuple[str, str, str], list[int]] = {}
    for each in planned:
        if each.reasons:
            task, variant, seed = each.run.name
            found.setdefault((task, variant, "; ".join(each.reasons)), []).append(seed)
    return [
        f"stale: {task} {variant}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}: {why}"
        for (task, variant, why), seeds in found.items()
    ]


def plan(measured: bool) -> None:
    """`normbench plan`."""
    from normbench.suite.resolve import resolve

    resolved = resolve(layout.PARAMS)
    bound, absent = runs.bound_tasks(resolved)
    show(of_runs(runs.of_suite(resolved, bound)), absent, measured)
