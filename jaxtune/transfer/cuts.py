"""Where a network can be cut, and the body that a cut leaves.

A network is run on shapes (`jax.eval_shape`) rather than judged by class names. Where
more than one cut fits, the user has to choose.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from jaxtune.arguments import Integer, check_integer, check_module, described
from jaxtune.models import Sequential
from jaxtune.transfer.running import children_of, output_shape
from jaxtune.transfer.truncation import last_calls, record_calls, truncated


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
        whole: Whether all that is done up to the next child is in the body. False where
            the network's own code between the two pools or flattens the map: the body
            then ends with this child, so that a head can pool, and the rest of that
            code, an activation perhaps, is left out.
    """

    index: int
    name: str
    kind: str
    shape: tuple[int, ...] | None
    num_parameters: int
    whole: bool = True

    def __str__(self) -> str:
        """Returns one line of the table that errors show."""
        shape = "?" if self.shape is None else str(("b", *self.shape[1:]))
        shape = shape.replace("'", "")
        rest = "" if self.whole else ", without the code that follows it"
        return (
            f"cut={self.index:<3} after {self.name!r:<12} {self.kind:<16} "
            f"output {shape:<22} {self.num_parameters:,} parameters{rest}"
        )


def inspect_cuts(
    module: nnx.Module, *, in_channels: Integer = 3, size: Integer = 64
) -> list[Cut]:
    """Lists where a network can be cut, with the output's shape at each place.

    Nothing is computed: the network runs on shapes. Children are listed in the order in
    which they are called (the last time, where they are called again), so it works for
    any NNX module, whatever its `__call__` does between its children; children that are
    never called are left out.

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
    check_module(module, "module")
    in_channels = check_integer(in_channels, "in_channels", least=1)
    size = check_integer(size, "size", least=1)
    calls = record_calls(module, in_channels, size)
    places = last_calls(calls)
    if not places:
        raise ValueError(
            f"{type(module).__name__} calls none of its children, so there is no place "
            "to cut it. Hand over the body itself, or cut=a function of the network."
        )
    children = dict(children_of(module))
    cuts = []
    for name, position in places.items():
        call, child = calls[position], children[name]
        shape = call.handed if call.whole else call.output
        cuts.append(
            Cut(len(cuts) + 1, name, _kind(child), shape, _size(child), call.whole)
        )
    return cuts


def create_body(
    module: nnx.Module,
    cut: Integer | str | Callable | None = None,
    *,
    in_channels: Integer = 3,
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
        `Sequential`, a `Sequential` of the children kept, under the same names. Of any
        other module, a copy of it with the same paths, which runs the module's own code
        up to where it calls the next child, and gives out what that is handed: all that
        is done between the two, an activation or a sum, is in the body. Only if that is
        pooled or flattened, the body ends with the last child kept, so that a head can
        pool; an activation between the child and the pooling is then left out
        (`inspect_cuts` says so; `cut` can be a function that keeps it).

    Raises:
        ValueError: If the cut isn't in the network, or cut is None and no place fits or
            several do; the places are listed.
        TypeError: If cut is something else.

    References:
        fastai 2.8.12, vision/learner.py `create_body`; unlike there, `cut` is honoured
        and an unknown network is never cut by the name of a class.
    """
    check_module(module, "module")
    cut = check_cut(cut)
    in_channels = check_integer(in_channels, "in_channels", least=1)
    if callable(cut):
        return check_module(cut(module), "what cut(network) returns")
    if cut is None:
        cut = getattr(module, "default_cut", None)
    if cut is None:
        cut = _find_cut(module, in_channels)
    if isinstance(module, Sequential):
        body = module[: _position(cut, list(module.names), module)]
        groups = getattr(module, "default_groups", None)
        if groups is not None:
            body.default_groups = groups
        return body
    if isinstance(module, nnx.Sequential):
        names = [str(i) for i in range(len(module.layers))]
        return nnx.Sequential(*module.layers[: _position(cut, names, module)])
    calls = record_calls(module, in_channels, 64)
    places = last_calls(calls)
    count = _position(cut, list(places), module)
    return truncated(module, calls, list(places.values())[count - 1])


def check_cut(cut: Any) -> Any:
    """Returns where a network is to be cut: an int, a name, a function or None.

    Raises:
        TypeError: If it is something else.
    """
    is_function = callable(cut) and not isinstance(cut, nnx.Module)
    if cut is None or isinstance(cut, str) or is_function:
        return cut
    try:
        return check_integer(cut, "cut")
    except TypeError:
        raise TypeError(
            "cut must be an int, the name of a child, a function of the network or "
            f"None; received {described(cut)}."
        ) from None


def num_features(body: nnx.Module, *, in_channels: Integer = 3) -> int:
    """Returns the number of channels of a body's feature map, found from shapes alone.

    Raises:
        ValueError: If the body runs on no square image from 32 to 512 px, or its output
            isn't (b, h, w, c).
        TypeError: If it is no NNX module, or its output no array.

    References:
        fastai 2.8.12, vision/learner.py `num_features_model` (which runs the body).
    """
    check_module(body, "body")
    in_channels = check_integer(in_channels, "in_channels", least=1)
    shape = output_shape(body, in_channels=in_channels)
    if len(shape) != 4:
        raise ValueError(
            "the body must return feature maps (b, h, w, c), so that the head can "
            f"pool them; {type(body).__name__} returns shape {shape}. Cut it earlier "
            "(inspect_cuts lists the places), or hand over a head of your own."
        )
    return shape[-1]


def _kind(child: Callable) -> str:
    if isinstance(child, nnx.Module):
        return type(child).__name__
    return getattr(child, "__name__", type(child).__name__)


def _size(child: Callable) -> int:
    if not isinstance(child, nnx.Module):
        return 0
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(child, nnx.Param)))
    return sum(leaf.size for leaf in leaves)


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
