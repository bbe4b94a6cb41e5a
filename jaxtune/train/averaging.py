"""An exponential moving average (EMA) of the weights, kept beside those that train.

Training never reads the average. It is part of the train state, and so is its decay, so
that another decay needs no recompilation.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxtune.arguments import Number, check_number
from jaxtune.train.optimizer import FROZEN
from jaxtune.train.state import TrainState
from jaxtune.transfer import dotted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Average:
    """A moving average of parameters and statistics; the field `ema` of `TrainState`.

    Attributes:
        decay: Upper limit of the fraction of the average that an update keeps, see
            `decay_after`, float32 ().
        updates: Number of updates averaged so far, int32 ().
        params: Averages of the parameters that train, by path; None for the others.
        model_state: Averages of the statistics that are updated; None for the others.
    """

    decay: Any
    updates: Any
    params: Any
    model_state: Any


def check_decay(decay: Any, name: str = "ema_decay") -> Any:
    """Returns an average's decay; None for no average.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not above 0 and below 1.
    """
    return None if decay is None else check_number(decay, name, above=0, below=1)


def init_average(
    params: nnx.State,
    model_state: nnx.State,
    labels: nnx.State | None = None,
    *,
    decay: Number = 0.999,
    still: Collection[str] = (),
) -> Average:
    """Returns the average before the first update: a copy of the values.

    Pass it to `TrainState.create(params, model_state, tx, ema=...)`, and the step of
    `make_train_step` updates it; `averaged(state)` returns the network to validate and
    to save.

    Args:
        params: Parameters, see `split_module`.
        model_state: The network's other variables.
        labels: Group name of each parameter; those labelled `FROZEN` have no average.
            All have one if None.
        decay: The fraction of the average that an update keeps in the long run; the
            average then spans about the last 1 / (1 - decay) updates. May be traced.
            The default is Lightning's; since the first updates keep less, see
            `decay_after`, it also suits runs of a few hundred steps.
        still: Dotted paths of statistics that are not updated, which have no average;
            see `still_statistics`.

    References:
        Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046; Tarvainen and
        Valpola, "Mean teachers", https://arxiv.org/abs/1703.01780. timm 1.0,
        utils/model_ema.py `ModelEmaV3`, whose average has statistics too; Lightning
        2.6, `EMAWeightAveraging`.
    """
    decay = check_number(decay, "decay", above=0, below=1)
    if labels is None:
        labels = jax.tree.map(lambda x: "", params)
    return Average(
        decay=jnp.asarray(decay, jnp.float32),
        updates=jnp.zeros((), jnp.int32),
        params=jax.tree.map(
            lambda x, label: None if label == FROZEN else _copy(x), params, labels
        ),
        model_state=jax.tree_util.tree_map_with_path(
            lambda path, x: None if dotted(path) in still else _copy(x), model_state
        ),
    )


def still_statistics(view: nnx.Module) -> frozenset[str]:
    """Returns the dotted paths of the statistics that a training view never updates.

    Args:
        view: See `training_view`.
    """
    return frozenset(
        dotted((*path, *leaf))
        for path, node in nnx.iter_graph(view)
        if getattr(node, "use_running_average", False) is True
        for leaf, _ in nnx.to_flat_state(nnx.state(node, nnx.BatchStat))
    )


def decay_after(updates: int | Int[Array, ""], decay: Number) -> Float[Array, ""]:
    """Returns the fraction of the average that the next update keeps.

    It rises with the number of updates t, as min(decay, (1 + t) / (10 + t)): the first
    update keeps a tenth, the hundredth nine tenths, and until `decay` is reached (0.99
    after 890 updates, 0.999 after 8990) the average spans about the last tenth of the
    run. So the initial weights are soon forgotten, which matters in short runs.

    Args:
        updates: Number of updates averaged so far, t.
        decay: Upper limit.

    References:
        TensorFlow 2, `tf.train.ExponentialMovingAverage` with num_updates.
    """
    updates = jnp.asarray(updates, jnp.float32)
    return jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))


def update_average(
    average: Average,
    params: nnx.State,
    model_state: nnx.State,
    *,
    moved: Bool[Array, ""] | bool = True,
) -> Average:
    """Returns the average after an update.

    Args:
        average: The average before the update.
        params: Parameters after the update.
        model_state: Statistics after the update.
        moved: Whether there was an update; if not, the average stays the same bit for
            bit.
    """
    moved = jnp.asarray(moved)
    weight = 1.0 - decay_after(average.updates, average.decay)

    def follow(old, new):
        # Unlike optax.incremental_update's sum of two products, this keeps a value that
        # does not change (at learning rate 0, for instance) the same bit for bit.
        followed = old + (weight * (new - old)).astype(old.dtype)
        return jnp.where(moved, followed, old)

    return dataclasses.replace(
        average,
        updates=average.updates + moved.astype(jnp.int32),
        params=_where_averaged(follow, average.params, params),
        model_state=_where_averaged(follow, average.model_state, model_state),
    )


def averaged(state: TrainState) -> tuple[nnx.State, nnx.State]:
    """Returns the parameters and statistics to validate, predict with and save.

    They are the averages where the state has one, and its own values elsewhere. No
    array is computed or copied.
    """
    if state.ema is None:
        return state.params, state.model_state
    return (
        _filled(state.ema.params, state.params),
        _filled(state.ema.model_state, state.model_state),
    )


def raw_values(state: TrainState) -> dict[str, Any] | None:
    """Returns what a checkpoint holds besides the averaged network.

    Returns:
        `params` and `model_state`, the values that training resumes from where they
        have an average (None elsewhere), and the average's `updates`. None if the state
        has no average.
    """
    if state.ema is None:
        return None
    return {
        "params": _where_averaged(_second, state.ema.params, state.params),
        "model_state": _where_averaged(
            _second, state.ema.model_state, state.model_state
        ),
        "updates": state.ema.updates,
    }


def with_raw_values(state: TrainState, raw: dict[str, Any]) -> TrainState:
    """Returns a state from its averaged network and `raw_values`, bit for bit.

    Args:
        state: Its parameters and statistics are those of `averaged`. Of its average
            only the decay is used.
        raw: The result of `raw_values`.
    """
    average = Average(
        decay=state.ema.decay,
        updates=raw["updates"],
        params=_where_averaged(_second, raw["params"], state.params),
        model_state=_where_averaged(_second, raw["model_state"], state.model_state),
    )
    return state.replace(
        params=_filled(raw["params"], state.params),
        model_state=_filled(raw["model_state"], state.model_state),
        ema=average,
    )


def _copy(x: Array) -> Array | None:
    # Copied, since a donated state must not contain a buffer twice. Random keys and
    # integers have no average.
    return jnp.array(x, copy=True) if jnp.issubdtype(x.dtype, jnp.floating) else None


def _where_averaged(function: Callable, part: Any, tree: Any) -> Any:
    """Calls a function of two leaves where the first is not None; None elsewhere."""
    return _map(lambda x, y: None if x is None else function(x, y), part, tree)


def _second(_: Any, x: Any) -> Any:
    return x


def _filled(part: Any, tree: Any) -> Any:
    """The first tree, with leaves of the second where it has None."""
    return _map(lambda x, y: y if x is None else x, part, tree)


#: `jax.tree.map` of trees in which None is a leaf.
_map = functools.partial(jax.tree.map, is_leaf=lambda leaf: leaf is None)
