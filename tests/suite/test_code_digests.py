"""What moves the ids of runs and what does not, by edits of the package's own source.

Each edit is made in a copy of the tree. Those that change no number must leave every digest that ids are made of, of all
models, methods and kinds of runs; those that can change a number must move the digests of what they reach.
"""

from __future__ import annotations

import ast
import copy
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from normbench.methods import registry as methods
from normbench.models import registry as models
from normbench.runs.code import STREAMED
from normbench.runs.run import Kind
from normbench.suite import code
from normbench.system import source_tree
from normbench.system.fingerprint import Root, closure, one_reading
from normbench.training.recipe import Loss
from tests.support import sample_runs

REAL = code.PACKAGE
READING = "reading of streamed images"
Digests = dict[str, str]
Edit = Callable[[str], str]


class Copy:
    """A copy of the package that can be edited, and the digests of what it has then."""

    def __init__(self, folder: Path):
        self.package = folder / "normbench"
        self.roots = {name: [self.here(root) for root in roots] for name, roots in all_roots().items()}

    def here(self, root: Root) -> Root:
        return Root(self.package / root.file.relative_to(REAL), root.name)

    def digests(self) -> Digests:
        with one_reading():
            return {name: closure(roots).digest for name, roots in self.roots.items()}

    def reaching(self, names: Iterable[str]) -> dict[tuple[Path, str], str]:
        """A digest that each definition is part of: the one with the fewest definitions."""
        with one_reading():
            found = {name: closure(self.roots[name]).definitions for name in names}
        large_first = sorted(found, key=lambda name: -len(found[name]))
        return {definition: name for name in large_first for definition in found[name]}

    def digest(self, name: str) -> str:
        return closure(self.roots[name]).digest

    def files(self) -> list[Path]:
        return sorted(self.package.rglob("*.py"))

    def edit(self, file: str, change: Edit) -> str:
        """Edits a file; returns what it was. An edit that changes nothing is a mistake of the test."""
        path = self.package / file
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert after != before, file
        path.write_text(after, encoding="utf-8")
        return before


def all_roots() -> dict[str, list[Root]]:
    """Of what ids are made of: the training code of each kind, a model of each file or two, and every method."""
    roots = {f"training {kind}": code._roots(places) for kind, places in code.TRAINING.items()}
    one_a_file = {models.get(name).source[0]: name for name in models.names()}
    roots |= {f"model {name}": [Root(*models.get(name).source)] for name in ["resnet8", *one_a_file.values()]}
    # Its id has both digests.
    roots["training classification with a loss"] = [*roots["training classification"], code.CERTIFIED]
    roots[READING] = [STREAMED]
    for name in methods.names():
        roots[f"method {name}"] = [Root(methods.source_file(name), methods.method_class(name).__name__)]
    return roots


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(REAL, folder / "normbench", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_tree, "PACKAGE_ROOT", folder)
        yield Copy(folder)


@pytest.fixture(scope="module")
def unedited(tree: Copy) -> Digests:
    return tree.digests()


def replaced(old: str, new: str) -> Edit:
    """The edit that puts one text in the place of another, which must be there."""

    def change(text: str) -> str:
        assert old in text, old
        return text.replace(old, new, 1)

    return change


def test_a_copy_of_the_tree_has_the_digests_of_the_tree(unedited: Digests):
    """So that what is tested on the copy holds for the package; and the digests say what they are digests of."""
    assert unedited == {name: closure(roots).digest for name, roots in all_roots().items()}
    assert len(set(unedited.values())) == len(unedited)


# Edits of the whole tree that change no number


class Reworded(ast.NodeTransformer):
    """Other docstrings, other texts of errors and of what is printed, and no annotations of arguments."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        return self._documented(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._documented(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._documented(node)

    def _documented(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body[0].value.value = "Something else, in better words."
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [ast.Constant("another wording")], []
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.Assert:
        node.msg = ast.Constant("another wording")
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        self.generic_visit(node)
        match node.value:
            case ast.Call(func=ast.Name(id="print" | "say" | "complain")) as call:
                call.args = [ast.Constant("another line")]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node


def reworded(text: str) -> str:
    return ast.unparse(Reworded().visit(ast.parse(text)))


def without_comments(text: str) -> str:
    """The same code as another formatter might write it: no comments, other line breaks, quotes and parentheses."""
    return ast.unparse(ast.parse(text))


def commented(text: str) -> str:
    """A comment above every statement at the top of a file, and blank lines."""
    return (
        re.sub(r"^(?=(?:def|class|@|[A-Za-z_]+ = ))", "# A comment.\n\n", text, flags=re.MULTILINE) + "\n# The end.\n"
    )


@pytest.mark.parametrize("change", [reworded, without_comments, commented])
def test_prose_and_form_of_every_file_move_nothing(tree: Copy, unedited: Digests, change: Edit):
    before = {path: path.read_text(encoding="utf-8") for path in tree.files()}
    try:
        for path, text in before.items():
            path.write_text(change(text), encoding="utf-8")
        assert tree.digests() == unedited
    finally:
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


# Single edits that change no number

STAYS: dict[str, tuple[str, Edit]] = {
    "the version": ("__init__.py", replaced('__version__ = "', '__version__ = "9')),
    "a docstring of the hooks": (
        "methods/base.py",
        replaced("A convolution (N, in, H, W)", "The convolution (N, in, H, W)"),
    ),
    "another wording of a hint": ("system/errors.py", replaced("did you mean '", "perhaps '")),
    "how the nearest name is found": ("system/errors.py", replaced("cutoff=0.4", "cutoff=0.6")),
    "another wording of a line of progress": ("system/progress.py", replaced(" left", " to go")),
    "a line that is printed": ("training/logits.py", replaced("out of memory:", "little memory:")),
    "how lines are printed": ("system/text.py", replaced("stream.flush()", "stream.flush(), None")),
    "how often progress is shown": ("system/progress.py", replaced("PLAIN_INTERVAL = 5.0", "PLAIN_INTERVAL = 9.0")),
    "what a run's progress says": ("runs/epochs.py", replaced("images/s", "pictures/s")),
    "a new field of records": (
        "runs/record.py",
        replaced("    system: str\n", "    system: str\n    node: str = ''\n"),
    ),
    "what provenance says of the CPU": ("runs/provenance.py", replaced('"model name"', '"model"')),
    "how often checkpoints are written": ("runs/checkpoint.py", replaced("MINUTES = 10.0", "MINUTES = 5.0")),
    "how many checkpoints are kept": ("runs/checkpoint.py", replaced("KEPT = 2", "KEPT = 3")),
    "where the run store lies": ("system/layout.py", replaced('"runs")', '"store")')),
    "how a run is locked": ("runs/store.py", replaced('"locks"', '"claims"')),
    "the format of archives": (
        "runs/archive.py",
        replaced("FORMAT = 1", "FORMAT = 2") if False else replaced("BLOCK = 2**20", "BLOCK = 2**21"),
    ),
    "the names of a run's files": ("runs/contents.py", replaced('"weights.pt"', '"model.pt"')),
    "what is measured of memory": ("system/memory.py", replaced("persistent = 2 *", "persistent = 3 *")),
    "how many runs there is room for": ("sweep/room.py", replaced("MARGIN = 1.2", "MARGIN = 1.5")),
    "the table of a sweep": ("sweep/board.py", replaced("LIVE_INTERVAL = 0.25", "LIVE_INTERVAL = 0.5")),
    "the text of an option on the command line": ("cli.py", replaced("Print the version.", "Show the version.")),
    "the report": ("results/report.py", lambda text: text + "\n\nMORE = 1\n"),
    "a score of the evaluation": ("evaluation/calibration.py", replaced("BINS = 15", "BINS = 10")),
    "the corruptions": ("corruptions/noise.py", lambda text: text + "\n\nMORE = 1\n"),
    "the FID": ("gan/score.py", replaced("MOST_SAMPLES = 10_000", "MOST_SAMPLES = 20_000")),
    "how a model is looked up": (
        "models/base.py",
        replaced("hint(reference, names(kind))", "hint(reference, sorted(names(kind)))"),
    ),
    "how a method is looked up": ("methods/registry.py", replaced("sorted(path.stem", "list(path.stem")),
    "which image sizes a model takes": ("models/vgg.py", replaced("LEAST_SIZE = 32", "LEAST_SIZE = 33")),
    "a new model in a file of others": (
        "models/resnet.py",
        lambda text: (
            text + "\n\n@register_classifier()\ndef resnet14(method, channels, classes, *, width=16):\n"
            "    return ResNet(method, channels, classes, [2, 2, 2], width)\n"
        ),
    ),
    "an import that is not used": ("training/loop.py", replaced("import math\n", "import math\nimport statistics\n")),
    "an alias of an import": (
        "training/optimization.py",
        lambda text: text.replace(
            "from torch.nn import functional\n", "from torch.nn import functional as F\n"
        ).replace("functional.cross_entropy", "F.cross_entropy"),
    ),
    "what a recipe's docstring says": ("training/recipe.py", replaced("SGD with momentum", "Plain SGD with momentum")),
    "a schema of params.yaml": ("suite/schema.py", lambda text: text + "\n\nMORE = 1\n"),
}


@pytest.mark.parametrize("name", STAYS)
def test_an_edit_that_changes_no_number_moves_nothing(tree: Copy, unedited: Digests, name: str):
    file, change = STAYS[name]
    before = tree.edit(file, change)
    try:
        assert tree.digests() == unedited
    finally:
        (tree.package / file).write_text(before, encoding="utf-8")


def test_moved_code_moves_nothing(tree: Copy, unedited: Digests):
    """A module with another name, and a function in another module: ids know no paths."""
    moved = tree.package / "training/meter.py"
    loop = tree.package / "training/loop.py"
    optimization = tree.package / "training/optimization.py"
    masks = tree.package / "segmentation/loop.py"
    before = {path: path.read_text(encoding="utf-8") for path in (moved, loop, optimization, masks)}
    other, autocast = tree.package / "training/gauge.py", tree.package / "training/numbers.py"
    try:
        moved.rename(other)
        text = before[optimization]
        start = text.index("def autocast(")
        end = text.index("def step_loss(")
        head = "from contextlib import AbstractContextManager\n\nimport torch\n\n\n"
        autocast.write_text(head + text[start:end], encoding="utf-8")
        taken = "from normbench.training.numbers import autocast\n"
        optimization.write_text(
            (text[:start] + text[end:]).replace(
                "from normbench.training.recipe", f"{taken}from normbench.training.recipe"
            ),
            encoding="utf-8",
        )
        for path in (loop, masks):
            text = before[path].replace("normbench.training.meter", "normbench.training.gauge")
            path.write_text(text, encoding="utf-8")
        assert tree.digests() == unedited
    finally:
        for path in (other, autocast):
            path.unlink(missing_ok=True)
        for path, text in before.items():
            path.write_text(text, encoding="utf-8")


# Single edits that can change a number, and what they must move: the beginning of names, or several whole names

# The loop of classifiers is that of segmentation too, while images with masks are others than those with labels.
IN_EPOCHS = ("training classification", "training segmentation")
WITH_LABELS = ("training classification", "training gan")
MOVES: dict[str, tuple[str, Edit, str | tuple[str, ...]]] = {
    "the seed of the initialization": (
        "training/classifier.py",
        replaced('"init"', '"start"'),
        "training classification",
    ),
    "the seed of a GAN's initialization": ("gan/trainer.py", replaced('"init"', '"start"'), "training gan"),
    "whether a method initializes": (
        "models/build.py",
        replaced("    method.initialize(network)\n", ""),
        IN_EPOCHS,
    ),
    "whether it initializes discriminators": (
        "models/build.py",
        replaced("    in_discriminator.initialize(discriminator)\n", ""),
        "training gan",
    ),
    "how pixels are normalized": ("data/batches.py", replaced("sub_(self.mean)", "sub_(self.std)"), WITH_LABELS),
    "the scale of pixels": ("data/batches.py", replaced("div_(255)", "div_(256)"), WITH_LABELS),
    "which mean is used": ("data/prepared.py", replaced("bound.mean, bound.std", "bound.std, bound.std"), WITH_LABELS),
    "the order of images": ("data/batches.py", replaced("torch.randperm(count", "torch.arange(count"), WITH_LABELS),
    "the random crops": (
        "data/batches.py",
        replaced("2 * augmentation.crop_padding + 1", "2 * augmentation.crop_padding"),
        WITH_LABELS,
    ),
    "how a recipe varies images": (
        "training/recipe.py",
        replaced("crop_padding, recipe.flip)", "crop_padding, not recipe.flip)"),
        # Segmentation has crops of its own, but a loop that is derived from that of classifiers.
        ("training classification", "training segmentation", "training with a loss"),
    ),
    "the crops of streamed images": (
        "data/crops.py",
        replaced("if self.augmentation.flip and", "if"),
        READING,
    ),
    "how files are decoded": (
        "data/stream.py",
        replaced("self.stream.reduced(pictures", "(pictures"),
        READING,
    ),
    "what is drawn for crops": (
        "data/augmentation.py",
        replaced("np.rint(np.sqrt(each))", "np.ceil(np.sqrt(each))"),
        ("training classification", "training segmentation", "training with a loss"),
    ),
    "label noise": (
        "data/labels.py",
        replaced("round(fraction * len(result))", "int(fraction * len(result))"),
        "training classification",
    ),
    "derived seeds": ("system/seeds.py", replaced("digest_size=8", "digest_size=16"), "training"),
    "deterministic algorithms": (
        "system/device.py",
        replaced('set_deterministic_debug_mode("warn")', 'set_deterministic_debug_mode("default")'),
        "training",
    ),
    "the number of threads": (
        "system/device.py",
        replaced("torch.set_num_threads(count if", "torch.set_num_threads(count + 1 if"),
        "training",
    ),
    "the memory format": (
        "functional/placement.py",
        replaced("if broken else FORMATS[wanted]", "if broken else FORMATS['contiguous']"),
        "training",
    ),
    "a schedule": (
        "training/optimization.py",
        replaced("0.5 * (1 + math.cos", "0.4 * (1 + math.cos"),
        IN_EPOCHS,
    ),
    "the warm-up": (
        "training/optimization.py",
        replaced("(step + 1) / (warmup + 1)", "step / warmup"),
        IN_EPOCHS,
    ),
    "the optimizer": (
        "training/optimization.py",
        replaced("nesterov=recipe.nesterov", "nesterov=False"),
        IN_EPOCHS,
    ),
    "the loss": (
        "training/optimization.py",
        replaced("label_smoothing=recipe.label_smoothing", "label_smoothing=0.0"),
        IN_EPOCHS,
    ),
    "the penalty": (
        "training/optimization.py",
        replaced("loss + penalty", "loss + 2 * penalty"),
        IN_EPOCHS,
    ),
    "autocast": (
        "training/optimization.py",
        replaced("dtype=torch.bfloat16", "dtype=torch.float16"),
        "training",
    ),
    "gradient clipping": (
        "training/loop.py",
        replaced("clip_grad_norm_(self.model", "clip_grad_value_(self.model"),
        IN_EPOCHS,
    ),
    "an adversary's steps": (
        "training/attacks.py",
        replaced("step * found.sign()", "step * found"),
        IN_EPOCHS,
    ),
    "batches of predictions": ("training/logits.py", replaced('"cpu": 500', '"cpu": 400'), IN_EPOCHS),
    "what the accuracy is of": (
        "training/classifier.py",
        replaced(".argmax(1).numpy()", ".argmin(1).numpy()"),
        "training classification",
    ),
    "where divergence is looked for": (
        "training/loop.py",
        replaced("REPORTS_AN_EPOCH = 10", "REPORTS_AN_EPOCH = 5"),
        IN_EPOCHS,
    ),
    "the hinge loss": (
        "gan/losses.py",
        replaced("functional.relu(1 - real)", "functional.relu(2 - real)"),
        "training gan",
    ),
    "a GAN's moving average": (
        "gan/loop.py",
        replaced("weight = 1 - min(decay, step / (step + 10))", "weight = 1 - min(decay, step / (step + 20))"),
        "training gan",
    ),
    "the samples of a GAN": ("gan/samples.py", replaced("mul(127.5)", "mul(127)"), "training gan"),
    "a residual block": ("models/resnet.py", replaced("y + self.shortcut(x)", "y - self.shortcut(x)"), "model resnet"),
    "the width of one model": ("models/vgg.py", replaced("min(2**stage, 8)", "min(2**stage, 4)"), "model vgg"),
    "a loss with a margin": (
        "training/losses.py",
        replaced("margin - own + logits", "margin - own - logits"),
        "training classification with a loss",
    ),
    "the search of adversarial examples": (
        "training/certified.py",
        replaced("WIDEST = 1000.0", "WIDEST = 100.0"),
        "training classification with a loss",
    ),
    "bounds on curvatures": (
        "spectral/curvature.py",
        replaced("activation.beta / 4", "activation.beta / 2"),
        "training classification with a loss",
    ),
    "an activation that networks may choose": (
        "models/activations.py",
        replaced('"softplus": nn.Softplus', '"softplus": nn.ELU'),
        ("model convnet", "model imagenet_vgg11", "model mlp"),
    ),
    "the default convolution of methods": (
        "methods/base.py",
        replaced("bias=spec.biased", "bias=True"),
        "",  # Besides methods, GANs: a network to which no method applies is built with it.
    ),
    "a convolution's pixels": (
        "functional/convolution.py",
        replaced("x[..., ::rows, ::columns]", "x[..., ::columns, ::rows]"),
        "",
    ),
    "an eps of one method": (
        "methods/batch_norm.py",
        replaced("self.eps, self.momentum", "2 * self.eps, self.momentum"),
        "method batch_norm",
    ),
    "Newton-Schulz": (
        "functional/inverse_sqrt.py",
        replaced("torch.sub(1.5, x, alpha=0.5)", "torch.sub(1.5, x, alpha=0.4)"),
        ("method iter_norm", "method network_deconvolution", "method switchable_whitening"),
    ),
    "the settings of layers": (
        "methods/network_deconvolution.py",
        replaced('"iterations": 15', '"iterations": 12'),
        "method network_deconvolution",
    ),
    "a circular filter": (
        "functional/circular_filter.py",
        replaced("clamp_min_(0)", "clamp_min_(1)"),
        "method conv_norm",
    ),
    "a bound of Fantastic Four": (
        "methods/fantastic_four.py",
        replaced("self.taps**0.5", "self.taps**0.4"),
        "method fantastic_four",
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_an_edit_that_can_change_a_number_moves_what_it_reaches(tree: Copy, unedited: Digests, name: str):
    """And nothing of another subject: an edit of one model leaves the methods, of one method the other methods."""
    file, change, subject = MOVES[name]
    before = tree.edit(file, change)
    try:
        moved = {key for key, digest in tree.digests().items() if digest != unedited[key]}
    finally:
        (tree.package / file).write_text(before, encoding="utf-8")
    assert moved
    if subject != READING:
        moved.discard(READING)  # which has the batches of all images in it
    expected = {key for key in unedited if key.startswith(subject)}
    if isinstance(subject, tuple) or subject in ("training", "training classification", "training gan", *unedited):
        assert moved == expected
    else:
        assert moved <= expected


class Changed(ast.NodeTransformer):
    """Changes one number, comparison or operator of a definition."""

    def __init__(self) -> None:
        self.done = False

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not self.done and type(node.value) in (int, float):
            self.done = True
            return ast.Constant(node.value + 1)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        if not self.done and isinstance(node.op, ast.Add | ast.Sub):
            self.done = True
            return ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), node.right)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        return node  # Its words are no part of the meaning.

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


# Of the training of all kinds, and of two methods and models: what their numbers come from.
CHANGED = ("training", "model resnet8", "model sngan", "method network_deconvolution", "method fantastic_four")


def test_a_change_of_any_definition_moves_an_id(tree: Copy, unedited: Digests):
    """Mechanically: of each function, class and constant that training reaches, one number or operator is changed."""
    unmoved, changed = [], 0
    names = [each for each in tree.roots if each.startswith(CHANGED)]
    for (path, name), reaching in sorted(tree.reaching(names).items()):
        text = path.read_text(encoding="utf-8")
        module = ast.parse(text)
        for index, statement in enumerate(module.body):
            names = {getattr(statement, "name", None)} | {
                target.id
                for target in getattr(statement, "targets", [getattr(statement, "target", None)])
                if isinstance(target, ast.Name)
            }
            if name not in names:
                continue
            transformer = Changed()
            module.body[index] = transformer.visit(copy.deepcopy(statement))
            if not transformer.done:
                continue
            changed += 1
            path.write_text(ast.unparse(ast.fix_missing_locations(module)), encoding="utf-8")
            if tree.digest(reaching) == unedited[reaching]:
                unmoved.append(f"{path.name}: {name}")
            path.write_text(text, encoding="utf-8")
            break
    assert not unmoved
    assert changed >= 40


def test_a_run_whose_loss_has_other_code_is_not_trained() -> None:
    """Those without a loss have none in their ids, and those with it are compared like all code of a run."""
    variant = sample_runs.variant(method_code=code.method("batch_norm"))
    given: dict[str, Any] = {"model_code": code.model("resnet8")}

    def problem(**more: Any) -> str | None:
        task = sample_runs.task(**given, **more)
        return code.problem(sample_runs.run(code=code.training(Kind.CLASSIFICATION), task=task, variant=variant))

    with_loss = sample_runs.task(recipe={"loss": Loss(kind="hinge")})
    assert code.loss(sample_runs.task()) is None
    assert problem() is None
    assert problem(recipe={"loss": Loss(kind="hinge")}, loss_code=code.loss(with_loss)) is None
    assert problem(recipe={"loss": Loss(kind="hinge")}, loss_code="0" * 64) == (
        "the training with a loss here is not that of the run: bring the code up to date"
    )


def test_the_entry_points_are_there():
    for kind in Kind:
        assert len(code.training(kind)) == 64


def test_every_file_that_the_tables_and_the_page_are_made_of_counts() -> None:
    """A new template, script or table of the package has to be in the list of a stage."""
    there = {
        str(path.relative_to(code.PACKAGE))
        for path in (code.PACKAGE / "results").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert there == {name for names in code.DATA_FILES.values() for name in names}
    digests = code.of_stages({}, [])
    assert all(set(digests[stage]["files"]) == set(names) for stage, names in code.DATA_FILES.items())
