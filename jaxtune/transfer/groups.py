"""Layer groups: which parameters share a learning rate and a frozen state.

Every parameter is in exactly one group, or the error names it.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from jaxtune.arguments import check_function, check_module, described

#: Group names to what is in them: a pattern (a regular expression which matches at the
#: start of a dotted path) or the dotted paths themselves.
Groups = Mapping[str, str | Collection[str]]


class L(list):
    """A list with `map`, so that fastai splitters run as they are written."""

    def __init__(self, *items):
        """Takes the items one by one, or one list of them."""
        single = len(items) == 1 and isinstance(items[0], list | tuple)
        super().__init__(items[0] if single else items)

    def map(self, function: Callable) -> "L":
        """Returns the list of `function(item)`."""
        return L([function(item) for item in self])


def params(module: nnx.Module) -> list[nnx.Param]:
    """Returns every parameter of a module as a list of `nnx.Param`, fastai's `params`.

    Made for splitters such as `L(m[0][:6], m[0][6:], m[1:]).map(params)`.
    """
    check_module(module, "module")
    return [leaf for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))]


def dotted(path: Iterable) -> str:
    """Returns a path of keys as one name: ("body", "conv1", "weight") joined by dots.

    Takes tuples of names or numbers and `jax.tree_util` key paths.
    """
    return ".".join(str(getattr(key, "key", key)) for key in path)


def group_labels(tree: nnx.State, groups: Groups) -> nnx.State:
    """Returns a tree of the parameters' shape which holds each one's group name.

    Args:
        tree: Parameters (arrays or anything else in their place).
        groups: For each name a pattern (regular expression, matched at the start of the
            dotted path) or a collection of dotted paths; ordered from the first layers
            to the last.

    Raises:
        TypeError: If the groups are no dict of names and members.
        ValueError: If a parameter is in no group or in several, or a group is empty;
            the parameters are named. If a pattern is no regular expression.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from jaxtune import group_labels
        >>> tree = nnx.State({"body": {"w": jnp.ones(2)}, "head": {"w": jnp.ones(2)}})
        >>> group_labels(tree, {"first": "body", "last": "head"})["head"]["w"]
        'last'
    """
    if isinstance(tree, nnx.Module):
        raise TypeError(
            "tree must be parameters, split_module(module)[1]; received the module, a "
            f"{type(tree).__name__}."
        )
    matches = {
        name: _matcher(name, each) for name, each in check_groups(groups).items()
    }
    memberships = {
        dotted(path): [name for name, match in matches.items() if match(dotted(path))]
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    }
    problems = [f"  in no group: {name}" for name, n in memberships.items() if not n]
    problems += [
        f"  in {' and '.join(names)}: {name}"
        for name, names in memberships.items()
        if len(names) > 1
    ]
    used = {name for names in memberships.values() for name in names}
    problems += [
        f"  group {name!r} ({members!r}) has no parameter"
        for name, members in groups.items()
        if name not in used
    ]
    if problems:
        listed = "\n".join(problems[:20])
        more = f"\n  … and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise ValueError(
            "every parameter must be in exactly one layer group, and every group must "
            f"have one. Received the groups {', '.join(groups)}:\n{listed}{more}\n"
            "Patterns are regular expressions matched at the start of the dotted path."
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: memberships[dotted(path)][0], tree
    )


def check_groups(groups: Any) -> Groups:
    """Returns layer groups as they are.

    Raises:
        TypeError: If they are no dict of names and members.
        ValueError: If there is none.
    """
    wanted = (
        "groups must be a dict from names to a pattern or to dotted paths, first to "
        'last, such as {"body": r"body\\.", "head": r"head\\."}; received '
    )
    if not isinstance(groups, Mapping):
        raise TypeError(f"{wanted}{described(groups)}.")
    if not groups:
        raise ValueError(f"{wanted}an empty one.")
    for name, members in groups.items():
        listed = isinstance(members, Collection) and not isinstance(members, Mapping)
        if not isinstance(name, str) or not listed:
            raise TypeError(f"{wanted}{described({name: members})}.")
        if not isinstance(members, str) and not all(
            isinstance(member, str) for member in members
        ):
            raise TypeError(f"{wanted}{described({name: members})}.")
    return groups


def _matcher(name: str, members: str | Collection[str]) -> Callable[[str], object]:
    if not isinstance(members, str):
        return frozenset(members).__contains__
    try:
        return re.compile(members).match
    except re.error as error:
        raise ValueError(
            f"groups[{name!r}] is no regular expression: {members!r}, {error}."
        ) from None


def default_groups(module: nnx.Module) -> dict[str, str]:
    """Returns the layer groups of a (body, head) network nobody described otherwise.

    A body with groups of its own (ResNets: early, late, as in fastai; registered
    networks) keeps them; any other is one group. The head is the last group.

    Raises:
        TypeError: If the network is not body and head.
    """
    check_module(module, "module")
    body = getattr(module, "body", None)
    if body is None or getattr(module, "head", None) is None:
        raise TypeError(
            "layer groups are found by themselves where a network is body and head, "
            f"such as create_cnn_model makes; this module is a {type(module).__name__}."
            " Give groups= or split_on=, or let vision_learner cut it."
        )
    inside = getattr(body, "default_groups", None)
    if not inside:
        return {"body": r"body\.", "head": r"head\."}
    groups = {name: rf"body\.({pattern})" for name, pattern in inside}
    return groups | {"head": r"head\."}


def split_groups(module: nnx.Module, split_on: Callable) -> dict[str, frozenset[str]]:
    """Returns groups, as the paths in each, from a fastai splitter.

    Args:
        module: The whole network; the splitter is called with it.
        split_on: `m -> ` lists of parameters which together are all of them (fastai v2:
            `L(m[0][:6], m[0][6:], m[1:]).map(params)`), or modules which together hold
            all of them, or the first module of each later group (fastai v1:
            `(m[0][6], m[1])`).

    Raises:
        TypeError: If the splitter returns something else.
        ValueError: If a parameter is in several groups, or, in fastai v1's form, the
            modules are not in the order of the network.

    References:
        fastai 2.8.12, vision/learner.py `_resnet_split`; fastai 1.0.64, `split_on`.
    """
    check_module(module, "module")
    check_function(split_on, "split_on", "a function of the network, or None")
    answer = split_on(module)
    parts = list(answer) if isinstance(answer, list | tuple) else [answer]
    members = [_variables(part) for part in parts]
    paths = {
        id(leaf): dotted(path)
        for path, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }
    strangers = [leaf for part in members for leaf in part if id(leaf) not in paths]
    if strangers:
        raise ValueError(
            f"split_on returned {len(strangers)} parameters that are not in the "
            "network. Return modules or parameters of the network it is called with."
        )
    chosen = [[paths[id(leaf)] for leaf in part] for part in members]
    if len({name for part in chosen for name in part}) < len(paths):
        chosen = _from_boundaries(module, parts, paths)
    names = [f"group{i}" for i in range(len(chosen))]
    return {
        name: frozenset(part) for name, part in zip(names, chosen, strict=True) if part
    }


def _variables(part) -> list[nnx.Param]:
    if isinstance(part, nnx.Module):
        return params(part)
    if isinstance(part, nnx.Param):
        return [part]
    if isinstance(part, list | tuple):
        return [leaf for item in part for leaf in _variables(item)]
    raise TypeError(
        "split_on must return modules, or lists of parameters, of the network; "
        f"received a {type(part).__name__} among its groups."
    )


def _from_boundaries(module, parts, paths: dict[int, str]) -> list[list[str]]:
    ordered = [paths[id(leaf)] for leaf in _in_order(module)]
    starts = [0]
    for part in parts:
        first = next(iter(_in_order(part)), None)
        if not isinstance(part, nnx.Module) or first is None:
            raise ValueError(
                "split_on left parameters out. Return either groups which together "
                "hold every parameter, or the first module (with parameters) of each "
                "later group, such as `lambda m: (m[0][6], m[1])`."
            )
        starts.append(ordered.index(paths[id(first)]))
    if starts[1:] != sorted(set(starts[1:])):
        raise ValueError(
            "split_on must return the first modules of the later groups in the order "
            f"of the network; received positions {starts[1:]} among its parameters."
        )
    ends = [*starts[1:], len(ordered)]
    return [ordered[a:b] for a, b in zip(starts, ends, strict=True)]


def _in_order(module) -> list[nnx.Param]:
    """Parameters in the order of the network, which a tree sorted by name forgets."""
    children = getattr(module, "names", None)
    if children is None or not hasattr(module, "__getitem__"):
        return params(module) if isinstance(module, nnx.Module) else []
    return [leaf for name in children for leaf in _in_order(module[name])]
