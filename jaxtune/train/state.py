"""The train state: everything that a training step changes, as one immutable pytree.

Its fields are trees of arrays, or of JAX's placeholders for them (shapes, axes, None).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxtune.arguments import check_instance, check_module


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Parameters, statistics and optimizer state after some number of steps.

    Attributes:
        step: Number of batches done, int32 (); without gradient accumulation also the
            number of updates.
        params: Parameters, a tree of arrays by path.
        model_state: The network's other variables, such as batch-norm statistics.
        opt_state: The optimizer's state, including learning rates and schedule.
        ema: Moving average of the weights, see `init_average`; None for no average.
    """

    step: Any
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any = None

    @classmethod
    def create(
        cls,
        params: nnx.State,
        model_state: nnx.State,
        tx: optax.GradientTransformation,
        *,
        ema: Any = None,
    ) -> "TrainState":
        """Returns the state before the first step.

        Args:
            params: Parameters, see `split_module`.
            model_state: The network's other variables.
            tx: The optimizer.
            ema: A moving average of the weights, see `init_average`, or None.

        Raises:
            TypeError: If `tx` is not an `optax.GradientTransformation`.
        """
        check_transformation(tx)
        step = jnp.zeros((), jnp.int32)
        return cls(step, params, model_state, tx.init(params), ema)

    def replace(self, **changes) -> "TrainState":
        """Returns a copy of the state with some fields replaced."""
        return dataclasses.replace(self, **changes)


def check_transformation(tx: Any) -> Any:
    """Returns an Optax optimizer as it is.

    Raises:
        TypeError: If it is something else, such as a function that returns one.
    """
    return check_instance(
        tx,
        "tx",
        optax.GradientTransformation,
        "an optax.GradientTransformation, such as group_optimizer(...) makes",
    )


def split_module(
    module: nnx.Module,
) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Splits a module into its graph definition, parameters and other variables.

    The trees hold the module's plain arrays, no `nnx.Variable`.
    `nnx.merge(graphdef, params, model_state)` is the inverse.

    Raises:
        TypeError: If it is not an NNX module.
    """
    check_module(module, "module")
    graphdef, params, model_state = nnx.split(module, nnx.Param, ...)
    return graphdef, _strong(nnx.as_pure(params)), _strong(nnx.as_pure(model_state))


def _strong(tree: nnx.State) -> nnx.State:
    # An array made of a Python number alone is weakly typed, and the first step returns
    # it strongly typed: the step would be compiled a second time.
    def strong(x):
        weak = isinstance(x, jax.Array) and getattr(x, "weak_type", False)
        return jnp.asarray(x, x.dtype) if weak else x

    return jax.tree.map(strong, tree)
