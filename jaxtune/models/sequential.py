"""An ordered, named sequence of modules which can be indexed, sliced and changed.

The one rule of the file: a child's name is its attribute's name, so that parameter
paths are the published names and `net[6]`, `net["layer3"]` and `net.layer3` are one
object.
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
    """Returns `module(x)`, with `rngs` handed over if the module takes it.

    Args:
        module: An NNX module or a plain function.
        x: Its input.
        rngs: Random streams of this call (dropout), or None where nothing is random.
    """
    call = type(module).__call__ if isinstance(module, nnx.Module) else module
    if rngs is not None and _accepts_rngs(call):
        return module(x, rngs=rngs)
    return module(x)


class Sequential(nnx.Module):
    """Modules applied one after the other, each under its own name.

    Behaves as `torch.nn.Sequential` does for fastai's users: `net[6]` is a child,
    `net[:-2]` is a sequence which shares its children with this one, `net[0] = conv`
    changes the network for good, `len` and iteration work. A child is also found by
    name: `net["layer3"]`, `net.layer3`.

    Example:
        >>> from jaxtune.models import Identity, ReLU, Sequential
        >>> net = Sequential({"first": ReLU(), "second": Identity()})
        >>> net[0] is net.first is net["first"], net[1:].names
        (True, ('second',))
    """

    def __init__(self, children: Mapping[str, Callable]):
        """Takes the children in order.

        Args:
            children: Module by name; functions are welcome too.

        Raises:
            ValueError: If a name is taken by an attribute of the class.
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
        """Applies every child in order; `rngs` goes to those that take it."""
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
        """Goes through the children in order."""
        return (getattr(self, name) for name in self.names)

    def __getitem__(self, key: int | str | slice):
        """Returns a child by position or name, or a sequence by slice.

        Raises:
            IndexError: If the position is not there.
            KeyError: If the name is not there.
        """
        if isinstance(key, slice):
            return Sequential({name: getattr(self, name) for name in self.names[key]})
        return getattr(self, self._name(key))

    def __setitem__(self, key: int | str, module: Callable):
        """Puts another module in a child's place, under the same name.

        Raises:
            IndexError: If the position is not there.
            KeyError: If the name is not there.
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
    """Returns a sequence whose children are called "0", "1", …, as PyTorch does."""
    return Sequential({str(i): child for i, child in enumerate(children)})
