"""Train, eval and predict steps: pure functions of a state and a batch.

The one rule of the file: a step is made once from what is code (the graph definition,
the optimizer's update, the loss) and called with what is data; it can be jitted,
scanned, vmapped and differentiated like any function.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from jaxtune.arguments import check_function, check_instance
from jaxtune.data import Mixing, check_mixing, mix
from jaxtune.models import call_module
from jaxtune.train.averaging import update_average
from jaxtune.train.epoch_metrics import EpochMetric
from jaxtune.train.losses import check_loss
from jaxtune.train.measures import row_values
from jaxtune.train.metrics import Metric
from jaxtune.train.optimizer import FROZEN, has_updated
from jaxtune.train.state import TrainState, check_transformation

#: `image` (b, h, w, c), `label` (b,), and optionally `mask` (b,): True for real rows.
Batch = Mapping[str, Array]
#: (graphdef, params, model_state, images, *, key) -> (outputs, model_state).
Apply = Callable[..., tuple[Any, nnx.State]]
TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[nnx.State, nnx.State, Batch], dict[str, Array]]
PredictStep = Callable[[nnx.State, nnx.State, Array], Array]


def apply_module(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    model_state: nnx.State,
    images: Array,
    *,
    key: Array | None = None,
) -> tuple[Any, nnx.State]:
    """Returns a split network's outputs, and its statistics after this batch.

    Pure: whatever the network keeps for itself (running statistics) comes back as
    another tree. With `jax.checkpoint(apply_module, static_argnums=0)` the backward
    pass computes activations anew and keeps only what goes in here.

    Args:
        graphdef: Of the network; whether it trains or evaluates is in it.
        params: Parameters, see `split_module`.
        model_state: Everything else the network holds.
        images: What the network takes, (b, h, w, c).
        key: A `jax.random` key for dropout; None where nothing is drawn.

    Returns:
        The outputs, logits (b, num_classes) of a classifier, and the new `model_state`.
    """
    network = nnx.merge(graphdef, params, model_state)
    rngs = None if key is None else nnx.Rngs(dropout=key)
    outputs = call_module(network, images, rngs=rngs)
    return outputs, nnx.as_pure(nnx.split(network, nnx.Param, ...)[2])


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
    *,
    loss: Callable,
    objective: Callable | None = None,
    labels: nnx.State | None = None,
    prepare: Callable[[Batch, Array], Array] | None = None,
    apply: Apply = apply_module,
    mixing: Mixing | None = None,
) -> TrainStep:
    """Returns a pure `train_step(state, batch, key) -> (state, metrics)`.

    Only what trains is differentiated: parameters labelled `FROZEN` are constants of
    the step, so their backward pass is not computed whatever the optimizer does with
    gradients (clipping, norms).

    Args:
        graphdef: Of the network in train mode, see `training_view` and `split_module`.
        tx: The optimizer; gets zeros as the gradients of frozen parameters.
        loss: (logits, label) -> one value for each row.
        objective: What is minimised instead, of the same form, where the loss is only
            to be shown: the same in other units, such as `mse` with a `scale`.
        labels: Group name of each parameter, `FROZEN` for those that don't train; all
            train if None.
        prepare: (batch, key) -> images for the network: augmentation and normalisation.
            The batch's `image` as it is if None.
        apply: The forward pass, a function of the form of `apply_module`: a
            rematerialised one, or your own.
        mixing: `MixUp(...)`, `CutMix(...)` or a `BatchTransform` of your own, of what
            `prepare` returns; the loss is then that of both labels by their weights.

    Returns:
        A function of a `TrainState`, a batch and a `jax.random` key. The key may be the
        same for all steps of an epoch: dropout and mixing fold the step in, `prepare`
        what it likes.
        Its metrics: `loss` (mean over real rows), `count` (real rows), `grad_norm`
        (global norm over what trains), all float32 (), and `finite`, bool (): whether
        loss and norm are numbers. Where they are not, statistics stay as they were, and
        with `group_optimizer` parameters too. A state with an average (`ema`) has it
        moved along with each update, see `init_average`; not by a step that came to no
        number, nor by one that only accumulates gradients.

    Raises:
        TypeError: If an argument is something else; and when the step is traced, if the
            loss returns no array of floats.
        ValueError: When the step is traced, if the loss returns anything but one value
            for each row; it is named.
    """
    _check_graphdef(graphdef)
    check_transformation(tx)
    loss = check_loss(loss)
    check_function(
        prepare, "prepare", "a function (batch, key) -> images", or_none=True
    )
    check_function(apply, "apply", "a function such as apply_module")
    check_mixing(mixing)

    def train_step(state: TrainState, batch: Batch, key: Array):
        augment_key, dropout_key = jax.random.split(key)
        images = batch["image"] if prepare is None else prepare(batch, augment_key)
        images, rows_of = _mixed(images, batch, mixing, key, state.step)
        weights = row_weights(batch)
        count = weights.sum()
        training, rebuild = _trainable(state.params, labels)

        def total_loss(training):
            logits, model_state = apply(
                graphdef,
                rebuild(training),
                state.model_state,
                images,
                key=jax.random.fold_in(dropout_key, state.step),
            )
            value = (rows_of(objective or loss, logits) * weights).sum()
            shown = None
            if objective is not None:
                shown = (rows_of(loss, logits) * weights).sum()
            return value, (shown, model_state)

        # Of the sum, not of the mean: several devices then need not agree on the count
        # before the backward pass; it travels with what they exchange after it.
        differentiated = jax.value_and_grad(total_loss, has_aux=True)
        (value, (shown, model_state)), grads = differentiated(training)
        value, *grads = (x / jnp.maximum(count, 1.0) for x in (value, *grads))
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        if shown is not None:
            value = shown / jnp.maximum(count, 1.0)
        model_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), model_state, state.model_state
        )
        updates, opt_state = tx.update(
            _with_zeros(grads, state.params, labels), state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            moved = finite & has_updated(state.opt_state, opt_state)
            ema = update_average(ema, params, model_state, moved=moved)
        state = TrainState(state.step + 1, params, model_state, opt_state, ema)
        return state, {
            "loss": value,
            "count": count,
            "grad_norm": norm,
            "finite": finite,
        }

    return train_step


def make_eval_step(
    graphdef: nnx.GraphDef,
    *,
    loss: Callable,
    metrics: Mapping[str, Metric] | None = None,
    prepare: Callable[[Batch], Array] | None = None,
    apply: Apply = apply_module,
) -> EvalStep:
    """Returns a pure `eval_step(params, model_state, batch) -> sums`.

    It takes no optimizer state, so one program serves every phase.

    Args:
        graphdef: Of the network in eval mode, see `evaluating`.
        loss: (logits, label) -> one value for each row.
        metrics: By name, functions of the same form, or an `EpochMetric`.
        prepare: batch -> images for the network; the batch's `image` if None.
        apply: The forward pass, of the form of `apply_module`; gets no key.

    Returns:
        A function whose answer holds, float32 (), `count`, the number of real rows, and
        for `loss` and each metric the sum over them; sums of batches can be added. For
        an `EpochMetric` it holds what its `from_batch` returns, which can be added
        too; if that is to be gathered, `rows` (b, ...) and their `mask` (b,).
        `epoch_figures` makes an epoch's figures of all batches' answers.

    Raises:
        TypeError: If an argument is something else; when the step is traced, if the
            loss or a metric returns no array of numbers; it is named.
        ValueError: Likewise, if it returns anything but one value for each row.
    """
    _check_graphdef(graphdef)
    loss = check_loss(loss)
    if metrics is not None:
        wanted = "a dict from names to functions (logits, label) -> a value a row"
        check_instance(metrics, "metrics", Mapping, wanted)
    check_function(prepare, "prepare", "a function batch -> images", or_none=True)
    check_function(apply, "apply", "a function such as apply_module")
    measures = {"loss": loss, **(metrics or {})}

    def eval_step(params: nnx.State, model_state: nnx.State, batch: Batch):
        images = batch["image"] if prepare is None else prepare(batch)
        logits, _ = apply(graphdef, params, model_state, images)
        label, weights = batch["label"], row_weights(batch)

        def measured(name, measure):
            if not isinstance(measure, EpochMetric):
                role = "loss" if name == "loss" else "metric"
                return (row_values(measure, logits, label, role=role) * weights).sum()
            part = measure.from_batch(logits, label, weights > 0)
            return {"rows": part, "mask": weights > 0} if measure.gather else part

        sums = {name: measured(name, measure) for name, measure in measures.items()}
        return {"count": weights.sum(), **sums}

    return eval_step


def make_predict_step(
    graphdef: nnx.GraphDef,
    *,
    activation: Callable = jax.nn.softmax,
    prepare: Callable[[Array], Array] | None = None,
    apply: Apply = apply_module,
) -> PredictStep:
    """Returns a pure `predict_step(params, model_state, images) -> probabilities`.

    Args:
        graphdef: Of the network in eval mode.
        activation: logits (b, c) -> probabilities (b, c).
        prepare: images as they come -> images for the network.
        apply: The forward pass, of the form of `apply_module`; gets no key.

    Raises:
        TypeError: If an argument is something else.
    """
    _check_graphdef(graphdef)
    check_function(activation, "activation", "a function logits -> probabilities")
    check_function(prepare, "prepare", "a function images -> images", or_none=True)
    check_function(apply, "apply", "a function such as apply_module")

    def predict_step(params: nnx.State, model_state: nnx.State, images: Array):
        images = images if prepare is None else prepare(images)
        logits, _ = apply(graphdef, params, model_state, images)
        return activation(logits)

    return predict_step


def _check_graphdef(graphdef: Any) -> None:
    check_instance(
        graphdef,
        "graphdef",
        nnx.GraphDef,
        "a graph definition, the first of what split_module(module) returns",
    )


def row_weights(batch: Batch) -> Float[Array, "b"]:
    """Returns 1 for each real row and 0 for padding; all 1 where there is no mask."""
    mask = batch.get("mask")
    if mask is None:
        return jnp.ones(batch["label"].shape[:1], jnp.float32)
    return mask.astype(jnp.float32)


def _mixed(images, batch, mixing, key, step):
    """Images as they are trained on, and what gives a loss of logits for each row."""
    label = batch["label"]
    if mixing is None:
        return images, lambda loss, logits: row_values(loss, logits, label, role="loss")
    # 0 and 1 are the two halves that `split` makes of a key.
    mix_key = jax.random.fold_in(jax.random.fold_in(key, 2), step)
    images, other, weight = mix(images, label, mix_key, mixing, mask=batch.get("mask"))

    def rows_of(loss, logits):
        own, others = (
            row_values(loss, logits, labels, role="loss") for labels in (label, other)
        )
        return weight * own + (1 - weight) * others

    return images, rows_of


def _trains(params: nnx.State, labels: nnx.State | None) -> list[bool]:
    if labels is None:
        return [True] * len(jax.tree.leaves(params))
    return [label != FROZEN for label in jax.tree.leaves(labels)]


def _trainable(
    params: nnx.State, labels: nnx.State | None
) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    leaves, treedef = jax.tree.flatten(params)
    trains = _trains(params, labels)

    def rebuild(training):
        chosen = iter(training)
        return treedef.unflatten(
            [
                next(chosen) if train else leaf
                for leaf, train in zip(leaves, trains, strict=True)
            ]
        )

    return [x for x, train in zip(leaves, trains, strict=True) if train], rebuild


def _with_zeros(grads: list[Array], params: nnx.State, labels: nnx.State | None):
    leaves, treedef = jax.tree.flatten(params)
    chosen = iter(grads)
    return treedef.unflatten(
        [
            next(chosen) if train else jnp.zeros_like(leaf)
            for leaf, train in zip(leaves, _trains(params, labels), strict=True)
        ]
    )
