"""The training plan: what each phase will do with each layer group.

Nothing is compiled and nothing trains. The plan is computed from the same phases,
labels and training views that training itself uses, so the two can't disagree.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
from flax import nnx

from jaxtune.arguments import check_flag, check_integer, check_module
from jaxtune.data import as_size
from jaxtune.inspect.layer_groups import group_finder
from jaxtune.inspect.summary import multiplications
from jaxtune.text_tables import (
    Column,
    Table,
    Tabular,
    format_bytes,
    format_count,
)
from jaxtune.train import (
    FROZEN,
    Norms,
    Optimizer,
    Phase,
    Recipe,
    accumulated_gradients,
    adam,
    boundary_index,
    check_accumulation,
    check_norms,
    check_optimizer,
    checked_phases,
    group_optimizer,
    group_states,
    init_average,
    no_decay_paths,
    norm_paths,
    norms_of_group,
    optimizer_labels,
    running_groups,
    split_module,
    still_statistics,
    training_view,
)
from jaxtune.transfer import Groups, check_groups, dotted, group_labels


@dataclasses.dataclass(frozen=True)
class PlanRow:
    """One layer group in one phase.

    Attributes:
        phase: Number of the phase, from 1.
        group: Name of the layer group.
        frozen: Whether it is frozen in this phase.
        parameters: Number of its parameters.
        trained: Number of its parameters that train.
        learning_rate: Peak of the schedule; None if nothing trains.
        weight_decay: For parameters that are neither a norm layer's nor biases; None if
            none of these train.
        norms: What its norm layers do. "train": they use batch statistics, update the
            running statistics, and train weight and bias. "running": they use running
            statistics, which stay, and train weight and bias. In a frozen group also
            "frozen" (nothing changes) or "stats" (as "train", but weight and bias stay
            fixed). "" if it has no norm layers.
        optimizer_bytes: Memory of the optimizer state, with accumulated gradients and
            the moving average of the weights where there are any.
        operations: Floating-point operations of one image's training step. In a phase
            with `cache_features` the frozen groups run once for each stored draw, and
            this is their mean over the epochs.
        share: Fraction of the whole step's operations, 0..1.
    """

    phase: int
    group: str
    frozen: bool
    parameters: int
    trained: int
    learning_rate: float | None
    weight_decay: float | None
    norms: str
    optimizer_bytes: int
    operations: int
    share: float


class Plan(Tabular):
    """What each phase will do with each layer group; prints as a table.

    Attributes:
        rows: One for each phase and group.
        phases: The phases.
    """

    def __init__(
        self,
        rows: Iterable[PlanRow],
        phases: Sequence[Phase],
        *,
        first_phase: int = 1,
        batches_each: int = 1,
        recipe: Recipe | None = None,
    ):
        """Takes the rows and their phases, the batches for one update, the recipe."""
        self.rows = list(rows)
        self.phases = tuple(phases)
        self._first = first_phase
        self._batches_each = batches_each
        self._recipe = recipe

    def of_phase(self, phase: int) -> list[PlanRow]:
        """Returns the rows of one phase, numbered as in the history."""
        return [row for row in self.rows if row.phase == phase]

    def table(self) -> Table:
        """Returns the table; phases are separated by a line."""
        lines: list = []
        for i in range(len(self.phases)):
            rows = self.of_phase(self._first + i)
            lines += [None] * bool(i) + [_cells(row) for row in rows]
            if len(rows) > 1:
                lines.append(_total(rows))
        return Table(
            columns=(
                Column("phase"),
                Column("group", "left", folds=True),
                Column("params"),
                Column("trains"),
                Column("peak lr"),
                Column("decay"),
                Column("norms", "left"),
                Column("optimizer"),
                Column("MFLOP"),
                Column("share"),
            ),
            rows=lines,
            notes=(
                *self._of_recipe(),
                *map(self._describe, range(len(self.phases))),
                "MFLOP: forward, and backward where something needs it, of one image; "
                "2 for each multiplication of convolutions and matrix products.",
            ),
        )

    def _of_recipe(self) -> list[str]:
        if self._recipe is None:
            return []
        rules = "; ".join(("", *self._recipe.rules()))
        return [f'recipe "{self._recipe.name}": {self._recipe.about}{rules}']

    def _describe(self, index: int) -> str:
        phase, number = self.phases[index], self._first + index
        costs = {
            self._first + i: sum(
                row.operations for row in self.of_phase(self._first + i)
            )
            for i in range(len(self.phases))
        }
        dearest = max(costs, key=costs.__getitem__)
        frozen = [row.group for row in self.of_phase(number) if row.frozen]
        steps = int(phase.schedule.total_steps)
        updates = steps // self._batches_each
        text = (
            f"phase {number}: {phase.epochs} epoch{'s' * (phase.epochs != 1)}, "
            f"{steps:,} step{'s' * (steps != 1)}"
        )
        if self._batches_each > 1:
            text += f", an update every {self._batches_each} ({updates:,} in all)"
        text += f"; {', '.join(frozen) or 'nothing'} frozen"
        if phase.cache_features:
            text += f"; features cached, {phase.cached_draws} of each photo"
        if costs[number] < costs[dearest]:
            part = costs[number] / costs[dearest]
            text += f"; a step costs {part:.0%} of one in phase {dearest}"
        return text


def _cells(row: PlanRow) -> list[str]:
    rate, decay = row.learning_rate, row.weight_decay
    return [
        str(row.phase),
        row.group,
        format_count(row.parameters),
        format_count(row.trained) if row.trained else "no",
        "" if rate is None else f"{rate:.3g}",
        "" if decay is None else f"{decay:g}",
        row.norms,
        format_bytes(row.optimizer_bytes) if row.optimizer_bytes else "",
        f"{row.operations / 1e6:,.1f}",
        f"{row.share:.1%}",
    ]


def _total(rows: Sequence[PlanRow]) -> list[str]:
    return [
        "",
        "all",
        format_count(sum(row.parameters for row in rows)),
        format_count(sum(row.trained for row in rows)),
        "",
        "",
        "",
        format_bytes(sum(row.optimizer_bytes for row in rows)),
        f"{sum(row.operations for row in rows) / 1e6:,.1f}",
        "",
    ]


def plan_phases(
    module: nnx.Module,
    groups: Groups,
    phases: Sequence[Phase],
    *,
    recipe: Recipe | None = None,
    boundary: int = 0,
    norms: Norms = "frozen",
    optimizer: Optimizer = adam,
    averages: bool = False,
    gradient_accumulation_steps: int = 1,
    size: tuple[int, int] = (224, 224),
    in_channels: int = 3,
    first_phase: int = 1,
) -> Plan:
    """Returns what each phase does with each group, and what that costs.

    Operations are counted in the training step's jaxpr, before XLA compiles it:
    convolutions and matrix products of the forward pass, and of the backward pass where
    a parameter that trains needs it. Padding counts as pixels; the zeros inside a
    strided convolution's gradient do not count.

    Args:
        module: The network; an abstract one (`nnx.eval_shape`) suffices.
        groups: Layer groups, first to last, see `group_labels`.
        phases: The planned phases, see `fine_tune_phases`.
        recipe: That they come from, to be named; or None.
        boundary: How many of the first groups are frozen now, for phases that don't
            set it themselves.
        norms: What the norm layers of frozen groups do.
        optimizer: Makes each group's optimizer.
        averages: Whether a moving average of the weights is kept, see `init_average`.
        gradient_accumulation_steps: Batches for one update, see `group_optimizer`.
        size: Height and width of the images, in pixels.
        in_channels: Channels of the images.
        first_phase: Number of the first of these phases.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an argument is out of its range, the groups don't fit the
            network, or the network doesn't run on such images.
    """
    check_module(module, "module")
    phases = checked_phases(phases, len(check_groups(groups)))
    boundary = boundary_index(boundary, groups)
    in_channels = check_integer(in_channels, "in_channels", least=1)
    first_phase = check_integer(first_phase, "first_phase", least=1)
    averages = check_flag(averages, "averages")
    optimizer = check_optimizer(optimizer)
    network = _Network(module, groups, check_norms(norms), as_size(size), in_channels)
    steps = check_accumulation(gradient_accumulation_steps)
    make_optimizer = functools.partial(
        group_optimizer, optimizer=optimizer, gradient_accumulation_steps=steps
    )
    rows = []
    for number, phase in enumerate(phases, start=first_phase):
        boundary = boundary if phase.boundary is None else phase.boundary
        frozen = tuple(groups)[:boundary]
        rows += network.rows(number, phase, frozen, make_optimizer, averages)
    return Plan(
        rows, phases, first_phase=first_phase, batches_each=steps, recipe=recipe
    )


class _Leaf(NamedTuple):
    """A parameter; `is_plain` if no weight decay applies (norm layers and biases)."""

    path: str
    size: int
    group: str
    is_norm: bool
    is_plain: bool


class _Network:
    """A network with its layer groups: what is the same in all phases."""

    def __init__(self, module, groups, norms, size, in_channels):
        self._module, self._groups, self._norms = module, tuple(groups), norms
        self._images = {"size": size, "in_channels": in_channels}
        self._params = split_module(module)[1]
        self._labels = group_labels(self._params, groups)
        self._norm_paths = norm_paths(module)
        no_decay = no_decay_paths(module)
        self._leaves = [
            _Leaf(
                dotted(path),
                leaf.size,
                group,
                dotted(path) in self._norm_paths,
                dotted(path) in no_decay,
            )
            for (path, leaf), group in zip(
                jax.tree_util.tree_leaves_with_path(self._params),
                jax.tree.leaves(self._labels),
                strict=True,
            )
        ]
        self._operations: dict[tuple[str, ...], dict[str, int]] = {}

    def rows(self, number, phase, frozen, make_optimizer, averages) -> list[PlanRow]:
        labels = optimizer_labels(
            self._labels, frozen, norms=self._norms, norm_params=self._norm_paths
        )
        trains = [label != FROZEN for label in jax.tree.leaves(labels)]
        costs = self._costs(labels, frozen)
        if phase.cache_features:
            runs = phase.cached_draws / max(phase.epochs, 1)
            stored = {group: round(runs * costs.get(group, 0)) for group in frozen}
            costs = {**costs, **stored}
        optimizer_bytes = self._optimizer_bytes(labels, phase, make_optimizer)
        if averages:
            optimizer_bytes.update(self._average_bytes(labels, frozen))
        return [
            self._row(
                number,
                phase,
                group,
                rate,
                trains,
                frozen,
                costs,
                optimizer_bytes,
            )
            for group, rate in zip(self._groups, phase.rates, strict=True)
        ]

    def _row(
        self, number, phase, group, rate, trains, frozen, costs, optimizer_bytes
    ) -> PlanRow:
        pairs = zip(self._leaves, trains, strict=True)
        inside = [(leaf, train) for leaf, train in pairs if leaf.group == group]
        trained = [leaf for leaf, train in inside if train]
        decayed = not all(leaf.is_plain for leaf in trained)
        has_norms = any(leaf.is_norm for leaf, _ in inside)
        norms = norms_of_group(group, self._groups, frozen, self._norms)
        return PlanRow(
            phase=number,
            group=group,
            frozen=group in frozen,
            parameters=sum(leaf.size for leaf, _ in inside),
            trained=sum(leaf.size for leaf in trained),
            learning_rate=float(rate) if trained else None,
            weight_decay=float(phase.weight_decay) if decayed else None,
            norms=norms if has_norms else "",
            optimizer_bytes=optimizer_bytes.get(group, 0),
            operations=costs.get(group, 0),
            share=costs.get(group, 0) / max(sum(costs.values()), 1),
        )

    def _training_view(self, frozen):
        return training_view(
            self._module,
            self._labels,
            frozen,
            norms=self._norms,
            running=running_groups(self._groups, self._norms),
        )

    def _costs(self, labels, frozen) -> dict[str, int]:
        if frozen not in self._operations:
            view = self._training_view(frozen)
            find = group_finder(self._labels)
            operations: Counter = Counter()
            for path, count in multiplications(view, labels, **self._images).items():
                operations[find(path)] += count
            self._operations[frozen] = operations
        return self._operations[frozen]

    def _optimizer_bytes(self, labels, phase, make_optimizer) -> Counter:
        rates = dict(zip(self._groups, phase.rates, strict=True))
        tx = make_optimizer(labels, rates, phase.schedule)
        whole = jax.eval_shape(tx.init, self._params)
        num_bytes = Counter(
            {
                group: sum(map(_num_bytes, jax.tree.leaves(state.inner)))
                for group, state in group_states(whole).items()
            }
        )
        find = group_finder(self._labels)
        for gradients in accumulated_gradients(whole):
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
                num_bytes[find(dotted(path))] += _num_bytes(leaf)
        return num_bytes

    def _average_bytes(self, labels, frozen) -> Counter:
        view = self._training_view(frozen)
        still = still_statistics(view)
        average = jax.eval_shape(
            lambda params, model_state: init_average(
                params, model_state, labels, still=still
            ),
            *split_module(view)[1:],
        )
        find, num_bytes = group_finder(self._labels), Counter()
        for tree in (average.params, average.model_state):
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                num_bytes[find(dotted(path))] += _num_bytes(leaf)
        return num_bytes


def _num_bytes(leaf) -> int:
    return leaf.size * leaf.dtype.itemsize
