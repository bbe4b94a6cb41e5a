import os
import subprocess
import sys
import warnings

import jax
import pytest
from processes import PLACES, run_script

from jaxtune.train import devices
from jaxtune.train.devices import DeviceError, local_devices, say_once

WARNS = """
import warnings
from jaxtune.train import local_devices
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    local_devices(), local_devices()
print(len(said), *(warning.message for warning in said))
"""


@pytest.fixture
def fake_plugin(tmp_path):
    """A folder in which the CUDA extra seems to be installed, as pip would say."""
    about = tmp_path / "jax_cuda13_plugin-0.10.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: jax-cuda13-plugin\nVersion: 0.10.2\n"
    )
    return tmp_path


def warned(folder, **environment) -> str:
    path = os.pathsep.join(map(str, (*PLACES, folder)))
    return run_script(WARNS, PYTHONPATH=path, **environment).strip()


def no_device(asked: str, monkeypatch, said: Exception) -> str:
    """What is raised where JAX says so of these platforms."""

    def fails():
        raise said

    monkeypatch.setattr(jax, "local_devices", fails)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", asked)
    try:
        with pytest.raises(DeviceError) as caught:
            local_devices()
    finally:
        jax.config.update("jax_platforms", before)
    assert caught.value.__cause__ is said
    return str(caught.value)


def test_the_devices_are_those_of_jax():
    assert local_devices() == jax.local_devices()


@pytest.mark.end_to_end
@pytest.mark.parametrize("command", [("fine-tune", "nowhere"), ("predict", "x", "y")])
@pytest.mark.parametrize("asked", ["nonsense", "cuda", "tpu"])
def test_the_command_says_in_a_sentence_that_a_platform_is_not_available(
    command, asked
):
    if asked != "nonsense" and asked in devices._available():
        pytest.skip("it is available")
    done = subprocess.run(
        [sys.executable, "-c", "from jaxtune.cli import main; main()", *command],
        env=os.environ | {"JAX_PLATFORMS": asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"jaxtune: JAX_PLATFORMS={asked} asks for a platform")
    assert "Available: cpu" in done.stderr
    # Before anything is read, and without JAX's own long text.
    assert "nowhere" not in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_learner_says_so_too():
    script = """
from jaxtune import DeviceError, vision_learner
try:
    vision_learner(None)
except DeviceError as error:
    print(error)
"""
    said = run_script(script, JAX_PLATFORMS="nonsense")
    assert said.startswith("JAX_PLATFORMS=nonsense asks for") and "cpu" in said


def test_what_jax_says_itself_is_the_reason(monkeypatch):
    said = RuntimeError(
        "Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so. "
        "(set JAX_PLATFORMS='' to automatically choose an available backend)"
    )
    message = no_device("tpu", monkeypatch, said)
    assert "not available: Failed to open libtpu.so. Available: cpu" in message


def test_a_backend_that_had_no_memory_to_start_with_may_have_been_robbed(monkeypatch):
    said = RuntimeError(
        "Unable to initialize backend 'cuda': INTERNAL: CUDA_ERROR_OUT_OF_MEMORY (you "
        "may need to uninstall the failing plugin package, or set JAX_PLATFORMS=cpu to "
        "skip this backend.)"
    )
    for asked in ("cuda", ""):
        message = no_device(asked, monkeypatch, said)
        assert "CUDA_ERROR_OUT_OF_MEMORY. Another process may hold" in message
        assert "XLA_PYTHON_CLIENT_PREALLOCATE=false" in message
        assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in message
        assert "uninstall" not in message


def test_no_gpu_with_the_cuda_extra_is_said_once(fake_plugin):
    if devices._is_there("nvidia[0-9]*", "dxg"):
        pytest.skip("there is a GPU")
    count, _, said = warned(fake_plugin, JAX_PLATFORMS="").partition(" ")
    assert count == "1"
    assert said.startswith("no GPU is used although jax-cuda13-plugin is installed: ")
    assert "no NVIDIA GPU can be seen" in said


def test_who_asked_for_the_processor_is_not_told(fake_plugin):
    assert warned(fake_plugin, JAX_PLATFORMS="cpu") == "0"


def test_the_reason_that_jax_gives_for_no_gpu_is_told(monkeypatch):
    def fails(platform):
        raise RuntimeError(
            f"Backend '{platform}' failed to initialize: no supported devices found. "
            "Available backends are ['cpu']"
        )

    monkeypatch.setattr(devices, "_cuda_plugin", lambda: "jax-cuda12-plugin")
    monkeypatch.setattr(jax, "devices", fails)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda,cpu")
    try:
        with pytest.warns(UserWarning, match="12-plugin is installed: no supported"):
            devices._look_for_a_gpu.__wrapped__()
    finally:
        jax.config.update("jax_platforms", before)


def test_a_thing_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            say_once("this")
    assert [str(warning.message) for warning in said] == ["this"]
