"""Which attributes of a learner can be assigned, and what to do for the others."""

import difflib

from jaxtune.arguments import either

#: Names that can't be assigned, and what to do instead.
_INSTEAD = {
    "model": "Change its layers in place (learner.model[0][0] = layer), or make a new "
    "learner: Learner(data, model).",
    "groups": "Make a new learner with groups= or split_on=.",
    "frozen_groups": "Call freeze(), unfreeze() or freeze_to(group).",
    "history": "Training writes it. A new learner starts with an empty one.",
    "network": "It says how the network was built. Make a new learner.",
    "mesh": "Make a new learner with mesh=.",
    "num_programs": "It counts what was compiled.",
    "columns": "They follow from metrics and validate_also.",
}

#: Names of the same settings in other libraries, or in other places of jaxtune.
_ELSEWHERE = {
    "dls": "data", "dataloaders": "data", "loss_func": "loss", "criterion": "loss",
    "opt_func": "optimizer", "opt": "optimizer", "learning_rate": "lr",
    "weight_decay": "wd", "momentum": "moms", "moments": "moms", "metric": "metrics",
    "dtype": "precision",
}  # fmt: skip
_ELSEWHERE_INSTEAD = {
    "callbacks": "Give callbacks to each fit: fit(1, callbacks=...).",
    "cbs": "Give callbacks to each fit: fit(1, callbacks=...).",
    "epochs": "Give the number of epochs to the fit.",
    "batch_size": "Assign data made with another batch_size=: learner.data = data.",
    "size": "Assign data made with another size=: learner.data = data.",
    "augmentation": "Assign data made with another augmentation=: learner.data = data.",
    "classes": "Call learner.extend(data) with data that has more classes.",
    "mean": "Make a new learner with mean= and std=.",
    "std": "Make a new learner with mean= and std=.",
    "boundary": "Call freeze_to(group).",
    "frozen": "Call freeze(), unfreeze() or freeze_to(group).",
    "trainable": "Call freeze(), unfreeze() or freeze_to(group).",
}


def check_assignable(cls: type, name: str) -> None:
    """Raises if an attribute of a learner can't be assigned.

    Args:
        cls: `Learner`, or a subclass, whose own attributes can all be assigned.
        name: Name of the attribute.

    Raises:
        AttributeError: If it can't be assigned; the message says what to do instead.
    """
    attribute = getattr(cls, name, None)
    has_setter = isinstance(attribute, property) and attribute.fset is not None
    if name.startswith("_") or has_setter or not is_ours(cls, name):
        return
    if name in _INSTEAD:
        raise AttributeError(f"{name} can't be assigned. {_INSTEAD[name]}")
    if attribute is not None:
        raise AttributeError(
            f"{name} can't be assigned. It is a method: call it, or override it in "
            "a subclass."
        )
    raise AttributeError(f"a learner has no {name!r}. {_meant(cls, name)}")


def is_ours(cls: type, name: str) -> bool:
    """Returns whether an attribute, or else the class itself, is defined by jaxtune."""
    owners = [owner for owner in cls.__mro__ if name in vars(owner)]
    owner = owners[0] if owners else cls
    return owner.__module__.partition(".")[0] == "jaxtune"


def _meant(cls: type, name: str) -> str:
    if name in _ELSEWHERE_INSTEAD:
        return _ELSEWHERE_INSTEAD[name]
    if name in _ELSEWHERE:
        return f"What you mean is called {_ELSEWHERE[name]} here."
    known = {
        name
        for name in dir(cls)
        if isinstance(value := getattr(cls, name), property)
        and value.fset
        and is_ours(cls, name)
    }
    close = difflib.get_close_matches(name.lower(), [*known, *_ELSEWHERE], n=2)
    if close:
        return f"Did you mean {either([_ELSEWHERE.get(n, n) for n in close])}?"
    return f"There are {', '.join(sorted(known))}."
