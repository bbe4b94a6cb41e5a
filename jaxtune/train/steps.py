"""Train, eval and predict steps: pure functions of a state and a batch.

A step is made once from the static parts (graph definition, optimizer, loss) and called
with arrays; it can be jitted, scanned, vmapped and differentiated.
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

    Pure: updated running statistics are returned, not stored. With
    `jax.checkpoint(apply_module, static_argnums=0)` only the arguments are kept for the
    backward pass, which recomputes the activations.

    Args:
        graphdef: The network's graph definition, in train or eval mode.
        params: Parameters, see `split_module`.
        model_state: The network's other variables.
        images: The network's input, (b, h, w, c).
        key: A `jax.random` key for dropout, or None if nothing is random.

    Returns:
        The outputs (for a classifier, logits (b, num_classes)) and the new
        `model_state`.
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

    The loss is differentiated with respect to trainable parameters only. Those labelled
    `FROZEN` are constants of the step: their gradients are never computed, whatever the
    optimizer does (clipping, norms).

    Args:
        graphdef: Graph definition of the network in train mode, see `training_view` and
            `split_module`.
        tx: The optimizer; the gradients of frozen parameters that it gets are zeros.
        loss: (logits, label) -> one value for each row.
        objective: A function like `loss` that is minimized instead, while `loss` is
            only reported; for example `mse` with a `scale`, reported in other units.
        labels: Group name of each parameter, `FROZEN` for those that don't train; all
            train if None.
        prepare: (batch, key) -> images for the network: augmentation and normalization.
            The batch's `image` as it is if None.
        apply: The forward pass, with the signature of `apply_module`; for example a
            rematerialized one.
        mixing: `MixUp(...)`, `CutMix(...)` or a `BatchTransform` of your own, applied
            to the images that `prepare` returns; the loss is then the mean of those of
            both labels, weighted by the images' weights.

    Returns:
        A function of a `TrainState`, a batch and a `jax.random` key. The key may be the
        same for all steps of an epoch: dropout and mixing fold in the step number, and
        `prepare` may fold in the rows' indices, say.
        Its metrics: `loss` (mean over unpadded rows), `count` (unpadded rows) and
        `grad_norm` (global norm of the trainable parameters' gradients), all float32
        (), and `finite`, bool (): whether loss and norm are finite. If not, statistics
        are not updated, and with `group_optimizer` neither are parameters. The state's
        moving average (`ema`), if any, is updated too, see `init_average`, but not by
        such a step, nor by one that only accumulates gradients.

    Raises:
        TypeError: If an argument has a wrong type; when the step is traced, if the loss
            does not return an array of floats.
        ValueError: When the step is traced, if the loss returns anything but one value
            for each row.
    """
    _check_forward(graphdef, apply)
    check_transformation(tx)
    loss = check_loss(loss)
    check_function(
        prepare, "prepare", "a function (batch, key) -> images", or_none=True
    )
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
            reported = None
            if objective is not None:
                reported = (rows_of(loss, logits) * weights).sum()
            return value, (reported, model_state)

        # Of the sum, not of the mean: several devices then don't have to exchange the
        # count before the backward pass, but together with the gradients after it.
        differentiated = jax.value_and_grad(total_loss, has_aux=True)
        (value, (reported, model_state)), grads = differentiated(training)
        value, *grads = (x / jnp.maximum(count, 1.0) for x in (value, *grads))
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        if reported is not None:
            value = reported / jnp.maximum(count, 1.0)
        model_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), model_state, state.model_state
        )
        grads = rebuild(grads, frozen=jnp.zeros_like)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
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

    It takes no optimizer state, so all phases share one compiled program.

    Args:
        graphdef: Graph definition of the network in eval mode, see `evaluating`.
        loss: (logits, label) -> one value for each row.
        metrics: By name, functions like `loss` or an `EpochMetric`.
        prepare: batch -> images for the network; the batch's `image` if None.
        apply: The forward pass, with the signature of `apply_module`; gets no key.

    Returns:
        A function that returns a dict: `count`, the number of unpadded rows, and the
        sum over them of `loss` and of each metric, all float32 (), which can be added
        over batches. For an `EpochMetric`, the result of its `from_batch`; if its
        `gather` is True, `rows` (b, ...) and their `mask` (b,). `epoch_figures`
        computes an epoch's figures from the results of all batches.

    Raises:
        TypeError: If an argument has a wrong type; when the step is traced, if the loss
            or a metric does not return an array of numbers.
        ValueError: Likewise, if it returns anything but one value for each row.
    """
    _check_forward(graphdef, apply)
    loss = check_loss(loss)
    if metrics is not None:
        wanted = "a dict from names to functions (logits, label) -> a value a row"
        check_instance(metrics, "metrics", Mapping, wanted)
    check_function(prepare, "prepare", "a function batch -> images", or_none=True)
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
        graphdef: Graph definition of the network in eval mode.
        activation: logits (b, c) -> probabilities (b, c).
        prepare: images -> images for the network; as they are if None.
        apply: The forward pass, with the signature of `apply_module`; gets no key.

    Raises:
        TypeError: If an argument has a wrong type.
    """
    _check_forward(graphdef, apply)
    check_function(activation, "activation", "a function logits -> probabilities")
    check_function(prepare, "prepare", "a function images -> images", or_none=True)

    def predict_step(params: nnx.State, model_state: nnx.State, images: Array):
        images = images if prepare is None else prepare(images)
        logits, _ = apply(graphdef, params, model_state, images)
        return activation(logits)

    return predict_step


def _check_forward(graphdef: Any, apply: Any) -> None:
    wanted = "a graph definition, the first result of split_module(module)"
    check_instance(graphdef, "graphdef", nnx.GraphDef, wanted)
    check_function(apply, "apply", "a function such as apply_module")


def row_weights(batch: Batch) -> Float[Array, "b"]:
    """Returns 1 for each row and 0 for padding; all 1 if the batch has no mask."""
    mask = batch.get("mask")
    if mask is None:
        return jnp.ones(batch["label"].shape[:1], jnp.float32)
    return mask.astype(jnp.float32)


def _mixed(images, batch, mixing, key, step):
    """The mixed images, and a function (loss, logits) -> the loss of each row."""
    label = batch["label"]
    if mixing is None:
        return images, lambda loss, logits: row_values(loss, logits, label, role="loss")
    # Not 0 or 1, which would repeat the two keys of jax.random.split.
    mix_key = jax.random.fold_in(jax.random.fold_in(key, 2), step)
    images, other, weight = mix(images, label, mix_key, mixing, mask=batch.get("mask"))

    def rows_of(loss, logits):
        own, others = (
            row_values(loss, logits, labels, role="loss") for labels in (label, other)
        )
        return weight * own + (1 - weight) * others

    return images, rows_of


def _trainable(
    params: nnx.State, labels: nnx.State | None
) -> tuple[list[Array], Callable]:
    """The parameters that train, and a function that puts arrays back in their place.

    Its argument `frozen` maps each frozen parameter to what stands in its own place.
    """
    leaves, treedef = jax.tree.flatten(params)
    trains = [True] * len(leaves)
    if labels is not None:
        trains = [label != FROZEN for label in jax.tree.leaves(labels)]

    def rebuild(training, frozen=lambda leaf: leaf):
        arrays = iter(training)
        return treedef.unflatten(
            [
                next(arrays) if train else frozen(leaf)
                for leaf, train in zip(leaves, trains, strict=True)
            ]
        )

    return [x for x, train in zip(leaves, trains, strict=True) if train], rebuild
