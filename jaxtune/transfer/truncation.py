"""The first part of any module, up to a call of one of its children.

`record_calls` traces the network on shapes to list the calls; `truncated` returns a
module that runs the network's own code up to one of them. An exception carries the
value out.
"""

import copyreg
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

from jaxtune.models import Sequential, call_module
from jaxtune.transfer.running import children_of, evaluating, listen

# Which calls there are.


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a network's child.

    Attributes:
        name: The child's name; the first, if it has several.
        output: Shape of its output; None if that is no array.
        handed: Shape of the first argument of the next call; after the last call, of
            the network's output. None if that is no array.
        whole: Whether the network uses the output only through `handed`, with the same
            height and width: what the network does between the two calls then belongs
            to the body. False for a map of one place, where nobody can tell whether
            the network pools.
    """

    name: str
    output: tuple[int, ...] | None
    handed: tuple[int, ...] | None
    whole: bool


@dataclasses.dataclass(frozen=True)
class _Record:
    """A call as it is traced; number -1 stands for the network's own output."""

    number: int
    name: str
    given: tuple[int, ...] | None
    output: tuple[int, ...] | None = None


def record_calls(module: nnx.Module, in_channels: int, size: int) -> list[Call]:
    """Returns the calls of a network's children, in order; nothing is computed.

    Args:
        module: The network.
        in_channels: Channels of the images.
        size: Their height and width, in pixels.

    Raises:
        ValueError: If the network doesn't run on images (1, size, size, in_channels).
    """
    in_order = isinstance(module, Sequential | nnx.Sequential)
    graphdef, state = nnx.split(evaluating(module))
    images = jax.ShapeDtypeStruct((1, size, size, in_channels), jnp.float32)
    records: list[_Record] = []

    def forward(state, images):
        run = _run_in_order if in_order else _run_and_listen
        return run(records, nnx.merge(graphdef, state), images)

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
        for call, after in itertools.pairwise(records)
    ]


def last_calls(calls: Iterable[Call]) -> dict[str, int]:
    """Returns the position of each child's last call, in the order of these calls."""
    positions = {call.name: position for position, call in enumerate(calls)}
    return dict(sorted(positions.items(), key=lambda item: item[1]))


def _run_and_listen(records: list[_Record], network: nnx.Module, x: Any) -> Any:
    numbers = itertools.count()

    def around(name, call, /, *args, **kwargs):
        number = next(numbers)
        given = _shape(_first_argument(args, kwargs))
        if args:
            args = (_marked(args[0], f"{number} given"), *args[1:])
        output = _marked(call(*args, **kwargs), f"{number} output")
        records.append(_Record(number, name, given, _shape(output)))
        return output

    # A child with several names is listened to under its first.
    names = {id(child): name for name, child in reversed(children_of(network))}
    for name, child in children_of(network):
        if names[id(child)] == name:
            listen(child, functools.partial(around, name))
    y = call_module(network, x)
    records.append(_Record(-1, "", _shape(y)))
    return y


def _run_in_order(records: list[_Record], network: nnx.Module, x: Any) -> Any:
    # The children of a sequence may be functions, which can't be listened to.
    for number, (name, child) in enumerate(children_of(network)):
        given = _shape(x)
        try:
            x = call_module(child, x)
        except Exception as error:
            raise ValueError(f"child {name!r}: {error}") from error
        records.append(_Record(number, name, given, _shape(x)))
    records.append(_Record(-1, "", _shape(x)))
    return x


def _shape(value: Any) -> tuple[int, ...] | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(shape)


def _first_argument(args: tuple, kwargs: dict) -> Any:
    return next(iter((*args, *kwargs.values())), None)


def _mark(label: str) -> str:
    return f"jaxtune call {label}"


def _marked(value: Any, label: str) -> Any:
    """Returns the same array, named so that it can be found in the trace."""
    return value if _shape(value) is None else checkpoint_name(value, _mark(label))


def _is_whole(jaxpr: Any, call: _Record, after: _Record) -> bool:
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
    around = _dependencies(jaxpr, jaxpr.outvars, without=handed)
    if output in around or output not in _dependencies(jaxpr, [handed]):
        return False
    return call.output[:-1] == after.given[:-1] and call.output[1:3] != (1, 1)


def _dependencies(jaxpr: Any, wanted: Iterable[Any], *, without: Any = None) -> set:
    """Returns what some values of a trace depend on, on paths that avoid one value."""
    needed = {var for var in wanted if _is_variable(var)} - {without}
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            needed |= {var for var in equation.invars if _is_variable(var)} - {without}
    return needed


def _is_variable(var: Any) -> bool:
    return not isinstance(var, jax.extend.core.Literal)


# The network up to one of them.


class _Reached(Exception):  # noqa: N818 - it carries a value; nothing went wrong
    value: Any = None


@dataclasses.dataclass(frozen=True)
class _End:
    """Where a network stops: before or after the n-th call of a child.

    Attributes:
        names: The child's names; a network may have given it several.
        count: n, from 1.
        before: Whether it stops before that call.
        removed: Names of the children that are cut off.
    """

    names: tuple[str, ...]
    count: int
    before: bool
    removed: tuple[str, ...]


def truncated(module: nnx.Module, calls: list[Call], position: int) -> nnx.Module:
    """Returns a copy of any module that stops after a call of one of its children.

    Its output is what the next child is given if the call is `whole`, else the child's
    own output. The copy shares its variables with the module and has the same paths;
    children that are first called later are removed from it.

    Args:
        module: The network.
        calls: From `record_calls`.
        position: Index of the call in `calls`.
    """
    body = nnx.merge(*nnx.split(module))
    before = calls[position].whole
    names = [call.name for call in calls]
    if before and position + 1 == len(calls):
        return body
    end = position + before
    children = dict(children_of(body))
    called = {id(children[name]) for name in names}
    kept = {id(children[name]) for name in names[: position + 1]}
    removed = [name for name, child in children.items() if id(child) in called - kept]
    for name in removed:
        parent, key = _locate(body, name)
        if isinstance(parent, nnx.List):
            # Positions are names: the other items must keep theirs.
            parent[int(key)] = Sequential({})
        else:
            delattr(parent, key)
    last = children[names[end]]
    stop = _End(
        names=tuple(name for name, child in children.items() if child is last),
        count=names[: end + 1].count(names[end]),
        before=before,
        removed=tuple(removed),
    )
    object.__setattr__(body, "__class__", _body_class(type(module), stop))
    return body


def _locate(root, name: str):
    if "." not in name:
        return root, name
    container, key = name.split(".", 1)
    return getattr(root, container), key


@functools.cache
def _body_class(kind: type, end: _End) -> type:
    # One subclass for each cut, so that two equal cuts of a network are equal graphs.
    @functools.wraps(kind.__call__)
    def __call__(self, *args, **kwargs):
        stop = _Reached()
        try:
            kind.__call__(_stopping(self, kind, end, stop), *args, **kwargs)
        except _Reached as reached:
            if reached is not stop:
                raise
            return stop.value
        raise ValueError(
            f"{kind.__name__} ended before call {end.count} of its child "
            f"{end.names[0]!r}, at which it is cut."
        )

    names = {
        "__call__": __call__,
        "__module__": kind.__module__,
        "_made_of": (kind, end),
    }
    return _pickled_class(type(kind))(f"{kind.__name__}Body", (kind,), names)


@functools.cache
def _pickled_class(metaclass: type) -> type:
    """Returns a metaclass whose classes are pickled by what they were made of.

    Another process can't find them by name.
    """
    made = type(f"Made{metaclass.__name__}", (metaclass,), {})
    copyreg.pickle(made, lambda body: (_body_class, body._made_of))
    return made


def _stopping(body: nnx.Module, kind: type, end: _End, stop: _Reached) -> nnx.Module:
    """Returns a copy for one run, whose last child stops it; variables are shared."""
    run = _shallow(body, kind)
    count = 0

    def at_end(call, /, *args, **kwargs):
        nonlocal count
        count += 1
        if count < end.count:
            return call(*args, **kwargs)
        if end.before:
            stop.value = _first_argument(args, kwargs)
        else:
            stop.value = call(*args, **kwargs)
        raise stop

    def too_early(name, call, /, *args, **kwargs):
        raise ValueError(
            f"{kind.__name__} called its child {name!r}, which is cut off, before call "
            f"{end.count} of {end.names[0]!r}, at which it is cut. In evaluation mode "
            "it did not."
        )

    def put(name, child, around):
        listen(child, around)
        # Not through Flax's book-keeping: the change is this run's alone.
        parent, key = _locate(run, name)
        if parent is not run:
            parent = vars(run)[name.split(".", 1)[0]] = _shallow(parent)
        vars(parent)[key] = child

    # The network may look a child up before the end: `self.last(self.first(x))`.
    for name in end.removed:
        put(name, Sequential({}), functools.partial(too_early, name))
    children = dict(children_of(body))
    for name in end.names:
        last = Sequential({}) if name in end.removed else _shallow(children[name])
        put(name, last, at_end)
    return run


def _shallow(module: nnx.Module, kind: type | None = None) -> nnx.Module:
    copy = object.__new__(kind or type(module))
    vars(copy).update(vars(module))
    return copy
