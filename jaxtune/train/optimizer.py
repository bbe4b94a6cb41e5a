"""One optimizer for each layer group, rates and schedule as data.

What is labelled `FROZEN` has no optimizer state: neither moments nor accumulated
gradients.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxtune.arguments import (
    Integer,
    Number,
    check_instance,
    check_integer,
    check_number,
    described,
    either,
    like,
)
from jaxtune.train.schedules import Schedule, check_schedule
from jaxtune.transfer import dotted

#: Label of a parameter that does not train.
FROZEN = "frozen"


@runtime_checkable
class Optimizer(Protocol):
    """Makes an optimizer from one step's numbers, which are traced arrays."""

    def __call__(
        self,
        *,
        learning_rate: Float[Array, ""],
        momentum: Float[Array, ""],
        weight_decay: Float[Array, ""],
        mask: Callable,
    ) -> optax.GradientTransformation:
        """Returns the transformation; its state must not depend on the numbers."""


def adam(
    *, learning_rate, momentum, weight_decay, mask
) -> optax.GradientTransformation:
    """Returns fastai's Adam: decoupled weight decay, b2 = 0.99, eps = 1e-5.

    It can be differentiated through, also where a gradient was exactly 0.

    References:
        Kingma and Ba, https://arxiv.org/abs/1412.6980; Loshchilov and Hutter,
        "Decoupled Weight Decay", https://arxiv.org/abs/1711.05101.
        fastai 2.8.12, optimizer.py `Adam`.
    """
    return optax.adamw(
        learning_rate,
        b1=momentum,
        b2=0.99,
        eps=1e-5,
        # The root's slope at 0 is infinite and would make a gradient through several
        # steps NaN; beside eps, 1e-15 in the root changes no bit of an update.
        eps_root=1e-30,
        weight_decay=weight_decay,
        mask=mask,
    )


def sgd(*, learning_rate, momentum, weight_decay, mask) -> optax.GradientTransformation:
    """Returns stochastic gradient descent with momentum and coupled weight decay."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


#: jaxtune's own optimizers by name.
OPTIMIZERS: dict[str, Callable] = {"adam": adam, "sgd": sgd}


class GroupState(NamedTuple):
    """State of one group's optimizer; all of it is data.

    Attributes:
        step: Updates done since the schedule began, int32 ().
        rate: Peak learning rate, float32 () or, if given so, float64.
        weight_decay: Fraction of a parameter taken off per unit of rate, likewise.
        schedule: How rate and momentum move.
        inner: State of the optimizer.
    """

    step: Any
    rate: Any
    weight_decay: Any
    schedule: Any
    inner: Any


def group_optimizer(
    labels: nnx.State,
    rates: Mapping[str, Number],
    schedule: Schedule,
    *,
    optimizer: Optimizer | str = adam,
    weight_decay: Number = 0.01,
    no_decay: Collection[str] = (),
    clip_norm: Number | None = None,
    gradient_accumulation_steps: Integer = 1,
) -> optax.GradientTransformation:
    """Returns `optax.multi_transform` with one scheduled optimizer for each group.

    A step whose gradient is no finite number moves nothing, see `skip_nonfinite`.

    Rates, schedule and decay lie in the state that `init` makes, not in the code:
    another run's numbers are another state for the same compiled step. They may be
    traced arrays, so a state can be made inside `jax.vmap` or `jax.grad`.

    With gradient accumulation (`optax.MultiSteps`) each k-th call of `update` moves
    the parameters, by the mean of the last k gradients; the calls between move nothing.
    That is the update of one batch k times as large, to rounding, where no layer looks
    at a batch's statistics (batch norms that train see the small batches) and no batch
    is padded (each batch's mean counts the same). Only what trains holds an
    accumulator, in float32. A batch whose gradient is no finite number is left out, as
    if it had never come. Gradients that are gathered and not used yet wait in the
    state, also over the end of an epoch.

    Args:
        labels: Group name of each parameter; `FROZEN` parameters get a zero update and
            hold no state.
        rates: Peak learning rate of each group that trains; those of groups that don't
            are ignored.
        schedule: How rate and momentum move with the update. With accumulation there
            are fewer updates than batches, see `over_updates`.
        optimizer: Makes the optimizer; `adam`, `sgd` (or their names) or your own.
        weight_decay: Decay of every parameter not in `no_decay`.
        no_decay: Dotted paths of parameters without decay (norms and biases).
        clip_norm: Largest global norm of the gradients of what trains, or None; of
            their mean, where they are accumulated. Unlike the others it is part of the
            code.
        gradient_accumulation_steps: Batches for one update, k; part of the code too.
            Batches are counted, as in Keras and Hugging Face's trainer; fastai's
            `GradientAccumulation` counts samples.

    Raises:
        TypeError: If an argument is of another type; Optax's transformations are no
            `Optimizer`, see `check_optimizer`.
        ValueError: If a group that trains has no rate, none trains, or a number is out
            of its range.

    References:
        Howard and Ruder, "ULMFiT", https://arxiv.org/abs/1801.06146 (discriminative
        rates). optax 0.2, `MultiSteps`.
    """
    check_instance(rates, "rates", Mapping, "a dict from group names to rates")
    check_schedule(schedule)
    optimizer = check_optimizer(optimizer)
    check_number(weight_decay, "weight_decay", least=0)
    if isinstance(no_decay, str):
        raise TypeError(
            "no_decay must be a collection of dotted paths, such as "
            f"no_decay_paths(module); received {no_decay!r}."
        )
    check_clip_norm(clip_norm)
    gradient_accumulation_steps = check_accumulation(gradient_accumulation_steps)
    groups = set(jax.tree.leaves(labels)) - {FROZEN}
    missing = sorted(groups - set(rates))
    if missing:
        raise ValueError(
            f"no learning rate for the group(s) {', '.join(missing)}; rates has "
            f"{', '.join(rates) or 'none'}."
        )
    if not groups:
        raise ValueError("every parameter is frozen; nothing would train.")
    for name in sorted(groups):
        check_number(rates[name], f"rates[{name!r}]", least=0)
    transforms: dict = {
        name: _scheduled(optimizer, rate, schedule, weight_decay, frozenset(no_decay))
        for name, rate in rates.items()
        if name in groups
    }
    transforms[FROZEN] = optax.set_to_zero()
    tx = optax.multi_transform(transforms, labels)
    if clip_norm is not None:
        tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
    if gradient_accumulation_steps == 1:
        return skip_nonfinite(tx)
    return _accumulated(tx, labels, gradient_accumulation_steps)


def check_accumulation(gradient_accumulation_steps: Any) -> int:
    """Returns the number of batches for one update as an int.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is less than 1.
    """
    return check_integer(
        gradient_accumulation_steps,
        "gradient_accumulation_steps",
        least=1,
        meaning="the number of batches for one update",
    )


def check_clip_norm(clip_norm: Any) -> Any:
    """Returns the largest global norm of gradients; None for no limit.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not above 0.
    """
    return None if clip_norm is None else check_number(clip_norm, "clip_norm", above=0)


def check_optimizer(optimizer: Any) -> Optimizer:
    """Returns what makes the optimizers, after making one on shapes alone.

    Args:
        optimizer: An `Optimizer`, or the name of one of jaxtune's: "adam", "sgd".

    Raises:
        TypeError: If it can't be called with the four numbers of a step, or makes no
            `optax.GradientTransformation`. The message says what to write instead.
        ValueError: If the name is not known.
    """
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(
                f"no optimizer is called {optimizer!r}. {like(optimizer, OPTIMIZERS)}"
            )
        return OPTIMIZERS[optimizer]
    wanted = (
        "optimizer must be a function of learning_rate, momentum, weight_decay and "
        "mask that makes an Optax optimizer, since the rates, their schedule and the "
        "decay are set by the training"
    )
    example = (
        "Write optimizer=lambda *, learning_rate, momentum, weight_decay, mask: "
        "optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay, mask=mask),"
        " or optimizer=adam or sgd; the rate goes to the fit, or to lr="
    )
    if isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{wanted}; received one that is made already, with a rate of its own. "
            f"{example}."
        )
    if not callable(optimizer):
        raise TypeError(f"{wanted}; received {described(optimizer)}. {example}.")
    lacking = _not_taken(
        optimizer, ("learning_rate", "momentum", "weight_decay", "mask")
    )
    if lacking:
        raise TypeError(
            f"{wanted}; {described(optimizer)} takes no {either(lacking)}. {example}."
        )
    made: list[Any] = []

    def make(one):
        made.append(
            optimizer(
                learning_rate=one,
                momentum=one,
                weight_decay=one,
                mask=lambda tree: jax.tree.map(lambda _: True, tree),
            )
        )

    try:
        jax.eval_shape(make, jax.ShapeDtypeStruct((), jnp.float32))
    except Exception as error:
        raise TypeError(
            f"{wanted}; {described(optimizer)} fails when it is called so: {error}"
        ) from error
    if not all(callable(getattr(made[0], name, None)) for name in ("init", "update")):
        raise TypeError(f"{wanted}; {described(optimizer)} made {described(made[0])}.")
    return optimizer


def _not_taken(function: Callable, names: tuple[str, ...]) -> list[str]:
    """Those of some keywords that a function takes no argument of."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return []
    taken = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return [name for name in names if name not in taken]


def _accumulated(
    tx: optax.GradientTransformation, labels: nnx.State, steps: int
) -> optax.GradientTransformation:
    def is_not_finite(updates, gradient_step, params):
        return ~jnp.isfinite(optax.tree.norm(updates)), ()

    # What is frozen is hidden from the accumulator, so that it holds none of it.
    gathered = optax.MultiSteps(tx, steps, should_skip_update_fn=is_not_finite)
    return optax.multi_transform(
        {
            "trains": optax.GradientTransformation(gathered.init, gathered.update),
            FROZEN: optax.set_to_zero(),
        },
        jax.tree.map(lambda label: FROZEN if label == FROZEN else "trains", labels),
    )


def has_updated(before: optax.OptState, after: optax.OptState) -> Bool[Array, ""]:
    """Returns whether the step between two optimizer states was an update.

    True without gradient accumulation; with it, for one call in k, and never for one
    that left out a gradient that is no finite number.

    Args:
        before: The state given to `update`.
        after: The state it returned.
    """
    counts = [
        [state.gradient_step for state in _accumulators(tree)]
        for tree in (before, after)
    ]
    moved = [then != now for then, now in zip(*counts, strict=True)]
    return jnp.stack(moved).any() if moved else jnp.asarray(True)


def accumulated_gradients(opt_state: optax.OptState) -> list[nnx.State]:
    """Returns the means of gradients gathered for the next update: one tree, or none.

    A leaf for each parameter that trains, float32, without gradient accumulation none.
    """
    return [state.acc_grads for state in _accumulators(opt_state)]


def _accumulators(opt_state: optax.OptState) -> list[optax.MultiStepsState]:
    leaves = jax.tree.leaves(
        opt_state, is_leaf=lambda leaf: isinstance(leaf, optax.MultiStepsState)
    )
    return [leaf for leaf in leaves if isinstance(leaf, optax.MultiStepsState)]


def skip_nonfinite(
    tx: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Returns an optimizer that moves nothing where a gradient is no finite number.

    All gradients count together. Parameters stay bit for bit; moments see a gradient of
    0. It has no state of its own, and costs nothing that can be measured: the choice is
    made where the update is computed anyway.

    Args:
        tx: The optimizer.
    """

    def update(updates, state, params=None):
        finite = jnp.isfinite(optax.tree.norm(updates))

        def chosen(tree):
            return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)

        moved, state = tx.update(chosen(updates), state, params)
        return chosen(moved), state

    return optax.GradientTransformation(tx.init, update)


def _scheduled(
    optimizer: Optimizer,
    rate: Number,
    schedule: Schedule,
    weight_decay: Number,
    no_decay: frozenset[str],
) -> optax.GradientTransformation:
    def mask(tree):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: dotted(path) not in no_decay, tree
        )

    def make(learning_rate, momentum, decay):
        return optimizer(
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=decay,
            mask=mask,
        )

    def init(params):
        one = jnp.float32(1.0)
        return GroupState(
            step=jnp.zeros((), jnp.int32),
            rate=_array(rate),
            weight_decay=_array(weight_decay),
            # Each group owns its arrays: a donated buffer can't be given up twice.
            schedule=jax.tree.map(lambda x: jnp.array(x, copy=True), schedule),
            inner=make(one, one, one).init(params),
        )

    def update(updates, state, params=None):
        multiple, momentum = state.schedule(state.step)
        tx = make(state.rate * multiple, momentum, state.weight_decay)
        updates, inner = tx.update(updates, state.inner, params)
        return updates, state._replace(step=state.step + 1, inner=inner)

    return optax.GradientTransformation(init, update)


def _array(number: Number) -> Float[Array, ""]:
    """A copy in float32, or in float64 where an array of that is given."""
    wide = isinstance(number, jax.Array) and number.dtype == jnp.float64
    return jnp.array(number, jnp.float64 if wide else jnp.float32, copy=True)


def group_states(opt_state: optax.OptState) -> dict[str, GroupState]:
    """Returns each trained group's state out of `group_optimizer`'s whole state."""
    states: dict[str, GroupState] = {}

    def visit(path, leaf):
        if isinstance(leaf, GroupState):
            name = next(k.key for k in reversed(path) if hasattr(k, "key"))
            states[name] = leaf

    jax.tree_util.tree_map_with_path(
        visit, opt_state, is_leaf=lambda leaf: isinstance(leaf, GroupState)
    )
    return states


def with_rates(
    opt_state: optax.OptState, rates: Mapping[str, Number]
) -> optax.OptState:
    """Returns `group_optimizer`'s state with other peak learning rates.

    Args:
        opt_state: The state; all else in it stays.
        rates: By group; groups that don't train are ignored.

    Raises:
        ValueError: If a group that trains has no rate.
    """
    missing = sorted(set(group_states(opt_state)) - set(rates))
    if missing:
        raise ValueError(f"no learning rate for the group(s) {', '.join(missing)}.")

    def changed(path, leaf):
        if not isinstance(leaf, GroupState):
            return leaf
        name = next(k.key for k in reversed(path) if hasattr(k, "key"))
        return leaf._replace(rate=jnp.asarray(rates[name], leaf.rate.dtype))

    return jax.tree_util.tree_map_with_path(
        changed, opt_state, is_leaf=lambda leaf: isinstance(leaf, GroupState)
    )


def restart_schedule(
    opt_state: optax.OptState, fresh: optax.OptState
) -> optax.OptState:
    """Returns `fresh`'s step, rates, decay and schedule with `opt_state`'s moments.

    What a second `fit` in the same phase needs: fastai keeps Adam's moments and step
    until the frozen groups change. Accumulated gradients that no update used are
    `fresh`'s: none.
    """

    def chosen(old, new):
        return new._replace(inner=old.inner) if isinstance(new, GroupState) else new

    return jax.tree.map(
        chosen,
        opt_state,
        fresh,
        is_leaf=lambda leaf: isinstance(leaf, GroupState),
    )
