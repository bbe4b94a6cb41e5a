"""Rematerialization: blocks that are computed again for their gradients.

Of each block only its input is kept for the backward pass, so larger batches fit; the
forward pass of what trains is computed twice. Also called gradient checkpointing.
"""

import functools
from collections.abc import Iterator

from flax import nnx

from jaxtune.arguments import check_module
from jaxtune.models import Sequential

#: Modules that only hold others; their children are blocks, and not they themselves.
_CONTAINERS = (Sequential, nnx.Sequential, nnx.List, nnx.Dict)


def with_rematerialization(module: nnx.Module) -> nnx.Module:
    """Returns a view of a network whose blocks keep only their inputs for gradients.

    Values and gradients are the same up to rounding. Blocks are modules with layers of
    their own, outside of one another, such as the residual blocks of a ResNet; single
    layers and containers (`Sequential`, lists) are none. The view shares its variables
    with the module.

    Args:
        module: A network of body and head, or a view of it; `training_view` and
            `with_precision` come before.

    Raises:
        TypeError: If it is not a module.
        ValueError: If it has no such blocks, so that nothing would be saved.

    References:
        Chen et al., "Training Deep Nets with Sublinear Memory Cost",
        https://arxiv.org/abs/1604.06174. Flax 0.12, `nnx.remat`.
    """
    check_module(module, "module")
    view = nnx.view(module, raise_if_not_found=False)
    blocks = list(_blocks(view, depth=0))
    if not blocks:
        raise ValueError(
            f"{type(module).__name__} has no blocks, modules with layers of their own, "
            "so there is nothing that rematerialize=True could save. Leave it out."
        )
    for block in blocks:
        kind = _rematerializing_class(type(block))
        object.__setattr__(block, "__class__", kind)
    return view


def _blocks(module: nnx.Module, depth: int) -> Iterator[nnx.Module]:
    children = [
        child for _, child in nnx.iter_children(module) if isinstance(child, nnx.Module)
    ]
    # A network and its body only hold what follows, whatever their classes.
    if depth < 2 or isinstance(module, _CONTAINERS):
        for child in children:
            yield from _blocks(child, depth + 1)
    elif children and callable(module):
        yield module


@functools.cache
def _rematerializing_class(kind: type) -> type:
    # Cached, so that two views of a network have equal graph definitions.
    call = nnx.remat(kind.__call__)
    names = {"__call__": functools.wraps(kind.__call__)(call)}
    return type(kind.__name__, (kind,), names | {"__module__": kind.__module__})
