"""The device that trains: which one is chosen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from normbench.system import device, threads
from normbench.system.errors import UserError


def test_choice(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NORMBENCH_DEVICE", "cpu")
    assert device.choose() == "cpu"
    monkeypatch.setenv("NORMBENCH_DEVICE", "gpu")
    with pytest.raises(UserError, match="NORMBENCH_DEVICE = 'gpu': unknown device; "):
        device.choose()
    monkeypatch.setenv("NORMBENCH_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"not on this machine, which has .*cpu"):
        device.choose()
    monkeypatch.delenv("NORMBENCH_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose() == "cuda"


def switches() -> dict[tuple[str, str], str]:
    return {each: torch._C._get_fp32_precision_getter(*each) for each in device.SWITCHES}


@pytest.fixture
def settings() -> Iterator[None]:
    """Puts torch's settings back, as other tests of this process share them."""
    with device.settings_kept():
        yield


def all_settings() -> list[object]:
    """Everything that `prepare` and `use_threads` may change."""
    old: list[object] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            old.append(read())
        except RuntimeError:
            old.append("contradicts the new switch")
    cudnn = torch.backends.cudnn
    kernels = [cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode(), torch.get_num_threads()]
    return [switches(), *old, *kernels, torch.utils.deterministic.fill_uninitialized_memory]


@pytest.mark.parametrize("kind", device.KINDS)
def test_settings_are_kept(kind: str, settings: None) -> None:
    """Those of whoever calls normbench in a process of their own, whichever switches of torch they have used."""
    for switch_on in (lambda: None, lambda: old_switches(), lambda: new_switches()):
        switch_on()
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = True
        torch.set_num_threads(3)
        before = all_settings()
        with contextlib.suppress(KeyError), device.settings_kept():
            device.prepare(kind)
            device.use_threads(2, kind)
            assert all_settings() != before
            raise KeyError
        assert all_settings() == before


@pytest.mark.parametrize("kind", device.KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_rounds_float32(kind: str, precision: str, settings: None) -> None:
    """Whatever was switched on before, by the old switches of torch or the new ones."""
    for switch_on in (old_switches, new_switches):
        switch_on()
        device.prepare(kind, precision)
        assert set(switches().values()) == {"ieee"}
        assert not torch.backends.cuda.matmul.allow_tf32  # it raises if the old switch contradicts the new one
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"


def old_switches() -> None:
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True


def new_switches() -> None:
    for place in device.SWITCHES:
        torch._C._set_fp32_precision_setter(*place, "tf32")


def test_tf32_is_for_gpus_alone(settings: None) -> None:
    device.prepare("cuda", "tf32")
    assert {value for (backend, _), value in switches().items() if backend == "cuda"} == {"tf32"}
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    device.prepare("cpu", "tf32")  # as a score does, of a run that was trained elsewhere
    assert set(switches().values()) == {"ieee"}


def test_which_devices_have_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not device.has_tf32("cpu")
    assert not device.has_tf32("mps")
    for capability, expected in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert device.has_tf32("cuda") is expected


def test_deterministic_on_cuda(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran before: each run is prepared anew."""
    cudnn = torch.backends.cudnn
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device.prepare("cuda", deterministic=True)
    assert (cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()) == (False, True, 2)
    device.prepare("cuda")
    assert (cudnn.benchmark, cudnn.deterministic, torch.get_deterministic_debug_mode()) == (True, False, 0)
    device.prepare("cpu", deterministic=True)
    assert torch.get_deterministic_debug_mode() == 1


def test_cublas_must_be_set_up_for_it(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", ":4096:2"):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
        with pytest.raises(
            UserError, match=r"recipe\.deterministic: .*CUBLAS_WORKSPACE_CONFIG must be :4096:8 or :16:8"
        ):
            device.prepare("cuda", deterministic=True)
        device.prepare("cuda")
        device.prepare("cpu", deterministic=True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads.set_environment()
    device.prepare("cuda", deterministic=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    device.prepare("cuda", deterministic=True)


def test_threads():
    """A run on a CPU computes with the threads of its recipe; runs that share a GPU leave each other the cores."""
    before = torch.get_num_threads()
    try:
        device.use_threads(3, "cpu")
        assert torch.get_num_threads() == 3
        device.use_threads(3, "cuda")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
