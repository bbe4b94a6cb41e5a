"""The train state: everything that a step changes, as one pytree.

The one rule of the file: a state is a value; whoever wants another makes another. Its
fields hold arrays, or what stands in their place while JAX maps over trees.
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
        step: Batches done, int32 (); updates too, without gradient accumulation.
        params: Parameters, a tree of arrays by path.
        model_state: Everything else the network holds: batch-norm statistics.
        opt_state: The optimizer's state; rates and schedule are in it.
        ema: Moving average of what moves, see `init_average`; None for no average.
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
            model_state: Everything else the network holds.
            tx: The optimizer.
            ema: An average of the values, see `init_average`, or None.

        Raises:
            TypeError: If `tx` is no `optax.GradientTransformation`.
        """
        check_transformation(tx)
        step = jnp.zeros((), jnp.int32)
        return cls(step, params, model_state, tx.init(params), ema)

    def replace(self, **changes) -> "TrainState":
        """Returns a state with some of its fields changed."""
        return dataclasses.replace(self, **changes)


def check_transformation(tx: Any) -> Any:
    """Returns an Optax optimizer as it is.

    Raises:
        TypeError: If it is something else, such as a function that makes one.
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
    """Returns a module as a graph definition, parameters, and everything else.

    The trees hold plain arrays: no variable of the module is in them, so a step can
    donate a copy of them without touching the module. `nnx.merge(graphdef, params,
    model_state)` is the way back.

    Raises:
        TypeError: If it is no NNX module.
    """
    check_module(module, "module")
    graphdef, params, model_state = nnx.split(module, nnx.Param, ...)
    return graphdef, _strong(nnx.as_pure(params)), _strong(nnx.as_pure(model_state))


def _strong(tree: nnx.State) -> nnx.State:
    # An array made from a Python number alone has a "weak" dtype, which the first step
    # turns into a firm one: the step would be compiled a second time.
    return jax.tree.map(
        lambda x: jnp.asarray(x, x.dtype) if _is_weak(x) else x,
        tree,
    )


def _is_weak(x) -> bool:
    # Random keys are arrays too, and have no such thing.
    return isinstance(x, jax.Array) and getattr(x, "weak_type", False)
