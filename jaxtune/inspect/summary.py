"""A network's layers in call order, and each layer's operations in a training step.

The network is traced on shapes only: nothing is computed and nothing compiled.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.arguments import check_integer, check_module
from jaxtune.data import as_size
from jaxtune.inspect.layer_groups import group_finder
from jaxtune.models import call_module
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
    norm_paths,
    norms_of_group,
    optimizer_labels,
    split_module,
)
from jaxtune.transfer import Groups, dotted, evaluating, group_labels
from jaxtune.transfer.running import listen

_SCOPE = re.compile(r"jaxtune_layer_(\d+)_")


@dataclasses.dataclass(frozen=True)
class Layer:
    """One module of a network, without its submodules.

    Attributes:
        path: Its dotted path.
        kind: Name of its class.
        shape: Shape of its output, the batch first; None if it was never called, or
            doesn't return an array.
        parameters: Number of elements of each of its own parameters, by dotted path.
        statistics: Number of elements of each other array of its own, by dotted path.
    """

    path: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: Mapping[str, int]
    statistics: Mapping[str, int]

    @property
    def num_parameters(self) -> int:
        """Total number of elements of its own parameters."""
        return sum(self.parameters.values())


def network_layers(
    module: nnx.Module, *, size: tuple[int, int], in_channels: int
) -> list[Layer]:
    """Returns the layers in the order of their first calls.

    A layer is a module that has no submodules, or has arrays of its own. Layers that
    are never called come last if they have parameters; others are left out.

    Args:
        module: The network; maps (1, h, w, in_channels) float32 to anything.
        size: Height and width of the images, in pixels.
        in_channels: Channels of the images.

    Raises:
        ValueError: If the network doesn't run on such images.
    """
    shapes: dict[str, Any] = {}

    def note(path: str, output: Any) -> None:
        shapes.setdefault(path, getattr(output, "shape", None))

    graphdef, state = nnx.split(evaluating(module))
    images = jax.ShapeDtypeStruct((1, *size, in_channels), jnp.float32)

    def forward(state, images):
        return call_module(_listened(nnx.merge(graphdef, state), note), images)

    try:
        jax.eval_shape(forward, state, images)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} doesn't run on images {images.shape}: {error}"
        ) from error
    kinds = {}
    params, others = _own(module, nnx.Param), _own(module, nnx.Not(nnx.Param))
    for path, node in _modules(module):
        inside = any(isinstance(x, nnx.Module) and x is not node for x in _below(node))
        if params[path] or others[path] or not inside:
            kinds[path] = type(node).__name__
    paths = [path for path in shapes if path in kinds]
    paths += [path for path in kinds if path not in shapes and params[path]]
    return [
        Layer(path, kinds[path], shapes.get(path), params[path], others[path])
        for path in paths
    ]


def multiplications(
    module: nnx.Module,
    labels: nnx.State,
    *,
    size: tuple[int, int],
    in_channels: int,
) -> dict[str, int]:
    """Returns the floating-point operations of one image's training step, by layer.

    Convolutions and matrix products are counted, forward and backward, as two
    operations for each multiply-add; zeros that a stride puts between values are not
    counted. Everything else (norms, pooling, the optimizer) is small in comparison. As
    in `make_train_step`, parameters labelled `FROZEN` are constants, so gradients that
    nothing needs are not computed.

    Args:
        module: The network in training mode, see `training_view`.
        labels: Group of each parameter, `FROZEN` for those that don't train.
        size: Height and width of the images, in pixels.
        in_channels: Their channels.

    Returns:
        Operations of each layer that has any, by dotted path.
    """
    graphdef, params, model_state = split_module(module)
    names = [path for path, _ in _modules(module)]
    leaves, treedef = jax.tree.flatten(params)
    trains = [label != FROZEN for label in jax.tree.leaves(labels)]
    images = jax.ShapeDtypeStruct((2, *size, in_channels), jnp.float32)

    def loss(training, frozen, model_state, images):
        chosen, kept = iter(training), iter(frozen)
        tree = treedef.unflatten([next(chosen if t else kept) for t in trains])
        network = _scoped(nnx.merge(graphdef, tree, model_state), names)
        outputs = call_module(network, images, rngs=nnx.Rngs(0))
        return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(outputs))

    training = [x for x, t in zip(leaves, trains, strict=True) if t]
    frozen = [x for x, t in zip(leaves, trains, strict=True) if not t]
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss))(
        training, frozen, model_state, images
    )
    counts: Counter = Counter()
    _count(jaxpr.jaxpr, "", 1, counts)
    operations: Counter = Counter()
    for scope, number in counts.items():
        inside = _SCOPE.findall(scope)
        operations[names[int(inside[-1])] if inside else ""] += number
    return {name: number // images.shape[0] for name, number in operations.items()}


# Modules.


def _modules(module: nnx.Module) -> list[tuple[str, nnx.Module]]:
    """All submodules with their dotted paths, and the module itself as ""."""
    return [
        (dotted(path), node)
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Module) and not isinstance(node, nnx.List | nnx.Dict)
    ]


def _below(node: nnx.Module):
    return (child for _, child in nnx.iter_graph(node))


def _own(module: nnx.Module, kind: Any) -> dict[str, dict[str, int]]:
    """For each module's path, the sizes of its own variables of a kind, by path."""
    paths = [path for path, _ in _modules(module)]
    own: dict[str, dict[str, int]] = {path: {} for path in paths}
    leaves = jax.tree_util.tree_leaves_with_path(nnx.as_pure(nnx.state(module, kind)))
    for path, leaf in leaves:
        name = dotted(path)
        holder = name.rpartition(".")[0]
        while holder not in own:
            holder = holder.rpartition(".")[0]
        own[holder][name] = leaf.size
    return own


def _listened(module: nnx.Module, note: Callable[[str, Any], None]) -> nnx.Module:
    def around(path, call, /, *args, **kwargs):
        output = call(*args, **kwargs)
        note(path, output)
        return output

    for path, node in _modules(module):
        if callable(node):
            listen(node, functools.partial(around, path))
    return module


def _scoped(module: nnx.Module, names: list[str]) -> nnx.Module:
    def around(scope, call, /, *args, **kwargs):
        with jax.named_scope(scope):
            return call(*args, **kwargs)

    numbers = {name: i for i, name in enumerate(names)}
    for path, node in _modules(module):
        if callable(node):
            listen(node, functools.partial(around, f"jaxtune_layer_{numbers[path]}_"))
    return module


# Operations.


def _count(jaxpr: Any, outer: str, times: int, counts: Counter) -> None:
    for equation in jaxpr.eqns:
        scope = f"{outer}/{equation.source_info.name_stack}"
        count = _OPERATIONS.get(equation.primitive.name)
        if count is not None:
            counts[scope] += times * count(equation)
        repeated = times * equation.params.get("length", 1)
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    _count(inner, scope, repeated, counts)


def _convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"].rhs_spec
    each = math.prod(kernel[i] for i in numbers[1:])
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * each // dilation


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    each = math.prod(left[i] for i in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * each


def _jaxtune_convolution(equation: Any) -> int:
    left, right, made = (
        variable.aval.shape for variable in (*equation.invars, *equation.outvars)
    )
    outputs, weight = {
        "outputs": (made, right),
        "images": (left, right),
        "weight": (right, made),
    }[equation.params["result"]]
    return 2 * math.prod(outputs) * math.prod(weight[:-1])


_OPERATIONS = {
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "convolution": _jaxtune_convolution,
}


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One layer.

    Attributes:
        path: Its dotted path.
        kind: Name of its class.
        shape: Shape of its output for one image, the batch first; None if it isn't
            called.
        parameters: Number of its own parameters.
        statistics: Number of other elements it holds, such as running means.
        group: Its layer group; "" if it is in none.
        trained: Number of its own parameters that train.
        norms: What a norm layer does in training: "train" (uses batch statistics and
            updates the running statistics), "running" (uses these, and they stay) or,
            in a frozen group, the learner's `norms`. "" for other layers.
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
    """Every layer of a network in call order; prints as a table.

    Attributes:
        rows: The layers.
        frozen: Names of the frozen layer groups.
        parameters: Number of parameters.
        trained: Number of parameters that train.
        statistics: Number of other elements, such as running means.
    """

    def __init__(
        self,
        rows: Iterable[SummaryRow],
        *,
        name: str = "",
        frozen: Collection[str] = (),
        num_bytes: int = 0,
    ):
        """Takes the layers, the title, frozen groups, and the parameters' bytes."""
        self.rows = list(rows)
        self.frozen = tuple(frozen)
        self.parameters = sum(row.parameters for row in self.rows)
        self.trained = sum(row.trained for row in self.rows)
        self.statistics = sum(row.statistics for row in self.rows)
        self._name = name
        self._bytes = num_bytes

    def table(self) -> Table:
        """Returns the table; groups are separated by a line, totals stand below."""
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
    """Returns every layer with its output shape, parameters, group and what trains.

    Nothing is computed or compiled: the network is traced on shapes only.

    Args:
        module: Any NNX module that takes images (b, h, w, c); an abstract one
            (`nnx.eval_shape`) suffices.
        groups: Layer groups, see `group_labels`; none are shown if None.
        frozen: Names of the frozen groups.
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
        mode = norms_of_group(group, groups or (), frozen, norms)
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
