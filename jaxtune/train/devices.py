"""The devices that this process computes on, and why a wanted one is not available.

No other file asks JAX for its devices, so that a missing GPU never goes unnoticed.
"""

import functools
import re
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

#: Packages that the extra `cuda` installs, by version of CUDA.
_CUDA_PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin")
_GPU = ("cuda", "gpu", "rocm")

#: Words in the error of a backend that had too little memory to start.
_NO_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OUT_OF_MEMORY")

#: What to do if another process holds the GPU's memory.
SHARED_CARD = (
    "Another process may hold the card's memory (nvidia-smi lists them): JAX reserves "
    "75 % of it at the start. End that process, or make both reserve less: "
    "XLA_PYTHON_CLIENT_MEM_FRACTION=0.4 reserves that fraction, "
    "XLA_PYTHON_CLIENT_PREALLOCATE=false allocates memory only as needed."
)


class DeviceError(RuntimeError):
    """JAX has no device here, or none of the platform asked for."""


def local_devices() -> list[jax.Device]:
    """Returns the devices of this process, of JAX's default platform.

    Warns once if that is the CPU although JAX's CUDA plugin is installed and nothing
    asks for the CPU.

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


def all_devices() -> list[jax.Device]:
    """Returns the devices of all processes of `jax.distributed`, this one's included.

    Raises:
        DeviceError: See `local_devices`.
    """
    local_devices()
    return jax.devices()


def wait_for_all(name: str) -> None:
    """Waits until every process of `jax.distributed` has come here; all must call it.

    Args:
        name: Of the place, the same in each.
    """
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def whole_on_host(array: Any) -> np.ndarray:
    """Returns an array's values, also where other processes hold parts of it.

    All processes must call it then.
    """
    here = getattr(array, "is_fully_addressable", True)
    if not here and not array.is_fully_replicated:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


@functools.cache
def say_once(message: str) -> None:
    """Warns once in a process, at the line of the caller outside of jaxtune."""
    where: dict[str, Any] = {"stacklevel": 2}
    if sys.version_info >= (3, 12):
        where = {"skip_file_prefixes": (str(Path(__file__).parents[1]),)}
    warnings.warn(message, **where)  # noqa: B028


def _why_not(message: str) -> str:
    """Our error message for JAX's, when it has no device."""
    asked = jax.config.jax_platforms
    hint = _memory_hint(message)
    if not asked:
        return (
            f"JAX can't start: {_reason(message)}.{hint} With JAX_PLATFORMS=cpu only "
            "the CPU is used."
        )
    failed = re.findall(r"Unable to initialize backend '(\w+)'", message)[:1]
    available = [name for name in _available() if name not in failed]
    return (
        f"JAX_PLATFORMS={asked} asks for a platform that is not available: "
        f"{_reason(message)}.{hint} Available: {', '.join(available)}. Unset "
        "JAX_PLATFORMS to use the best of them."
    )


def _memory_hint(message: str) -> str:
    return f" {SHARED_CARD}" if any(word in message for word in _NO_MEMORY) else ""


def _reason(message: str) -> str:
    """Why a backend did not start, from JAX's error message."""
    unknown = re.search(r"Backend '(\w+)' is not in the list of known", message)
    if unknown is None:
        failed = re.search(r"Unable to initialize backend '\w+': (.*)", message, re.S)
        text = (failed.group(1) if failed else message).split(" (set JAX_PLATFORMS")[0]
        text = text.split(" (you may need to")[0].strip().rstrip(".")
        text = re.sub(r"^[A-Z_]+: ", "", text)
        # JAX gives no reason if it sees no NVIDIA card.
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
    return "JAX's CUDA plugin did not start, see JAX's own messages above"


@functools.cache
def _look_for_a_gpu() -> None:
    """Warns if JAX uses the CPU although its CUDA plugin is installed, and why."""
    plugin = _cuda_plugin()
    asked = jax.config.jax_platforms or getattr(jax.config, "jax_platform_name", None)
    if plugin is None or (asked and not set(_plain(asked)) & set(_GPU)):
        return
    try:
        jax.devices("cuda")
    except (RuntimeError, AssertionError) as error:
        failed = re.search(r"failed to initialize: (.*)\. Available", str(error), re.S)
        reason = failed.group(1) if failed else _no_gpu()
        say_once(
            f"no GPU is used although {plugin} is installed: {reason}."
            f"{_memory_hint(reason)} The CPU is used instead; set JAX_PLATFORMS=cpu if "
            "you want that."
        )


def _cuda_plugin() -> str | None:
    return next(filter(_is_installed, _CUDA_PLUGINS), None)


def _available() -> list[str]:
    """Platforms for which JAX's plugin is installed and there is a device file."""
    names = ["cpu"]
    if _cuda_plugin() is not None and _is_there("nvidia[0-9]*", "dxg"):
        names.append("cuda")
    if _is_installed("libtpu") and _is_there("accel[0-9]*", "vfio/[0-9]*"):
        names.append("tpu")
    return names


def _is_there(*patterns: str) -> bool:
    """Whether there is such a device file; dxg is that of a GPU in WSL."""
    return any(any(Path("/dev").glob(pattern)) for pattern in patterns)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _plain(asked: str) -> list[str]:
    return [name.strip() for name in asked.split(",")]
