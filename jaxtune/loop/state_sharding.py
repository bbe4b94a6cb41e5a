"""Where a train state lies: whole on every device, or split over them (FSDP)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from jaxtune.loop.sharding import on_every_device, split_on_devices, whole_arrays
from jaxtune.train import TrainState, fsdp_shardings

Values = tuple[nnx.State, nnx.State]


@dataclasses.dataclass(frozen=True)
class StateSharding:
    """Where the arrays of train states lie.

    Attributes:
        everywhere: Sharding of arrays that are replicated, see `data_sharding`.
        fsdp: Whether what trains is split over its devices, see `fsdp_shardings`.
        labels: () -> each parameter's layer group, see `optimizer_labels`; asked for
            only where states are split.
    """

    everywhere: NamedSharding
    fsdp: bool
    labels: Callable[[], nnx.State]

    @property
    def split_over(self) -> Mesh | None:
        """The devices over which the state is split; None if it is not."""
        several = self.everywhere.num_devices > 1
        return self.everywhere.mesh if self.fsdp and several else None

    def of(self, state: TrainState) -> TrainState:
        """Returns the sharding of each of a state's arrays, or of their forms."""
        if self.split_over is None:
            return jax.tree.map(lambda x: self.everywhere, state)
        return fsdp_shardings(state, self.split_over, self.labels())

    def place(self, state: TrainState) -> TrainState:
        """Puts a copy of a state onto the devices: of whole arrays, or of a step's."""
        if self.split_over is None:
            return on_every_device(state, self.everywhere)
        return split_on_devices(state, self.of(state))

    def place_values(self, values: Values) -> Values:
        """Returns parameters and model state; split, where the state is.

        So a state's other arrays are made where they belong.
        """
        if self.split_over is None:
            return values
        state = self.place(TrainState(np.int32(0), *values, None))
        return state.params, state.model_state

    def whole(self, values: Any) -> Any:
        """Returns arrays of a state as validation has them: whole.

        Several processes must all call it, where the state is split.
        """
        if self.split_over is None:
            return values
        return whole_arrays(values, self.everywhere)
