"""What decides a run, kept beside it as JSON: two recipes are one run or they differ.

Recipes in, a list of differences or a file out. The one rule of the file: a file is
complete or absent, and a difference names both sides.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxtune.train import local_devices

_MOST_LINES = 20


class RunMismatchError(ValueError):
    """A run's folder holds a run of another recipe; the difference is listed."""


def check_recipe(
    path: Path, held: Mapping[str, Any], recipe: dict, made_with: Mapping[str, Any]
) -> None:
    """Raises unless a run's recipe is the one at hand.

    Args:
        path: The run's folder, for the message.
        held: What the folder says of itself: `recipe` and `made_with`.
        recipe: The one at hand, as JSON gives it back.
        made_with: Versions and devices at hand. Where they are others, `start`, the
            fingerprint of the first values, doesn't count: a head's first values can
            differ in their last bits from chip to chip. Nor does a `program`: JAX
            writes the same function in other ways from version to version.

    Raises:
        RunMismatchError: If they differ; the differences are listed.
    """
    before = held["recipe"]
    if held["made_with"] != made_with:
        before, recipe = (
            {**_without_programs(r), "start": None} for r in (before, recipe)
        )
    if differences := _differences(before, recipe):
        more = len(differences) - _MOST_LINES
        lines = differences[:_MOST_LINES] + ([f"… and {more} more"] if more > 0 else [])
        listed = "\n".join(f"  {line}" for line in lines)
        raise RunMismatchError(
            f"{path} holds a run of another recipe. What differs:\n{listed}\nCall it "
            "as it was called first to go on with that run, or choose another folder."
        )


def _without_programs(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_programs(v) for k, v in value.items() if k != "program"}
    if isinstance(value, list):
        return [_without_programs(each) for each in value]
    return value


def environment() -> dict[str, Any]:
    """Returns versions and devices, on which the last bits of a run depend."""
    devices = local_devices()
    return {
        "jax": jax.__version__,
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


def write_json(path: Path, value: Any) -> None:
    """Writes a file of JSON, wholly or not at all."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Writes a file of text in UTF-8, wholly or not at all; its folder must be there.

    What is there already is replaced, or if anything fails is what it was before.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _differences(held: dict, now: dict) -> list[str]:
    before, after = _flat(held), _flat(now)
    missing = "nothing"
    return [
        f"{name}: {before.get(name, missing)} in the folder, "
        f"{after.get(name, missing)} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name, missing) != after.get(name, missing)
    ]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        children = value.items()
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        children = enumerate(value, 1)
    else:
        return {name: json.dumps(value)}
    flat = {}
    for key, child in children:
        flat |= _flat(child, f"{name}.{key}" if name else str(key))
    return flat
