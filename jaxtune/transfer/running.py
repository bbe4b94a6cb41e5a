"""Running a network on shapes (`jax.eval_shape`), and wrapping its children's calls."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.arguments import check_module
from jaxtune.models import Sequential, call_module


def evaluating(module: nnx.Module) -> nnx.Module:
    """Returns a view of a module in evaluation mode, which shares its variables.

    Batch norms use running statistics and don't update them; dropout is off.

    Raises:
        TypeError: If it is not an NNX module.
    """
    check_module(module, "module")
    return nnx.view(
        module, deterministic=True, use_running_average=True, raise_if_not_found=False
    )


def output_shape(module: nnx.Module, *, in_channels: int = 3) -> tuple[int, ...]:
    """Returns the shape of a network's output for one square image.

    Several sizes from 32 to 512 px are tried, 64 px first, until the network runs.

    Raises:
        ValueError: If it runs on none; the last error is the cause.
        TypeError: If the output is not an array, such as a tuple of two.
    """
    for size in (64, 32, 128, 224, 256, 512):
        try:
            output = _output_at(module, in_channels, size)
            break
        except (TypeError, ValueError, ZeroDivisionError) as error:
            cause = error
    else:
        raise ValueError(
            f"{type(module).__name__} runs on no image (1, s, s, {in_channels}) with s "
            f"from 32 to 512: {cause}"
        ) from cause
    if not isinstance(output, jax.ShapeDtypeStruct):
        shapes = ", ".join(str(x.shape) for x in jax.tree.leaves(output))
        kind = type(output).__name__
        raise TypeError(
            f"{type(module).__name__} must return one array; it returns a {kind}, of "
            f"arrays of shape {shapes or '(none)'}. Return the one that is wanted, or "
            "wrap the network in a module that does."
        )
    return tuple(output.shape)


def check_runs(
    module: nnx.Module, *, size: tuple[int, int], in_channels: int = 3
) -> None:
    """Raises unless a network runs on images of a size; nothing is computed.

    Args:
        module: The network.
        size: Height and width, in pixels.
        in_channels: Channels of the images.

    Raises:
        ValueError: If it doesn't run; the network's own error is the cause.
    """
    try:
        _output_at(module, in_channels, size)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"the network does not run on images of {size[0]} x {size[1]} px: {error}"
        ) from error


def _output_at(module, in_channels: int, size: int | tuple[int, int]):
    graphdef, state = nnx.split(evaluating(module))
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, in_channels), jnp.float32)
    return jax.eval_shape(
        lambda state, x: call_module(nnx.merge(graphdef, state), x), state, images
    )


def children_of(module: nnx.Module) -> list[tuple[str, Callable]]:
    """Returns the direct children by name; a list's items are children: "blocks.0".

    Children of a sequence may be functions.
    """
    if isinstance(module, Sequential):
        return [(name, module[name]) for name in module.names]
    if isinstance(module, nnx.Sequential):
        return [(str(i), layer) for i, layer in enumerate(module.layers)]
    children: list[tuple[str, Any]] = []
    for name, value in vars(module).items():
        if isinstance(value, nnx.List):
            children += [(f"{name}.{i}", item) for i, item in enumerate(value)]
        elif isinstance(value, nnx.Dict):
            children += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            children.append((name, value))
    return [(name, child) for name, child in children if isinstance(child, nnx.Module)]


def listen(module: nnx.Module, around: Callable) -> None:
    """Wraps a function around each call of a module, in place; use it on a copy.

    The class is changed rather than the module wrapped, so attributes, paths and the
    call's signature stay the same.

    Args:
        module: Any module that can be called.
        around: (call, *args, **kwargs) -> output; `call` takes the arguments alone.
    """
    kind = _listening_class(type(module))
    object.__setattr__(module, "__class__", kind)
    object.__setattr__(module, kind.around_name, around)


@functools.cache
def _listening_class(kind: type) -> type:
    # One subclass for each class, as Flax registers every class permanently. A wrapper
    # of a wrapper has an attribute of its own.
    around_name = f"_around_{len(kind.__mro__)}"

    @functools.wraps(kind.__call__)
    def __call__(self, *args, **kwargs):
        around = getattr(self, around_name)
        return around(functools.partial(kind.__call__, self), *args, **kwargs)

    names = {
        "__call__": __call__,
        "__module__": kind.__module__,
        "around_name": around_name,
    }
    return type(kind.__name__, (kind,), names)
