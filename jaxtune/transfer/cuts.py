"""Where a network can be cut, and the body that a cut leaves.

A network in, its body out. The one rule of the file: a network is looked at by running
it on shapes (`jax.eval_shape`), never by guessing from class names, and where more than
one cut fits, the choice is the user's.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.models import Sequence, call_module


@dataclasses.dataclass(frozen=True)
class Cut:
    """One place where a network can be cut: after a child of its top level.

    Attributes:
        index: `create_body(net, cut=index)` keeps the children before this position,
            as fastai's integer cut does.
        name: Name of the last child kept; `create_body(net, cut=…)` takes it too.
        kind: Class of that child.
        shape: Shape of the body's output there, the batch first.
        num_parameters: Parameters of that child.
    """

    index: int
    name: str
    kind: str
    shape: tuple[int, ...] | None
    num_parameters: int

    def __str__(self) -> str:
        """Returns one line of the table that errors show."""
        shape = "?" if self.shape is None else str(("b", *self.shape[1:]))
        shape = shape.replace("'", "")
        return (
            f"cut={self.index:<3} after {self.name!r:<12} {self.kind:<16} "
            f"output {shape:<22} {self.num_parameters:,} parameters"
        )


class _Reached(Exception):  # noqa: N818 - it carries a value, nothing went wrong
    def __init__(self, value):
        self.value = value


def evaluating(module: nnx.Module) -> nnx.Module:
    """Returns a view of a module which draws nothing and changes no statistic.

    Running statistics instead of the batch's, dropout off. The view shares its
    variables with the module.
    """
    return nnx.view(
        module, deterministic=True, use_running_average=True, raise_if_not_found=False
    )


def inspect_cuts(
    module: nnx.Module, *, in_channels: int = 3, size: int = 64
) -> list[Cut]:
    """Lists where a network can be cut, with the output's shape at each place.

    Nothing is computed: the network runs on shapes. Children are listed in the order in
    which they are called, so it works for any NNX module, whatever its `__call__` does
    between its children; children that are never called are left out.

    Args:
        module: The network; maps (b, size, size, in_channels) float32 to anything.
        in_channels: Channels of the images.
        size: Height and width of the images, in pixels.

    Raises:
        ValueError: If the network doesn't run on such images, or none of its children
            is called.

    Example:
        >>> from jaxtune import inspect_cuts, resnet18
        >>> [(cut.index, cut.shape) for cut in inspect_cuts(resnet18())[-3:-1]]
        [(8, (1, 2, 2, 512)), (9, (1, 512))]
    """
    calls = _record(module, in_channels, size)
    if not calls:
        raise ValueError(
            f"{type(module).__name__} calls none of its children, so there is no place "
            "to cut it. Hand over the body itself, or cut=a function of the network."
        )
    children = dict(_children(module))
    return [
        Cut(i + 1, name, type(children[name]).__name__, shape, _size(children[name]))
        for i, (name, shape) in enumerate(calls.items())
    ]


def create_body(
    module: nnx.Module,
    cut: int | str | Callable | None = None,
    *,
    in_channels: int = 3,
) -> nnx.Module:
    """Returns a network without its classifier; parameters are shared, not copied.

    Args:
        module: The whole network.
        cut: Where the old classifier begins. An int keeps the children before that
            position (negative ones count from the end; `inspect_cuts` numbers them); a
            name keeps everything up to and with that child; a function of the network
            returns the body; None takes what the network says of itself, or finds the
            only place that fits.
        in_channels: Channels of the images, to find the cut of an unknown network.

    Returns:
        A module which maps images (b, h, w, c) to feature maps (b, h', w', f). Of a
        `Sequence`, a `Sequence` of the children kept, under the same names; of any
        other module, a copy of it which stops as soon as the last child kept returns,
        with the same paths.

    Raises:
        ValueError: If the cut isn't in the network, or cut is None and no place fits or
            several do; the places are listed.
        TypeError: If cut is something else.

    References:
        fastai 2.8.12, vision/learner.py `create_body`; unlike there, `cut` is honoured
        and an unknown network is never cut by the name of a class.
    """
    if callable(cut):
        body = cut(module)
        if not isinstance(body, nnx.Module):
            raise TypeError(
                f"cut(network) must return an NNX module; received a "
                f"{type(body).__name__}."
            )
        return body
    if cut is None:
        cut = getattr(module, "default_cut", None)
    if cut is None:
        cut = _find_cut(module, in_channels)
    if isinstance(cut, bool) or not isinstance(cut, int | str):
        raise TypeError(
            "cut must be an int, the name of a child, a function of the network or "
            f"None; received {cut!r}."
        )
    if isinstance(module, Sequence):
        names: list[str] = list(module.names)
    elif isinstance(module, nnx.Sequential):
        names = [str(i) for i in range(len(module.layers))]
    else:
        names = list(_record(module, in_channels, 64))
    count = _position(cut, names, module)
    if isinstance(module, Sequence):
        body = module[:count]
        groups = getattr(module, "default_groups", None)
        if groups is not None:
            body.default_groups = groups
        return body
    if isinstance(module, nnx.Sequential):
        return nnx.Sequential(*module.layers[:count])
    return _truncated(module, names[:count], names[count:])


def num_features(body: nnx.Module, *, in_channels: int = 3) -> int:
    """Returns the number of channels of a body's feature map, found from shapes alone.

    Raises:
        ValueError: If the body runs on no square image from 32 to 512 px, or its output
            isn't (b, h, w, c).

    References:
        fastai 2.8.12, vision/learner.py `num_features_model` (which runs the body).
    """
    shape = output_shape(body, in_channels=in_channels)
    if len(shape) != 4:
        raise ValueError(
            "the body must return feature maps (b, h, w, c), so that the head can "
            f"pool them; {type(body).__name__} returns shape {shape}. Cut it earlier "
            "(inspect_cuts lists the places), or hand over a head of your own."
        )
    return shape[-1]


def output_shape(module: nnx.Module, *, in_channels: int = 3) -> tuple[int, ...]:
    """Returns the shape of a network's output for one square image, 32 px or larger.

    Sizes 32, 64, … 512 px are tried until one runs.

    Raises:
        ValueError: If none runs; the last error is the cause.
    """
    for size in (64, 32, 128, 224, 256, 512):
        try:
            return tuple(_run_on_shapes(module, in_channels, size).shape)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            cause = error
    raise ValueError(
        f"{type(module).__name__} runs on no image (1, s, s, {in_channels}) with s "
        f"from 32 to 512: {cause}"
    ) from cause


def _run_on_shapes(module, in_channels: int, size: int, prepare=lambda module: module):
    graphdef, state = nnx.split(evaluating(module))
    images = jax.ShapeDtypeStruct((1, size, size, in_channels), jnp.float32)
    return jax.eval_shape(
        lambda state, x: call_module(prepare(nnx.merge(graphdef, state)), x),
        state,
        images,
    )


def _children(module: nnx.Module) -> list[tuple[str, nnx.Module]]:
    """Direct children by name; the items of a list or dict count as children."""
    if isinstance(module, nnx.Sequential):
        return [(str(i), layer) for i, layer in enumerate(module.layers)]
    found = []
    for name, value in vars(module).items():
        if isinstance(value, nnx.List):
            found += [(f"{name}.{i}", item) for i, item in enumerate(value)]
        elif isinstance(value, nnx.Dict):
            found += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            found.append((name, value))
    return [(name, child) for name, child in found if isinstance(child, nnx.Module)]


def _size(module: nnx.Module) -> int:
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(module, nnx.Param)))
    return sum(leaf.size for leaf in leaves)


def _record(module, in_channels: int, size: int) -> dict[str, tuple[int, ...] | None]:
    """Output shape of each child, in the order of their (last) calls."""
    if isinstance(module, Sequence | nnx.Sequential):
        return _record_sequence(module, in_channels, size)
    calls: dict[str, tuple[int, ...] | None] = {}

    def listen(root):
        for name, child in _children(root):

            def note(output, name=name):
                calls.pop(name, None)
                calls[name] = getattr(output, "shape", None)
                return output

            _tap(child, note)
        return root

    try:
        _run_on_shapes(module, in_channels, size, listen)
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} doesn't run on images (1, {size}, {size}, "
            f"{in_channels}): {error}"
        ) from error
    return calls


def _record_sequence(module, in_channels: int, size: int):
    if isinstance(module, Sequence):
        names, children = module.names, list(module)
    else:
        names, children = [n for n, _ in _children(module)], list(module.layers)
        names = [str(i) for i in range(len(children))]
    calls = {}
    for i, name in enumerate(names):
        part = Sequence({f"child{j}": c for j, c in enumerate(children[: i + 1])})
        try:
            calls[name] = tuple(_run_on_shapes(part, in_channels, size).shape)
        except Exception as error:
            raise ValueError(
                f"child {name!r} of {type(module).__name__} doesn't run on images (1, "
                f"{size}, {size}, {in_channels}): {error}"
            ) from error
    return calls


@functools.cache
def _tapped_class(kind: type) -> type:
    """Subclass whose calls hand their output to `_after`; one for each class, so that
    two cuts of one network are the same graph."""

    def __call__(self, *args, **kwargs):
        output = kind.__call__(self, *args, **kwargs)
        return self._after(output) if self._after is not None else _stop(output)

    names = {"__call__": __call__, "_after": None, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names)


def _stop(output):
    raise _Reached(output)


def _tap(module: nnx.Module, after: Callable | None) -> None:
    # The class is changed rather than the module wrapped: a wrapper would put its own
    # name into every parameter's path.
    object.__setattr__(module, "__class__", _tapped_class(type(module)))
    if after is not None:
        module._after = after


@functools.cache
def _body_class(kind: type) -> type:
    def __call__(self, *args, **kwargs):
        try:
            kind.__call__(self, *args, **kwargs)
        except _Reached as reached:
            return reached.value
        raise ValueError(
            f"{kind.__name__} ended without calling the child it is cut after."
        )

    names = {"__call__": __call__, "__module__": kind.__module__}
    return type(f"{kind.__name__}Body", (kind,), names)


def _truncated(module, kept: list[str], dropped: list[str]) -> nnx.Module:
    """A copy of any module which stops after the last child kept."""
    body = _share(module)
    for name in dropped:
        parent, key = _locate(body, name)
        if isinstance(parent, nnx.List):
            # Positions are names: the rest of the list must keep its own.
            parent[int(key)] = Sequence({})
        else:
            delattr(parent, key)
    parent, key = _locate(body, kept[-1])
    child = parent[int(key)] if isinstance(parent, nnx.List) else getattr(parent, key)
    _tap(child, None)
    object.__setattr__(body, "__class__", _body_class(type(module)))
    return body


def _share(module: nnx.Module) -> nnx.Module:
    """A copy of the module's structure which shares its variables."""
    return nnx.merge(*nnx.split(module))


def _locate(root, name: str):
    if "." not in name:
        return root, name
    container, key = name.split(".", 1)
    return getattr(root, container), key


def _position(cut: int | str, names: list[str], module) -> int:
    listing = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    if isinstance(cut, str):
        if cut not in names:
            raise ValueError(
                f"cut={cut!r} is not a child of {type(module).__name__}. Its children, "
                f"in order: {listing}."
            )
        return names.index(cut) + 1
    count = cut if cut >= 0 else len(names) + cut
    if not 0 < count <= len(names):
        raise ValueError(
            f"cut={cut} leaves {max(count, 0)} of {len(names)} children of "
            f"{type(module).__name__}. A cut keeps at least one: {listing}."
        )
    return count


def _find_cut(module: nnx.Module, in_channels: int) -> int:
    """The only place that fits: the last feature map that still is one.

    What fits ends with the last child which has parameters and gives out a feature map,
    with the parameterless ones (activations) that follow and keep its shape.
    """
    cuts = inspect_cuts(module, in_channels=in_channels)
    maps = [
        cut
        for cut in cuts
        if cut.shape is not None and len(cut.shape) == 4 and max(cut.shape[1:3]) > 1
    ]
    trained = [cut.index for cut in maps if cut.num_parameters]
    if not trained:
        raise _cut_error("no child gives out a feature map (b, h, w, c)", module, cuts)
    end = trained[-1]
    while end < len(cuts) and not cuts[end].num_parameters:
        if cuts[end].shape != cuts[end - 1].shape:
            break
        end += 1
    later_maps = [cut for cut in maps if cut.index > end]
    if later_maps:
        raise _cut_error("more than one cut fits", module, cuts)
    final, here = cuts[-1].shape, cuts[end - 1].shape
    after = any(cut.num_parameters for cut in cuts[end:])
    if final is not None and here is not None and final[-1] == here[-1] and not after:
        raise _cut_error(
            f"the last feature map has as many channels ({here[-1]}) as the network "
            "has outputs, so it may be the classifier itself",
            module,
            cuts,
        )
    return end


def _cut_error(reason: str, module, cuts: list[Cut]) -> ValueError:
    listing = "\n".join(f"  {cut}" for cut in cuts)
    return ValueError(
        f"can't tell where to cut {type(module).__name__}: {reason}. Choose one of\n"
        f"{listing}\nas cut=<number> or cut=<name>, or hand over a function of the "
        "network that returns its body."
    )
