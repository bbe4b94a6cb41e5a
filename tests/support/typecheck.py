"""The tests' type checker: beartype, with an int welcome where a float is asked."""

import collections
import functools

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

#: How often a function inside another is checked in one process: it is made anew at
#: each call of the outer one, and to make a checked one takes milliseconds.
DEFINITIONS = 2

_every_time = jaxtyping.jaxtyped
_definitions: collections.Counter = collections.Counter()


def _first_times(fn=None, *, typechecker=None):
    """`jaxtyping.jaxtyped`, which leaves inner functions alone after the first ones."""
    if fn is None:
        return functools.partial(_first_times, typechecker=typechecker)
    code = getattr(fn, "__code__", None)
    if code is not None and "<locals>" in fn.__qualname__:
        _definitions[code] += 1
        if _definitions[code] > DEFINITIONS:
            return fn
    return _every_time(fn, typechecker=typechecker)


# What the import hook decorates with.
jaxtyping.jaxtyped = _first_times
