"""The calls of a network's children, and what the network does between two of them.

A network in, its calls in order out. The one rule of the file: a network is looked at
by tracing it on shapes (`jax.make_jaxpr`), nothing is computed.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from jaxtune.models import Sequence, call_module
from jaxtune.transfer.running import children_of, evaluating, listen


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a network's child.

    Attributes:
        name: The child's; its first one where it has several.
        output: Shape of what it gave out; None if that is no array.
        handed: Shape of the first argument of the call that follows, after the last one
            of the network's output; None if that is no array.
        whole: Whether all that the network makes of the output goes through what the
            next call is handed, and is a map of the same height and width there: what
            the network does between the two can then be kept with the child. Where it
            does something with a map of one place, nobody could tell whether that
            pools: False.
    """

    name: str
    output: tuple[int, ...] | None
    handed: tuple[int, ...] | None
    whole: bool


def record_calls(module: nnx.Module, in_channels: int, size: int) -> list[Call]:
    """Returns the calls of a network's children, in their order.

    Args:
        module: The network.
        in_channels: Channels of the images.
        size: Their height and width, in pixels.

    Raises:
        ValueError: If the network doesn't run on images (1, size, size, in_channels).
    """
    in_order = isinstance(module, Sequence | nnx.Sequential)
    graphdef, state = nnx.split(evaluating(module))
    images = jax.ShapeDtypeStruct((1, size, size, in_channels), jnp.float32)
    seen: list[_Seen] = []

    def forward(state, images):
        run = _in_order if in_order else _listening
        return run(seen, nnx.merge(graphdef, state), images)

    try:
        jaxpr = jax.make_jaxpr(forward)(state, images).jaxpr
    except Exception as error:
        raise ValueError(
            f"{type(module).__name__} doesn't run on images (1, {size}, {size}, "
            f"{in_channels}): {error}"
        ) from error
    return [
        Call(
            call.name,
            call.output,
            after.given,
            whole=in_order or _is_whole(jaxpr, call, after),
        )
        for call, after in itertools.pairwise(seen)
    ]


def last_calls(calls: Iterable[Call]) -> dict[str, int]:
    """Returns the position of each child's last call, in the order of these."""
    places = {call.name: position for position, call in enumerate(calls)}
    return dict(sorted(places.items(), key=lambda place: place[1]))


def first_argument(args: tuple, kwargs: dict) -> Any:
    """Returns the first argument of a call, None if it has none."""
    return next(iter((*args, *kwargs.values())), None)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """A call under way; with number -1 the network's end, given its output."""

    number: int
    name: str
    given: tuple[int, ...] | None
    output: tuple[int, ...] | None = None


def _listening(seen: list[_Seen], network: nnx.Module, x: Any) -> Any:
    numbers = itertools.count()

    def around(name, call, /, *args, **kwargs):
        number = next(numbers)
        given = _shape(first_argument(args, kwargs))
        if args:
            args = (_marked(args[0], f"{number} given"), *args[1:])
        output = _marked(call(*args, **kwargs), f"{number} output")
        seen.append(_Seen(number, name, given, _shape(output)))
        return output

    heard = set()
    for name, child in children_of(network):
        if id(child) not in heard:
            listen(child, functools.partial(around, name))
        heard.add(id(child))
    y = call_module(network, x)
    seen.append(_Seen(-1, "", _shape(y)))
    return y


def _in_order(seen: list[_Seen], network: nnx.Module, x: Any) -> Any:
    # The children of a sequence may be functions, which can't be listened to.
    for number, (name, child) in enumerate(children_of(network)):
        given = _shape(x)
        try:
            x = call_module(child, x)
        except Exception as error:
            raise ValueError(f"child {name!r}: {error}") from error
        seen.append(_Seen(number, name, given, _shape(x)))
    seen.append(_Seen(-1, "", _shape(x)))
    return x


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _mark(what: str) -> str:
    return f"jaxtune call {what}"


def _marked(value: Any, what: str) -> Any:
    """The same array, which can be found again in the trace."""
    return value if _shape(value) is None else checkpoint_name(value, _mark(what))


def _is_whole(jaxpr: Any, call: _Seen, after: _Seen) -> bool:
    marks = {
        equation.params["name"]: equation
        for equation in jaxpr.eqns
        if str(equation.params.get("name", "")).startswith(_mark(""))
    }
    made = marks.get(_mark(f"{call.number} output"))
    taken = marks.get(_mark(f"{after.number} given"))
    if made is None or after.given is None or (taken is None and after.number >= 0):
        return False
    output = made.outvars[0]
    handed = taken.invars[0] if taken else jaxpr.outvars[0]
    if not _is_variable(handed):
        return False
    if output is handed:
        return True
    around = _needed(jaxpr, jaxpr.outvars, without=handed)
    if output in around or output not in _needed(jaxpr, [handed]):
        return False
    return call.output[:-1] == after.given[:-1] and call.output[1:3] != (1, 1)


def _needed(jaxpr: Any, wanted: Iterable[Any], *, without: Any = None) -> set:
    """What of a trace some of its values depend on, on ways that leave one out."""
    needed = {var for var in wanted if _is_variable(var)} - {without}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= {var for var in equation.invars if _is_variable(var)} - {without}
    return needed


def _is_variable(var: Any) -> bool:
    return not isinstance(var, jax.extend.core.Literal)
