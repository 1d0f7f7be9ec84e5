"""Every mistake in params.yaml ends in `resolve` with one line: file, key, value, nearest valid name."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest

from normbench.methods.group_norm import GroupNorm
from normbench.suite import look, resolve
from normbench.suite.file import check_options
from normbench.suite.schema import Dataset
from normbench.system.errors import UserError
from normbench.training.recipe import Recipe
from tests.support import forks
from tests.support.project import ROOT, environment

GOOD = (ROOT / "params.yaml").read_text(encoding="utf-8")

# what is replaced in params.yaml, by what, and what the line must say
MISTAKES = {
    "misspelt key": (
        "      epochs: 5",
        "      epochz: 5",
        r"tasks\.digits-resnet8\.recipe\.epochz = 5: unknown key; .*'epochs'",
    ),
    "misspelt section": ("\nvariants:", "\nvarients:", r"varients.*unknown key; did you mean 'variants'"),
    "negative epochs": ("epochs: 5", "epochs: -3", r"recipe\.epochs = -3: .*greater than 0"),
    "wrong type": ("epochs: 5", "epochs: many", r"recipe\.epochs = 'many': must be a whole number$"),
    "float for int": ("epochs: 5", "epochs: 5.5", r"recipe\.epochs = 5\.5: must be a whole number$"),
    "text for number": ("lr: 0.1", "lr: fast", r"recipe\.lr = 'fast': must be a number$"),
    "not finite": ("lr: 0.1", "lr: .inf", r"recipe\.lr = \.inf: must be a finite number$"),
    "unknown features": (
        "\nvariants:",
        "\ngan_evaluation: {features: [classifier, inceptoin]}\nvariants:",
        r"gan_evaluation\.features\.1 = 'inceptoin': not valid; did you mean 'inception'",
    ),
    "features twice": (
        "\nvariants:",
        "\ngan_evaluation: {features: [inception, inception]}\nvariants:",
        r"gan_evaluation\.features = .*a name stands here twice",
    ),
    "one bootstrap sample": (
        "\nvariants:",
        "\ngan_evaluation: {resamples: 1}\nvariants:",
        r"gan_evaluation\.resamples = 1: must be 0, or 2 or more",
    ),
    "weights that are not there": (
        "\nvariants:",
        "\ngan_evaluation: {features: [inception], inception_weights: no/such.pth}\nvariants:",
        r"gan_evaluation\.inception_weights = 'no/such\.pth': cannot be read: No such file",
    ),
    "weights without use": (
        "\nvariants:",
        "\ngan_evaluation: {inception_weights: params.yaml}\nvariants:",
        r"gan_evaluation\.inception_weights = 'params\.yaml': is not used: .*no 'inception'",
    ),
    "unknown schedule": (
        "schedule: cosine",
        "schedule: cosin",
        r"schedule = 'cosin': not valid; did you mean 'cosine'",
    ),
    "unknown source": ("source: digits", "source: digitz", r"datasets\.digits\.source = 'digitz': .*'digits'"),
    "unknown dataset": (
        "    dataset: digits\n    model: resnet8",
        "    dataset: digit\n    model: resnet8",
        r"tasks\.digits-resnet8\.dataset = 'digit': .*'digits'",
    ),
    "unknown model": ("model: resnet8", "model: resnet9", r"model = 'resnet9': unknown model; did you mean 'resnet8'"),
    "unknown model option": (
        "{width: 8}",
        "{widht: 8}",
        r"model_options\.widht = 8: unknown option of resnet8; .*'width'",
    ),
    "bad model option": ("{width: 8}", "{width: 0}", r"model_options\.width = 0: must be a positive int"),
    "unknown variant": (
        "    - conv_norm",
        "    - conf_norm",
        r"suite\.variants\.4 = 'conf_norm': unknown; did you mean 'conv_norm'",
    ),
    "variant twice": ("    - conv_norm", "    - batch_norm", r"suite\.variants\.4 = 'batch_norm': stands here twice"),
    "unknown task": (
        "tasks: [digits-resnet8]",
        "tasks: [digits-resnet]",
        r"suite\.tasks\.0 = 'digits-resnet': .*'digits-resnet8'",
    ),
    "unknown method": (
        "{method: conv_norm}",
        "{method: convnorm}",
        r"variants\.conv_norm\.method = 'convnorm': unknown method; .*'conv_norm'",
    ),
    "missing file": (
        "{method: conv_norm}",
        "{method: my_methods/rms.py:RMSNorm}",
        r"no such file my_methods/rms.py; did you mean 'my_methods/rms_norm.py'",
    ),
    "missing class": (
        "{method: conv_norm}",
        "{method: my_methods/rms_norm.py:RMSNom}",
        r"no class RMSNom; did you mean 'RMSNorm'",
    ),
    "unknown option": (
        "{coefficient: 8.0e-4}",
        "{coeficient: 8.0e-4}",
        r"options\.coeficient = 8\.0e-4: unknown option of FantasticFour; .*'coefficient'",
    ),
    "option out of range": (
        "{coefficient: 8.0e-4}",
        "{coefficient: -1.0}",
        r"options\.coefficient = -1\.0: must be at least 0",
    ),
    "option of wrong type": (
        "{coefficient: 8.0e-4}",
        "{coefficient: high}",
        r"options\.coefficient = 'high': must be a number$",
    ),
    "option not a choice": (
        "{placement: last_stage}",
        "{placement: last_stag}",
        r"placement = 'last_stag': not valid; .*'last_stage'",
    ),
    "unknown baseline": (
        "baseline: batch_norm",
        "baseline: batchnorm",
        r"suite\.baseline = 'batchnorm': .*'batch_norm'",
    ),
    "unknown corruption": (
        "names: all",
        "names: [gausian_noise]",
        r"corruptions\.names\.0 = 'gausian_noise': .*'gaussian_noise'",
    ),
    "corruption not a list": ("names: all", "names: some", r"corruptions\.names = 'some': must be `all` or a list$"),
    "severity": (
        "severities: [1, 5]",
        "severities: [6]",
        r"corruptions\.severities\.0 = 6: .*less than or equal to 5",
    ),
    "corruption engine": (
        "severities: [1, 5]",
        "severities: [1, 5]\n  engine: imagecorruption",
        r"corruptions\.engine = 'imagecorruption': not valid; did you mean 'imagecorruptions'",
    ),
    "corruption constants": (
        "severities: [1, 5]",
        "severities: [1, 5]\n  constants: cifar10",
        r"corruptions\.constants = 'cifar10': not valid; did you mean 'cifar'",
    ),
    "image too small for the engine": (
        "severities: [1, 5]",
        "severities: [1, 5]\n  engine: imagecorruptions",
        r"corruptions\.engine = 'imagecorruptions': dataset digits: images of 12 x 12: imagecorruptions needs .* 32 ",
    ),
    "constants that the engine does not have": (
        "severities: [1, 5]\n\n",
        "severities: [1, 5]\n  engine: imagecorruptions\n  constants: cifar\n\n",
        r"corruptions\.constants = 'cifar': engine imagecorruptions has those of imagenet only",
    ),
    "published images and constants": (
        "severities: [1, 5]",
        "severities: [1, 5]\n  source: CIFAR-10-C\n  constants: cifar",
        r"corruptions\.source = 'CIFAR-10-C': with published images, leave out engine and constants",
    ),
    "no seeds": ("seeds: [0, 1, 2]", "seeds: []", r"suite\.seeds = \[\]: .*at least 1 item"),
    "seed twice": ("seeds: [0, 1, 2]", "seeds: [0, 0]", r"suite\.seeds = \[0, 0\]: a seed stands here twice"),
    "negative seed": ("  seed: 0", "  seed: -1", r"suite\.seed = -1: .*greater than or equal to 0"),
    "missing key": ("  seeds: [0, 1, 2] # one run for each task, variant and seed\n", "", r"suite\.seeds: missing"),
    "dataset not listed": (
        "datasets: [digits]",
        "datasets: [mnist]",
        r"tasks\.digits-resnet8\.dataset = 'digits': not in suite\.datasets",
    ),
    "mean without std": ("image_size: 12", "mean: [0.5]", r"datasets\.digits: mean and std go together"),
    "image too small for the model": (
        "image_size: 12",
        "image_size: 10",
        r"gan_tasks\.digits-sngan\.model = 'sngan': does not fit images of 10 x 10; it needs at least 8 .* by 4",
    ),
    "height too small for the model": (
        "image_size: 12",
        "image_size: [10, 12]",
        r"gan_tasks\.digits-sngan\.model = 'sngan': does not fit images of 10 x 12; it needs square images, at least 8",
    ),
    "image size that is no number": (
        "image_size: 12",
        "image_size: 12.0",
        r"datasets\.digits\.image_size = 12.0: must be the side of square images in pixels, or \[height, width\]$",
    ),
    "image size of three numbers": (
        "image_size: 12",
        "image_size: [12, 12, 3]",
        r"datasets\.digits\.image_size = \[12, 12, 3\]: must be the side of square images in pixels, or \[height, w",
    ),
    "image size of one number in a list": (
        "image_size: 12",
        "image_size: [12]",
        r"datasets\.digits\.image_size = \[12\]: must be the side of square images in pixels, or \[height, width\]$",
    ),
    "image size of true": (
        "image_size: 12",
        "image_size: true",
        r"datasets\.digits\.image_size = true: must be the side of square images in pixels, or \[height, width\]$",
    ),
    "width of no image": (
        "image_size: 12",
        "image_size: [12, 3]",
        r"datasets\.digits\.image_size = \[12, 3\]: must be at least 4 pixels$",
    ),
    "image size beyond what can be stored": (
        "image_size: 12",
        "image_size: 99999999999999999999999",
        r"datasets\.digits\.image_size = 99999999999999999999999: must be at most 65536 pixels$",
    ),
    "image of a known source too small for the model": (
        "model: resnet8\n    model_options: {width: 8}",
        "model: vgg11",
        r"tasks\.digits-resnet8\.model = 'vgg11': does not fit images of 12 x 12; it needs at least 32 pixels a side",
    ),
    "label noise": (
        "dataset: digits\n    model: resnet8",
        "dataset: digits\n    label_noise: {kind: symetric, fraction: 0.2}\n    model: resnet8",
        r"tasks\.digits-resnet8\.label_noise\.kind = 'symetric': .*'symmetric'",
    ),
    "adversary": (
        "      epochs: 5",
        "      adversary: {kind: free, epsilonn: 8.0}\n      epochs: 5",
        r"tasks\.digits-resnet8\.recipe\.adversary\.epsilonn = 8.0: unknown key; did you mean 'epsilon'",
    ),
    "attacks": (
        "attacks: {examples: 100",
        "attacks: {example: 100",
        r"evaluation\.attacks\.example = 100: unknown key; did you mean 'examples'",
    ),
    "train fraction": (
        "dataset: digits\n    model: resnet8",
        "dataset: digits\n    train_fraction: 0\n    model: resnet8",
        r"tasks\.digits-resnet8\.train_fraction = 0: .*greater than 0",
    ),
    "npz without path": ("source: digits", "source: npz", r"datasets\.digits\.path: missing; source npz needs it"),
    "optional choice": (
        "dataset: digits\n    model: resnet8",
        "dataset: digits\n    label_noise: {kind: symetric, fraction: 0.1}\n    model: resnet8",
        r"tasks\.digits-resnet8\.label_noise\.kind = 'symetric': not valid; did you mean 'symmetric'",
    ),
    "compile": (
        "      epochs: 5",
        "      compile: defalt\n      epochs: 5",
        r"recipe\.compile = 'defalt': not valid; did you mean 'default'",
    ),
    "sha256": (
        "source: digits",
        "source: npz\n    path: a.npz\n    sha256: 12ab",
        r"datasets\.digits\.sha256 = '12ab': must be 64 hexadecimal digits, 0-9 and a-f$",
    ),
    "option of another source": (
        "image_size: 12",
        "image_size: 12\n    mirror: there",
        r"datasets\.digits\.mirror = 'there': unknown key: source digits does not have it; these do: .*mnist,",
    ),
    "misspelt key of a dataset": (
        "image_size: 12",
        "imagesize: 12",
        r"datasets\.digits\.imagesize = 12: unknown key; did you mean 'image_size'",
    ),
    "not YAML": ("suite:", "suite: [", r"params\.yaml:\d+: not YAML"),
    # Values that are measured nowhere any more.
    "precision that is measured": (
        "      epochs: 5",
        "      precision: auto\n      epochs: 5",
        r"recipe\.precision = 'auto': not valid; valid: bfloat16, float32, tf32$",
    ),
    "misspelt precision": (
        "      epochs: 5",
        "      precision: bfloat\n      epochs: 5",
        r"recipe\.precision = 'bfloat': not valid; did you mean 'bfloat16'\?",
    ),
    "memory format that is measured": (
        "      epochs: 5",
        "      memory_format: auto\n      epochs: 5",
        r"recipe\.memory_format = 'auto': not valid; valid: channels_last, contiguous$",
    ),
    "no threads": (
        "      epochs: 5",
        "      threads: 0\n      epochs: 5",
        r"tasks\.digits-resnet8\.recipe\.threads = 0: .*greater than 0",
    ),
    "no threads of a GAN": (
        "      iterations: 400",
        "      threads: 0\n      iterations: 400",
        r"gan_tasks\.digits-sngan\.recipe\.threads = 0: .*greater than 0",
    ),
    "threads by the machine": (
        "      epochs: 5",
        "      threads: auto\n      epochs: 5",
        r"recipe\.threads = 'auto': must be a whole number$",
    ),
    "memory format of a GAN": (
        "      iterations: 400",
        "      memory_format: contiguous\n      iterations: 400",
        r"gan_tasks\.digits-sngan\.recipe\.memory_format = 'contiguous': unknown key",
    ),
    "name": ("tasks: [digits-resnet8]", 'tasks: ["../up"]', r"suite\.tasks\.0 = '\.\./up': unknown"),
}


def write(folder: Path, old: str, new: str) -> Path:
    assert old in GOOD
    path = folder / "params.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_line_for_a_mistake(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new, expected = MISTAKES[mistake]
    monkeypatch.chdir(ROOT)
    path = write(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        resolve.resolve(path)
    lines = [line for line in str(caught.value).splitlines() if re.search(expected, line)]
    assert lines, str(caught.value)
    assert lines[0].startswith(str(path))


SINGLE = [
    name
    for name in MISTAKES
    if name
    not in {
        "misspelt section",
        "dataset not listed",
        "npz without path",
        "name",
        "misspelt key",
        "constants that the engine does not have",
    }
]


@pytest.mark.parametrize("mistake", SINGLE)
def test_nothing_but_that_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    old, new, _ = MISTAKES[mistake]
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        resolve.resolve(write(tmp_path, old, new))
    consequences = {"unknown dataset", "unknown task", "unknown variant", "variant twice"}
    if mistake not in consequences:
        assert len(str(caught.value).splitlines()) == 1


def test_line_number(tmp_path: Path):
    path = write(tmp_path, "epochs: 5", "epochs: -3")
    number = next(i for i, line in enumerate(path.read_text().splitlines(), 1) if "epochs: -3" in line)
    with pytest.raises(UserError, match=rf"params\.yaml:{number}: tasks"):
        resolve.resolve(path)


def test_empty_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    text = re.sub(r"  variants:\n(    - \w+\n)+", "  variants: []\n", GOOD)
    for key in ("tasks", "gan_tasks", "gan_variants"):
        text = re.sub(rf"  {key}: \[.*\]", f"  {key}: []", text)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="the suite is empty"):
        resolve.resolve(path)


def test_stage_names_must_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    text = GOOD.replace("tasks: [digits-resnet8]", "tasks: [digits, digits-resnet8]", 1)
    text = text.replace("\ntasks:\n", "\ntasks:\n  digits: {dataset: digits, model: resnet8, recipe: {epochs: 1}}\n")
    text = text.replace("    - batch_norm\n", "    - batch_norm\n    - resnet8-batch_norm\n")
    text = text.replace("\nvariants:\n", "\nvariants:\n  resnet8-batch_norm: {method: batch_norm}\n")
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="would be one stage name, digits-resnet8-batch_norm"):
        resolve.resolve(path)


def test_exit_code_and_nothing_lost(tmp_path: Path):
    """The stage itself: one line on stderr, exit code 1, the last good output as it was."""
    write(tmp_path, "epochs: 5", "epochs: 7")
    command = ("-m", "stages.resolve")
    assert forks.run(*command, cwd=tmp_path, env=environment(ROOT)).returncode == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.json")}
    assert before
    write(tmp_path, "epochs: 5", "epochz: 7")
    done = forks.run(*command, cwd=tmp_path, env=environment(ROOT))
    assert done.returncode == 1
    assert "did you mean 'epochs'" in done.stderr
    assert "Traceback" not in done.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.json")} == before


def test_a_new_variant_changes_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    before = resolve.resolve(write(tmp_path, "suite:", "suite:")).files()
    after = resolve.resolve(write(tmp_path, "    - conv_norm", "    - conv_norm\n    - spectral_norm_alone")).files()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed == {"suite"}  # spectral_norm_alone was there for the GAN


def test_corruption_settings_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    defaults = {"engine": "normbench", "constants": "auto", "source": None}
    resolved = resolve.resolve(write(tmp_path, "suite:", "suite:")).corruptions
    assert {key: resolved[key] for key in defaults} == defaults
    path = write(tmp_path, "severities: [1, 5]", "severities: [1]\n  engine: imagecorruptions\n  constants: imagenet")
    path.write_text(path.read_text().replace("image_size: 12", "image_size: 32"))
    resolved = resolve.resolve(path).corruptions
    assert {key: resolved[key] for key in defaults} == defaults | {
        "engine": "imagecorruptions",
        "constants": "imagenet",
    }
    path = write(tmp_path, "severities: [1, 5]", "severities: [1]\n  source: ~/{dataset}-C")
    assert resolve.resolve(path).corruptions["source"] == "~/{dataset}-C"


@pytest.mark.parametrize(("given", "wanted"), [(12, 12), ([12, 12], 12), ([12, 16], [12, 16]), (None, None)])
def test_an_image_size_is_a_number_or_height_and_width(given: Any, wanted: Any):
    assert Dataset.model_validate({"source": "digits", "image_size": given}).image_size == wanted


def test_how_gans_are_scored_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the sha256 of the weights, so that other weights are other settings; the default is as it always was."""
    monkeypatch.chdir(ROOT)
    plain = resolve.resolve(ROOT / "params.yaml").files()["gan_evaluation"]
    assert plain == {"features": ["classifier"], "inception_weights": None, "resamples": 100, "inception_sha256": None}
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"weights")
    chosen = "\ngan_evaluation: {features: [classifier, inception]%s}\nvariants:"
    official = resolve.resolve(write(tmp_path, "\nvariants:", chosen % "")).files()["gan_evaluation"]
    assert official["inception_sha256"].startswith("6726825d")
    path = write(tmp_path, "\nvariants:", chosen % f", inception_weights: {weights}")
    own = resolve.resolve(path).files()["gan_evaluation"]
    assert own["inception_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert str(weights) in look.places(path)


def test_options_are_checked_by_type_and_range():
    assert check_options(GroupNorm, {"groups": 8, "eps": 1e-3}) == []
    assert check_options(GroupNorm, {"groups": 0})[0] == ("groups", "must be at least 1")
    assert check_options(GroupNorm, {"groups": True})[0][0] == "groups"
    assert check_options(GroupNorm, {"eps": 1})[0:] == []  # an integer is a number


def test_defaults_are_valid():
    assert Recipe(epochs=1).model_dump()["schedule"] == "cosine"
