"""A network in two halves: a frozen body's features, and the head that trains on them.

Both are forward passes for `make_train_step(apply=)` and its like, over the whole
network's parameters, so a train state is the same with and without stored features.
"""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from jaxtune.models import GlobalAvgPool, Sequential
from jaxtune.models.sequential import call_module
from jaxtune.train.optimizer import FROZEN
from jaxtune.transfer import ConcatPool, dotted

#: Pooling at the beginning of a head: nothing in it is random or trains.
_POOLS = (ConcatPool, GlobalAvgPool)


def apply_body(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    model_state: nnx.State,
    images: Array,
    *,
    key: Array | None = None,
) -> tuple[Any, nnx.State]:
    """Returns a body's features, pooled if the head begins so, as `apply_module` does.

    Args:
        graphdef: Of a `Sequential` of body and head, in eval mode.
        params: Parameters of the whole network.
        model_state: Its other variables.
        images: The network's input, (b, h, w, c).
        key: Not used.

    Returns:
        Features (b, ...) and the `model_state` as it came.
    """
    network = nnx.merge(graphdef, params, model_state)
    features = call_module(network[:-1], images)
    for pool in _pools(network[-1]):
        features = pool(features)
    return features, model_state


def apply_head(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    model_state: nnx.State,
    images: Array,
    *,
    key: Array | None = None,
) -> tuple[Any, nnx.State]:
    """Returns a network's outputs for the features that `apply_body` returned.

    Args:
        graphdef: Of the whole network, in train or eval mode.
        params: Parameters of the whole network.
        model_state: Its other variables.
        images: The features, (b, ...).
        key: A `jax.random` key for dropout, or None.

    Returns:
        The outputs and the new `model_state`, both as of `apply_module`.
    """

    network = nnx.merge(graphdef, params, model_state)
    head = network[-1]
    count = len(_pools(head))
    head = head[count:] if count else head
    rngs = None if key is None else nnx.Rngs(dropout=key)
    outputs = call_module(head, images, rngs=rngs)
    return outputs, nnx.as_pure(nnx.split(network, nnx.Param, ...)[2])


def check_fixed_body(module: nnx.Module, view: nnx.Module, labels: nnx.State) -> None:
    """Raises if a network's body may give other features in the next step.

    Args:
        module: The network.
        view: In training mode, see `training_view`.
        labels: Layer group of each parameter, `FROZEN` for those that don't train.

    Raises:
        ValueError: If the network is not a `Sequential` of body and head, or in the
            body something is random or keeps statistics of batches.
    """
    advice = "Leave cache_features out."
    if not isinstance(module, Sequential) or len(module.names) < 2:
        raise ValueError(
            "cache_features keeps what the body makes of the photos, and a "
            f"{type(module).__name__} is not a Sequential of a body and a head, as "
            f"create_cnn_model makes it. {advice}"
        )
    head = module.names[-1]
    for path, label in jax.tree_util.tree_leaves_with_path(labels):
        if label != FROZEN and not dotted(path).startswith(f"{head}."):
            raise ValueError(
                f"{dotted(path)} in the body trains, so the body's features can't be "
                "kept: cache_features needs a phase in which only the head trains, and "
                f'norms="frozen". {advice}'
            )
    for path, node in nnx.iter_graph(view[:-1]):
        name = ".".join(map(str, path))
        if _is_random(node):
            raise ValueError(
                f"{name} in the body is random, so its features differ from step to "
                f"step and can't be kept. {advice}"
            )
        if getattr(node, "use_running_average", True) is False:
            raise ValueError(
                f"{name} in the body normalises by each batch's statistics, so its "
                'features can\'t be kept: cache_features needs norms="frozen", and a '
                f"phase in which only the head trains. {advice}"
            )


def _is_random(node: Any) -> bool:
    if isinstance(node, nnx.Dropout):
        return node.rate > 0 and not node.deterministic
    return isinstance(node, nnx.RngState)


def _pools(head: Any) -> list[nnx.Module]:
    first = head[:1] if isinstance(head, Sequential) else []
    return [layer for layer in first if isinstance(layer, _POOLS)]
