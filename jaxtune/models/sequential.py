"""`Sequential`: named modules in order, which can be indexed, sliced and replaced.

Each child is an attribute under its own name, so parameter paths are the published
names, and `net[6]`, `net["layer3"]` and `net.layer3` are the same object.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping

from flax import nnx

from jaxtune.models.layers import conv_norm, in_one_operation


@functools.lru_cache
def _accepts_rngs(call: Callable) -> bool:
    parameters = inspect.signature(call).parameters.values()
    return any(p.name == "rngs" or p.kind is p.VAR_KEYWORD for p in parameters)


def call_module(module: Callable, x, *, rngs: nnx.Rngs | None = None):
    """Returns `module(x)`, or `module(x, rngs=rngs)` if it accepts `rngs`.

    Args:
        module: An NNX module or a plain function.
        x: Its input.
        rngs: Random streams for this call (dropout), or None if nothing is random.
    """
    call = type(module).__call__ if isinstance(module, nnx.Module) else module
    if rngs is not None and _accepts_rngs(call):
        return module(x, rngs=rngs)
    return module(x)


class Sequential(nnx.Module):
    """Modules applied one after the other, each under its own name.

    As with `torch.nn.Sequential`, `net[6]` is a child, `net[:-2]` a `Sequential` that
    shares its children with this one, `net[0] = conv` replaces a child in place, and
    `len` and iteration work. Children can also be accessed by name: `net["layer3"]`,
    `net.layer3`.

    Example:
        >>> from jaxtune.models import Identity, ReLU, Sequential
        >>> net = Sequential({"first": ReLU(), "second": Identity()})
        >>> net[0] is net.first is net["first"], net[1:].names
        (True, ('second',))
    """

    def __init__(self, children: Mapping[str, Callable]):
        """Stores the children in order.

        Args:
            children: Modules or plain functions by name.

        Raises:
            ValueError: If a name is that of an attribute of the class.
        """
        for name, child in children.items():
            if hasattr(type(self), name) or name == "names":
                raise ValueError(
                    f"a child of {type(self).__name__} can't be called {name!r}: the "
                    "class has an attribute of that name. Choose another name."
                )
            setattr(self, name, child)
        self.names = tuple(children)

    def __call__(self, x, *, rngs: nnx.Rngs | None = None):
        """Applies every child in order; `rngs` goes to those that accept it."""
        children = list(self)
        while children:
            count = in_one_operation(children)
            if count:
                x = conv_norm(*children[:2], x, relu=count > 2)
            else:
                x = call_module(children[0], x, rngs=rngs)
            del children[: count or 1]
        return x

    def __len__(self) -> int:
        """Returns the number of children."""
        return len(self.names)

    def __iter__(self) -> Iterator[Callable]:
        """Iterates over the children in order."""
        return (getattr(self, name) for name in self.names)

    def __getitem__(self, key: int | str | slice):
        """Returns a child by position or name, or a `Sequential` by slice.

        Raises:
            IndexError: If there is no such position.
            KeyError: If there is no such name.
        """
        if isinstance(key, slice):
            return Sequential({name: getattr(self, name) for name in self.names[key]})
        return getattr(self, self._name(key))

    def __setitem__(self, key: int | str, module: Callable):
        """Replaces a child by another module, under the same name.

        Raises:
            IndexError: If there is no such position.
            KeyError: If there is no such name.
        """
        name = self._name(key)
        delattr(self, name)
        setattr(self, name, module)

    def _name(self, key: int | str) -> str:
        if isinstance(key, str):
            if key not in self.names:
                raise KeyError(f"no child {key!r}; there are {', '.join(self.names)}")
            return key
        index = operator.index(key)
        if not -len(self) <= index < len(self):
            raise IndexError(
                f"no child {index} in a sequence of {len(self)}: "
                + ", ".join(f"{i} {name}" for i, name in enumerate(self.names))
            )
        return self.names[index]


def numbered(*children: Callable) -> Sequential:
    """Returns a `Sequential` whose children are named "0", "1", …, as in PyTorch."""
    return Sequential({str(i): child for i, child in enumerate(children)})
