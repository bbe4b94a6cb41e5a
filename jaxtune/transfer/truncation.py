"""A network stopped half way: the body of any module, whatever its own code does.

A network and its calls in, its first part out. The one rule of the file: the module's
own code runs, in a copy made for one run, and an exception carries the value out.
"""

import copyreg
import dataclasses
import functools
from typing import Any

from flax import nnx

from jaxtune.models import Sequence
from jaxtune.transfer.calls import Call, first_argument
from jaxtune.transfer.running import children_of, listen


class _Reached(Exception):  # noqa: N818 - it carries a value, nothing went wrong
    value: Any = None


@dataclasses.dataclass(frozen=True)
class _End:
    """Where a network stops: before or after the so-manieth call of a child.

    `names` are the child's, of which a network may have given it several; `gone` those
    of the children that are cut off.
    """

    names: tuple[str, ...]
    count: int
    before: bool
    gone: tuple[str, ...]


def truncated(module: nnx.Module, calls: list[Call], position: int) -> nnx.Module:
    """Returns a copy of any module which stops after a call of one of its children.

    It gives out what the next child is handed if the call is `whole`, else what the
    child gave. The copy shares its variables with the module and has the same paths;
    children that were first called later are gone from it.

    Args:
        module: The network.
        calls: What `record_calls` says of it.
        position: Number of the call in it.
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
    gone = [name for name, child in children.items() if id(child) in called - kept]
    for name in gone:
        parent, key = _locate(body, name)
        if isinstance(parent, nnx.List):
            # Positions are names: the rest of the list must keep its own.
            parent[int(key)] = Sequence({})
        else:
            delattr(parent, key)
    last = children[names[end]]
    stop = _End(
        names=tuple(name for name, child in children.items() if child is last),
        count=names[: end + 1].count(names[end]),
        before=before,
        gone=tuple(gone),
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
    # One subclass for each cut, so that two equal cuts of one network are one graph.
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
    return _made_class(type(kind))(f"{kind.__name__}Body", (kind,), names)


@functools.cache
def _made_class(metaclass: type) -> type:
    """A class of classes that are pickled by what they were made of: none has a name
    by which another process would find it."""
    made = type(f"Made{metaclass.__name__}", (metaclass,), {})
    copyreg.pickle(made, lambda body: (_body_class, body._made_of))
    return made


def _stopping(body: nnx.Module, kind: type, end: _End, stop: _Reached) -> nnx.Module:
    """A copy for one run, whose child at the end stops it; variables are shared."""
    run = _shallow(body, kind)
    count = 0

    def at_end(call, /, *args, **kwargs):
        nonlocal count
        count += 1
        if count < end.count:
            return call(*args, **kwargs)
        if end.before:
            stop.value = first_argument(args, kwargs)
        else:
            stop.value = call(*args, **kwargs)
        raise stop

    def too_early(name, call, /, *args, **kwargs):
        raise ValueError(
            f"{kind.__name__} called its child {name!r}, which is cut off, before call "
            f"{end.count} of {end.names[0]!r}, at which it is cut. In eval mode it "
            "did not."
        )

    def put(name, child, around):
        listen(child, around)
        _put(run, name, child)

    # The network may look a child up before the end: `self.last(self.first(x))`.
    for name in end.gone:
        put(name, Sequence({}), functools.partial(too_early, name))
    children = dict(children_of(body))
    for name in end.names:
        last = Sequence({}) if name in end.gone else _shallow(children[name])
        put(name, last, at_end)
    return run


def _shallow(module: nnx.Module, kind: type | None = None) -> nnx.Module:
    copy = object.__new__(kind or type(module))
    vars(copy).update(vars(module))
    return copy


def _put(run: nnx.Module, name: str, child: nnx.Module) -> None:
    # Past Flax's book-keeping: only the copy knows, and only for its run.
    parent, key = _locate(run, name)
    if parent is not run:
        container = name.split(".", 1)[0]
        parent = vars(run)[container] = _shallow(parent)
    vars(parent)[key] = child
