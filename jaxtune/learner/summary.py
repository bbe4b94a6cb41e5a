"""A network as a table: each layer, what comes out of it, and what of it trains.

A network in, rows and totals out. The one rule of the file: nothing is computed: shapes
come from running the network on shapes.
"""

import dataclasses
from collections.abc import Collection, Iterable

from flax import nnx

from jaxtune.arguments import check_integer, check_module
from jaxtune.data import as_size
from jaxtune.learner.grouping import group_finder
from jaxtune.learner.layers import Layer, network_layers
from jaxtune.learner.tables import (
    Column,
    Table,
    Tabular,
    format_bytes,
    format_count,
)
from jaxtune.train import (
    FROZEN,
    Norms,
    norm_paths,
    optimizer_labels,
    split_module,
)
from jaxtune.transfer import Groups, dotted, group_labels


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One layer.

    Attributes:
        path: Its dotted path.
        kind: Name of its class.
        shape: Of its output for one image, the batch first; None if it isn't called.
        parameters: Elements of its own parameters.
        statistics: Elements of what else it holds, such as running means.
        group: Its layer group; "" if it is in none.
        trained: Elements of its parameters that train.
        norms: Of a norm layer, what it does in training: "train" (batch statistics, the
            running ones move) or, in a frozen group, the learner's `norms`; else "".
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    statistics: int
    group: str
    trained: int
    norms: str


class Summary(Tabular):
    """Every layer of a network in the order of the calls; prints as a table.

    Attributes:
        rows: The layers.
        frozen: Names of the frozen layer groups.
        parameters: Elements of all parameters.
        trained: Elements of those that train.
        statistics: Elements of what else the network holds.
    """

    def __init__(
        self,
        rows: Iterable[SummaryRow],
        *,
        name: str = "",
        frozen: Collection[str] = (),
        num_bytes: int = 0,
    ):
        """Takes the layers and what is said of the whole."""
        self.rows = list(rows)
        self.frozen = tuple(frozen)
        self.parameters = sum(row.parameters for row in self.rows)
        self.trained = sum(row.trained for row in self.rows)
        self.statistics = sum(row.statistics for row in self.rows)
        self._name = name
        self._bytes = num_bytes

    def table(self) -> Table:
        """Returns the layers as cells, groups apart, totals below."""
        lines: list = []
        group = ""
        for row in self.rows:
            if group and row.group not in ("", group):
                lines.append(None)
            group = row.group or group
            lines.append(_cells(row))
        frozen = ", ".join(self.frozen) or "none"
        size = f" ({format_bytes(self._bytes)})" if self._bytes else ""
        return Table(
            columns=(
                Column("layer", "left", folds=True),
                Column("type", "left"),
                Column("output", "left"),
                Column("params"),
                Column("group", "left"),
                Column("trains", "left"),
                Column("norms", "left"),
            ),
            rows=lines,
            title=self._name,
            notes=(
                f"Total params: {format_count(self.parameters)}{size}",
                f"Trainable params: {format_count(self.trained)}",
                f"Non-trainable params: {format_count(self.parameters - self.trained)}",
                f"Statistics: {format_count(self.statistics)}",
                f"Frozen groups: {frozen}",
            ),
        )


def _cells(row: SummaryRow) -> list[str]:
    shape = "not called"
    if row.shape is not None:
        shape = f"({', '.join(['b', *map(str, row.shape[1:])])})"
    trains = "yes" if row.trained == row.parameters else "partly"
    trains = trains if row.trained else "no"
    return [
        row.path,
        row.kind,
        shape,
        format_count(row.parameters),
        row.group,
        trains if row.parameters else "",
        row.norms,
    ]


def summarize(
    module: nnx.Module,
    *,
    groups: Groups | None = None,
    frozen: Collection[str] = (),
    norms: Norms = "frozen",
    size: int | tuple[int, int] = 224,
    in_channels: int = 3,
) -> Summary:
    """Returns every layer of a network: output, parameters, group, whether it trains.

    Nothing is computed or compiled: the network runs on shapes.

    Args:
        module: Any NNX module that maps images (b, h, w, c); one of shapes only
            (`nnx.eval_shape`) will do.
        groups: Layer groups, see `group_labels`; none are shown if None.
        frozen: Names of those that are frozen.
        norms: What the norm layers of frozen groups do.
        size: Height and width of the images in pixels, or one number for both.
        in_channels: Channels of the images.

    Raises:
        ValueError: If the network doesn't run on such images, or the groups don't fit.

    Example:
        >>> from flax import nnx
        >>> from jaxtune import resnet18
        >>> summarize(nnx.eval_shape(resnet18), size=64).parameters
        11689512

    References:
        Keras 3, `Model.summary`; fastai 2.8.12, `Learner.summary`.
    """
    check_module(module, "module")
    size = as_size(size)
    in_channels = check_integer(in_channels, "in_channels", least=1)
    params = split_module(module)[1]
    labels = group_labels(params, groups or {"": ""})
    trains = optimizer_labels(
        labels, frozen, norms=norms, norm_params=norm_paths(module)
    )
    trained = _trained_paths(trains)
    find = group_finder(labels)
    of_norms = norm_paths(module)
    layers = network_layers(module, size=size, in_channels=in_channels)

    def row(layer: Layer) -> SummaryRow:
        group = find(layer.path)
        mode = norms if group in frozen else "train"
        return SummaryRow(
            path=layer.path,
            kind=layer.kind,
            shape=layer.shape,
            parameters=layer.num_parameters,
            statistics=sum(layer.statistics.values()),
            group=group,
            trained=sum(n for p, n in layer.parameters.items() if p in trained),
            norms=mode if of_norms & set(layer.parameters) else "",
        )

    return Summary(
        map(row, layers),
        name=f"{type(module).__name__} on images (b, {size[0]}, {size[1]}, "
        f"{in_channels})",
        frozen=frozen,
        num_bytes=_num_bytes(params),
    )


def _trained_paths(labels: nnx.State) -> frozenset[str]:
    leaves = nnx.to_flat_state(labels)
    return frozenset(dotted(path) for path, name in leaves if name != FROZEN)


def _num_bytes(params: nnx.State) -> int:
    leaves = [leaf for _, leaf in nnx.to_flat_state(params)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
