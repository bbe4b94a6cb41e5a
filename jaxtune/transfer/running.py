"""Running a network on shapes, listening to its children, and stopping it half way.

A network in; shapes, the order of its calls, or its first part out. The one rule of the
file: a network is looked at by running it (`jax.eval_shape`), nothing is computed.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.models import Sequence, call_module


class _Reached(Exception):  # noqa: N818 - it carries a value, nothing went wrong
    def __init__(self, value):
        self.value = value


def evaluating(module: nnx.Module) -> nnx.Module:
    """Returns a view of a module which draws nothing and changes no statistic.

    Running statistics instead of the batch's, dropout off. The view shares its
    variables with the module.
    """
    return nnx.view(
        module, deterministic=True, use_running_average=True, raise_if_not_found=False
    )


def output_shape(module: nnx.Module, *, in_channels: int = 3) -> tuple[int, ...]:
    """Returns the shape of a network's output for one square image, 32 px or larger.

    Sizes 32, 64, … 512 px are tried until one runs.

    Raises:
        ValueError: If none runs; the last error is the cause.
    """
    for size in (64, 32, 128, 224, 256, 512):
        try:
            return tuple(_run_on_shapes(module, in_channels, size).shape)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            cause = error
    raise ValueError(
        f"{type(module).__name__} runs on no image (1, s, s, {in_channels}) with s "
        f"from 32 to 512: {cause}"
    ) from cause


def _run_on_shapes(module, in_channels: int, size: int, prepare=lambda module: module):
    graphdef, state = nnx.split(evaluating(module))
    images = jax.ShapeDtypeStruct((1, size, size, in_channels), jnp.float32)
    return jax.eval_shape(
        lambda state, x: call_module(prepare(nnx.merge(graphdef, state)), x),
        state,
        images,
    )


def children_of(module: nnx.Module) -> list[tuple[str, Callable]]:
    """Returns the direct children by name; a list's items are children: "blocks.0".

    The children of a sequence may be functions.
    """
    if isinstance(module, Sequence):
        return [(name, module[name]) for name in module.names]
    if isinstance(module, nnx.Sequential):
        return [(str(i), layer) for i, layer in enumerate(module.layers)]
    found = []
    for name, value in vars(module).items():
        if isinstance(value, nnx.List):
            found += [(f"{name}.{i}", item) for i, item in enumerate(value)]
        elif isinstance(value, nnx.Dict):
            found += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            found.append((name, value))
    return [(name, child) for name, child in found if isinstance(child, nnx.Module)]


def record_calls(
    module, in_channels: int, size: int
) -> dict[str, tuple[int, ...] | None]:
    """Returns the output's shape of each child, in the order of their last calls.

    Raises:
        ValueError: If the network doesn't run on images (1, size, size, in_channels).
    """
    if isinstance(module, Sequence | nnx.Sequential):
        return _record_sequence(module, in_channels, size)
    calls: dict[str, tuple[int, ...] | None] = {}

    def listen(root):
        for name, child in children_of(root):

            def note(output, name=name):
                calls.pop(name, None)
                calls[name] = getattr(output, "shape", None)
                return output

            _tap(child, note)
        return root

    try:
        _run_on_shapes(module, in_channels, size, listen)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} doesn't run on images (1, {size}, {size}, "
            f"{in_channels}): {error}"
        ) from error
    return calls


def _record_sequence(module, in_channels: int, size: int):
    names, children = zip(*children_of(module), strict=True)
    calls = {}
    for i, name in enumerate(names):
        part = Sequence({f"child{j}": c for j, c in enumerate(children[: i + 1])})
        try:
            calls[name] = tuple(_run_on_shapes(part, in_channels, size).shape)
        except Exception as error:
            raise ValueError(
                f"child {name!r} of {type(module).__name__} doesn't run on images (1, "
                f"{size}, {size}, {in_channels}): {error}"
            ) from error
    return calls


@functools.cache
def _tapped_class(kind: type) -> type:
    # One subclass for each class, so that two cuts of one network are one graph.

    def __call__(self, *args, **kwargs):
        output = kind.__call__(self, *args, **kwargs)
        return self._after(output) if self._after is not None else _stop(output)

    names = {"__call__": __call__, "_after": None, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names)


def _stop(output):
    raise _Reached(output)


def _tap(module: nnx.Module, after: Callable | None) -> None:
    # The class is changed rather than the module wrapped: a wrapper would put its own
    # name into every parameter's path.
    object.__setattr__(module, "__class__", _tapped_class(type(module)))
    if after is not None:
        module._after = after


@functools.cache
def _body_class(kind: type) -> type:
    def __call__(self, *args, **kwargs):
        try:
            kind.__call__(self, *args, **kwargs)
        except _Reached as reached:
            return reached.value
        raise ValueError(
            f"{kind.__name__} ended without calling the child it is cut after."
        )

    names = {"__call__": __call__, "__module__": kind.__module__}
    return type(f"{kind.__name__}Body", (kind,), names)


def truncated(module, kept: list[str], dropped: list[str]) -> nnx.Module:
    """Returns a copy of any module which stops as soon as the last child kept returns.

    The copy shares its variables with the module and has the same paths; the children
    dropped are gone from it.
    """
    body = nnx.merge(*nnx.split(module))
    for name in dropped:
        parent, key = _locate(body, name)
        if isinstance(parent, nnx.List):
            # Positions are names: the rest of the list must keep its own.
            parent[int(key)] = Sequence({})
        elif isinstance(parent, nnx.Dict):
            del parent[key]
        else:
            delattr(parent, key)
    _tap(dict(children_of(body))[kept[-1]], None)
    object.__setattr__(body, "__class__", _body_class(type(module)))
    return body


def _locate(root, name: str):
    if "." not in name:
        return root, name
    container, key = name.split(".", 1)
    return getattr(root, container), key
