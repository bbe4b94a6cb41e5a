"""The recipe of a run: everything that decides its numbers, as plain JSON.

Data, phases and options in, a dict out. The one rule of the file: what changes no
number (threads, caches, where the photos lie) is not in it.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxtune.checkpoint import fingerprint, fingerprint_text
from jaxtune.transfer import Groups


def describe_data(data) -> dict[str, Any]:
    """Returns what of `ImageDataLoaders` decides the batches.

    Photos count by their names below the folder common to all of them, and by their
    labels; what is in the files is not looked at.

    Args:
        data: `ImageDataLoaders`, or what has its attributes.
    """
    splits = {"train": data.train_loader, "valid": data.valid_loader}
    described: dict[str, Any] = {
        "kind": data.kind,
        "classes": list(data.classes),
        "size": list(data.size),
        "channels": data.in_channels,
        "seed": data.seed,
        "augmentation": None
        if data.augmentation is None
        else dataclasses.asdict(data.augmentation),
    }
    for name, loader in splits.items():
        described[name] = {
            "photos": loader.num_items,
            "batch_size": loader.batch_size,
            "on_error": loader.on_error,
            "preparation": dataclasses.asdict(loader.preparation),
            "items": _items_fingerprint(loader.items),
        }
    return described


def _items_fingerprint(items) -> str:
    rest = {"labels": np.asarray(items.labels)}
    if items.weights is not None:
        rest["weights"] = np.asarray(items.weights)
    array = getattr(items.images, "array", None)
    if array is not None:
        rest["images"] = array
    paths = [os.path.abspath(path) for path in items.paths]
    common = os.path.commonpath([os.path.dirname(path) for path in paths] or ["/"])
    names = (os.path.relpath(path, common).replace(os.sep, "/") for path in paths)
    return fingerprint_text([*names, fingerprint(rest)])


def describe_groups(groups: Groups) -> dict[str, str | list[str]]:
    """Returns layer groups as JSON: patterns as they are, paths as sorted lists."""
    return {
        name: members if isinstance(members, str) else sorted(members)
        for name, members in groups.items()
    }


def name_of(function: Callable | Any) -> str:
    """Returns a name by which a function is the same in another process.

    Example:
        >>> name_of(os.path.join)
        'posixpath.join'
        >>> name_of(functools.partial(int, base=2))
        'builtins.int(base=2)'
    """
    if isinstance(function, functools.partial):
        given = [repr(a) for a in function.args]
        given += [f"{key}={value!r}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(given)})"
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    kind = type(function)
    return f"{kind.__module__}.{kind.__qualname__}"
