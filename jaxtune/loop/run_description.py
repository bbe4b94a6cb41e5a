"""The recipe of a run: every setting that changes its results, as plain JSON.

Settings that don't change results (threads, caches, where the photos are) are left out.
A run is resumed only with the same recipe.
"""

import ast
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import jaxtune.train
from jaxtune.checkpoint import fingerprint, fingerprint_text
from jaxtune.data import Items, PackedPaths, function_program
from jaxtune.train import EpochMetric, Phase
from jaxtune.transfer import Groups


def describe_data(data) -> dict[str, Any]:
    """Returns the settings of `ImageDataLoaders` that decide the batches.

    Photos are compared by their labels and by their names, relative to the folder
    common to all of them; the files are not read.

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
        "augmentation": _describe_augmentation(data),
    }
    for name, loader in splits.items():
        described[name] = {
            "photos": loader.num_items,
            "batch_size": loader.batch_size,
            "on_error": loader.on_error,
            "preparation": dataclasses.asdict(loader.preparation),
            "items": describe_items(loader.items),
        }
    return described


def _describe_augmentation(data) -> dict[str, Any] | None:
    if data.augmentation is None:
        return None
    functions = data.augmentation.functions
    described = dataclasses.asdict(dataclasses.replace(data.augmentation, functions=()))
    del described["functions"]
    if functions:
        shape = (*data.size, data.in_channels)
        described["functions"] = [
            {"name": name_of(function), "program": function_program(function, shape)}
            for function in functions
        ]
    return described


def describe_items(items: Items) -> str:
    """Returns a sha256 of the photos' names, labels and weights."""
    rest = {"labels": np.asarray(items.labels)}
    if items.weights is not None:
        rest["weights"] = np.asarray(items.weights)
    array = getattr(items.images, "array", None)
    if array is not None:
        rest["images"] = array
    if isinstance(items.paths, PackedPaths):
        return fingerprint_text([items.paths.digest(), fingerprint(rest)])
    paths = [os.path.abspath(path) for path in items.paths]
    common = os.path.commonpath([os.path.dirname(path) for path in paths] or ["/"])
    names = (os.path.relpath(path, common).replace(os.sep, "/") for path in paths)
    return fingerprint_text([*names, fingerprint(rest)])


def describe_groups(groups: Groups) -> dict[str, str | list[str]]:
    """Returns layer groups as JSON: patterns unchanged, paths as sorted lists."""
    return {
        name: members if isinstance(members, str) else sorted(members)
        for name, members in groups.items()
    }


def function_named(name: str) -> Callable | EpochMetric | None:
    """Returns the function or metric of jaxtune with a name that `name_of` gave.

    Only public functions of `jaxtune.train` are found, and their arguments must be
    plain values, so a name read from a file can't run any other code.

    Returns:
        The function, or a partial of it; None if there is no such function.

    Example:
        >>> name = "jaxtune.train.losses.cross_entropy(label_smoothing=0.1)"
        >>> function_named(name).keywords
        {'label_smoothing': 0.1}
        >>> function_named("os.remove('photos')")
    """
    bare, opened, _ = name.partition("(")
    function = getattr(jaxtune.train, bare.rpartition(".")[2], None)
    if not callable(function) or name_of(function) != bare:
        return None
    of_epoch = isinstance(function, type) and issubclass(function, EpochMetric)
    if not opened:
        return None if of_epoch else function
    try:
        call = ast.parse(name, mode="eval").body
        arguments = [ast.literal_eval(value) for value in call.args]
        keywords = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if of_epoch:
            return function(*arguments, **keywords)
        return functools.partial(function, *arguments, **keywords)
    except (SyntaxError, TypeError, ValueError):
        return None


def name_of(function: Callable | Any) -> str:
    """Returns a function's name with its arguments, the same in every process.

    Example:
        >>> name_of(os.path.join)
        'posixpath.join'
        >>> name_of(functools.partial(int, base=2))
        'builtins.int(base=2)'
        >>> name_of(jaxtune.train.F1Score(average="macro"))
        "jaxtune.train.epoch_metrics.F1Score(average='macro')"
    """
    if isinstance(function, functools.partial):
        given = [repr(a) for a in function.args]
        given += [f"{key}={value!r}" for key, value in function.keywords.items()]
        return f"{name_of(function.func)}({', '.join(given)})"
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    kind = type(function)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(function, EpochMetric) and dataclasses.is_dataclass(function):
        given = [
            f"{field.name}={value!r}"
            for field in dataclasses.fields(function)
            if (value := getattr(function, field.name)) != field.default
        ]
        return f"{name}({', '.join(given)})"
    return name


def describe_run(
    phases: Sequence[Phase], data: Any, *, network: dict | None, seed: int
) -> dict[str, Any]:
    """Returns the settings of phases and data that change a run's results, as JSON.

    Args:
        phases: The phases: what trains, for how long, at which rates.
        data: `ImageDataLoaders`.
        network: How the network was built, or None.
        seed: Of the run.
    """
    return {
        "format": 2,
        "phases": [phase.as_dict() for phase in phases],
        "data": describe_data(data),
        "network": network,
        "seed": seed,
    }


def without_metrics(description: dict[str, Any]) -> dict[str, Any]:
    """Returns a trainer's description without metrics, which don't change weights."""
    return {name: value for name, value in description.items() if name != "metrics"}


def upgraded_recipe(recipe: dict) -> dict:
    """Returns a run's recipe in the present format; older versions kept more in it."""
    if "format" in recipe:
        return recipe
    callbacks = [
        re.sub(r"path='[^']*', ?|, path='[^']*'", "", text)
        for text in recipe.get("callbacks", ())
        if decides_numbers(text)
    ]
    kept = {name: value for name, value in recipe.items() if name != "metrics"}
    return {"format": 2, **kept, "callbacks": callbacks}


def decides_numbers(text: str) -> bool:
    """Returns whether a callback, given by its `repr`, affects training.

    For runs that were started when the recipe listed all callbacks. Classes that are
    not jaxtune's are taken not to.
    """
    kind = text.partition("(")[0]
    return kind in ("EarlyStopping", "ReduceLROnPlateau") or (
        kind == "SaveBest" and "restore=True" in text
    )
