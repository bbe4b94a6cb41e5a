"""The devices that this process computes on, or a sentence which says why not.

The one rule of the file: nowhere else is JAX asked which devices there are; where the
user gets others than those that were asked for or paid for, it is said.
"""

import functools
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

#: What the extra `cuda` brings, of whichever CUDA.
_CUDA_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")
_GPU = ("cuda", "gpu", "rocm")

#: Words by which a backend says that it had no memory to start with.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OUT_OF_MEMORY")

#: What to do where a card's memory is taken.
SHARED_CARD = (
    "Another process may hold the card's memory (nvidia-smi lists them): JAX takes "
    "75 % of it at its start. End that process, or give both less: "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.4 takes that share, "
    "XLA_PYTHON_CLIENT_PREALLOCATE=false takes memory only as it is needed."
)


class DeviceError(RuntimeError):
    """JAX has no device here, or none of the platform that was asked for."""


def local_devices() -> list[jax.Device]:
    """Returns the devices of this process, of the platform that JAX prefers.

    Warns, once, if that is the processor although JAX's CUDA plugin is installed, and
    nobody asked for the processor.

    Raises:
        DeviceError: If there is none of the platform that `JAX_PLATFORMS` asks for, or
            a backend can't start.
    """
    try:
        devices = jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(_why_not(str(error))) from error
    if all(device.platform == "cpu" for device in devices):
        _look_for_a_gpu()
    return devices


@functools.cache
def say_once(message: str) -> None:
    """Warns of something, once in a process, at the user's own line."""
    where: dict[str, Any] = {"stacklevel": 2}
    if sys.version_info >= (3, 12):
        where = {"skip_file_prefixes": (str(Path(__file__).parents[1]),)}
    warnings.warn(message, **where)  # noqa: B028


def _why_not(said: str) -> str:
    """A sentence for what JAX said when it found no device."""
    asked = jax.config.jax_platforms
    hint = f" {SHARED_CARD}" if any(word in said for word in _NO_MEMORY) else ""
    if not asked:
        return (
            f"JAX can't start: {_reason(said)}.{hint} JAX_PLATFORMS=cpu leaves every "
            "device but the processor alone."
        )
    failed = re.search(r"Unable to initialize backend '(\w+)'", said)
    here = [name for name in _here() if not failed or name != failed.group(1)]
    return (
        f"JAX_PLATFORMS={asked} asks for a platform that is not here: {_reason(said)}."
        f"{hint} What there is: {', '.join(here)}. Leave JAX_PLATFORMS unset to take "
        "the best there is."
    )


def _reason(said: str) -> str:
    """Why a backend did not start, as far as JAX says so."""
    unknown = re.search(r"Backend '(\w+)' is not in the list of known", said)
    if unknown is None:
        found = re.search(r"Unable to initialize backend '\w+': (.*)", said, re.S)
        text = (found.group(1) if found else said).split(" (set JAX_PLATFORMS")[0]
        text = text.split(" (you may need to")[0].strip().rstrip(".")
        text = re.sub(r"^[A-Z_]+: ", "", text)
        # JAX says nothing at all where no NVIDIA card is to be seen.
        return text or _no_gpu()
    name = unknown.group(1)
    return _no_gpu() if name in _GPU else f"JAX knows no platform {name!r}"


def _no_gpu() -> str:
    if _cuda_plugin() is None:
        return "JAX's CUDA plugin is not installed (pip install 'jax[cuda13]')"
    if not _is_there("nvidia[0-9]*", "dxg"):
        return (
            "no NVIDIA GPU can be seen (nvidia-smi must list one; a container needs "
            "--gpus all)"
        )
    return "its CUDA plugin did not start, and JAX's own lines above say why"


@functools.cache
def _look_for_a_gpu() -> None:
    """Says why the processor computes where a GPU was wanted."""
    plugin = _cuda_plugin()
    asked = jax.config.jax_platforms or getattr(jax.config, "jax_platform_name", None)
    if plugin is None or (asked and not set(_plain(asked)) & set(_GPU)):
        return
    try:
        jax.devices("cuda")
    except (RuntimeError, AssertionError) as error:
        said = str(error)
        failed = re.search(r"failed to initialize: (.*)\. Available", said, re.S)
        reason = failed.group(1) if failed else _no_gpu()
        hint = f" {SHARED_CARD}" if any(word in reason for word in _NO_MEMORY) else ""
        say_once(
            f"no GPU is used although {plugin} is installed: {reason}.{hint} The "
            "processor computes; JAX_PLATFORMS=cpu says that you want that."
        )


def _cuda_plugin() -> str | None:
    return next(filter(_is_installed, _CUDA_PLUGINS), None)


def _here() -> list[str]:
    """Platforms that JAX has the code for and this machine a device file."""
    names = ["cpu"]
    if _cuda_plugin() is not None and _is_there("nvidia[0-9]*", "dxg"):
        names.append("cuda")
    if _is_installed("libtpu") and _is_there("accel[0-9]*", "vfio/[0-9]*"):
        names.append("tpu")
    return names


def _is_there(*patterns: str) -> bool:
    """Whether there is such a device file; dxg is Windows' for its Linux."""
    return any(any(Path("/dev").glob(pattern)) for pattern in patterns)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _plain(asked: str) -> list[str]:
    return [name.strip() for name in asked.split(",")]
