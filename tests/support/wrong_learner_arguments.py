"""Every argument of the public functions, and a dozen kinds of wrong values for each.

Runs in a process of its own, without the tests' type checker, as a user's program does.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from flax import linen, nnx
from runs import make_learner, smallest_network

import jaxtune
from jaxtune import (
    Learner,
    Phase,
    TrainState,
    constant,
    create_body,
    create_cnn_model,
    create_head,
    default_groups,
    group_labels,
    group_optimizer,
    one_cycle,
    split_module,
    vision_learner,
)

PACKAGE = str(Path(jaxtune.__file__).parent) + os.sep


class Thing:
    """A class, where an instance is wanted."""


class LinenNetwork(linen.Module):
    """A module of Flax's older interface."""

    def __call__(self, x):
        return x


#: One value of each kind.
VALUES = {
    "none": None,
    "word": "nonsense",
    "empty": "",
    "whole": 7,
    "fraction": 2.5,
    "nan": float("nan"),
    "infinite": np.float32("inf"),
    "negative": -3,
    "zero": np.int64(0),
    "true": True,
    "false": np.bool_(False),
    "list": [],
    "words": ["a", "b"],
    "long": (1, 2, 3, 4, 5, 6, 7),
    "array": np.zeros((2, 2)),
    "dict": {},
    "set": {1, 2},
    "object": object(),
    "class": Thing,
    "function": len,
    "bytes": b"7",
    "complex": 1j,
}

# What an argument may be given; all other kinds are wrong.
WHOLE_0 = {"whole", "zero"}
WHOLE_1 = {"whole"}
INTEGER = {"whole", "zero", "negative"}
ABOVE_0 = {"whole", "fraction"}
LEAST_0 = {"whole", "fraction", "zero"}
SHARE: set[str] = set()  # above 0 and below 1: no value is
NOTHING: set[str] = set()
FLAG = {"true", "false"}
PATH = {"word"}
FUNCTION = {"function", "class"}
ONE = {"none"}
RATES = LEAST_0 | {"none"}


def cases(learner: Learner, data) -> list[tuple[str, Callable, str, set[str]]]:
    """Returns what is called, with which argument, and the kinds that it may have."""
    net = learner.model
    groups = default_groups(net)
    graphdef, params, model_state = split_module(net)
    labels = group_labels(params, groups)
    rates = dict.fromkeys(groups, 1e-3)
    rngs = nnx.Rngs(0)
    head = functools.partial(create_head, 8, 3, rngs=rngs)
    phase = Phase(None, None, 1, (1e-3,) * len(groups), constant(), 0.0)

    def with_field(name, value):
        fields = {f: getattr(phase, f) for f in phase.__dataclass_fields__}
        return learner.fit_phases([Phase(**fields | {name: value})])

    table: list[tuple[str, Callable, dict[str, set[str]]]] = []

    def of(name: str, call: Callable, /, **allowed: set[str]) -> None:
        table.append((name, call, allowed))

    of(
        "vision_learner",
        lambda **given: vision_learner(
            **{"data": data, "arch": smallest_network, "cut": 2} | given
        ),
        data=NOTHING,
        arch=NOTHING,
        pretrained=FLAG,
        weights=ONE,
        cut=ONE | {"whole", "zero", "negative", "word", "empty", *FUNCTION},
        groups=ONE,
        split_on=ONE | FUNCTION,
        head=ONE,
        normalize=FLAG,
        mean=ONE,
        std=ONE,
        channel_init=NOTHING,
        loss=ONE | {"function"},
        metrics=ONE
        | {"list", "words", "long", "array", "dict", "set", "bytes"}
        | {"class", "function"},
        norms=NOTHING,
        optimizer=NOTHING,
        # Whether there is one for each layer group is known with the network.
        lr=LEAST_0 | {"long"},
        wd=LEAST_0,
        moms=NOTHING,
        clip_norm=ONE | ABOVE_0,
        gradient_accumulation_steps=WHOLE_1,
        precision=NOTHING,
        rematerialize=FLAG,
        mesh=ONE,
        sharding=NOTHING,
        sync_batch_norm=FLAG,
        ema_decay=ONE,
        mixing=ONE,
        validate_also=ONE | {"dict"},
        seed=ONE | INTEGER,
        verbose=FLAG | {"zero"},
        hidden=ONE | {"whole", "list", "long"},
        dropout={"zero"},
        concat_pool=FLAG,
        first_bn=FLAG,
        bn_final=FLAG,
        lin_first=FLAG,
        y_range=ONE,
        init=FUNCTION,
    )
    of("vision_learner", lambda **given: vision_learner(data, **given), body=NOTHING)
    of(
        "Learner",
        lambda **given: Learner(**{"data": data, "model": net} | given),
        data=NOTHING,
        model=NOTHING,
        mean=ONE,
        std=ONE,
        groups=ONE,
    )
    of(
        "fit",
        lambda **given: learner.fit(**{"epochs": 1} | given),
        epochs=WHOLE_1,
        lr=RATES,
        wd=RATES,
        run=ONE | PATH,
        save_every=RATES,
    )
    of(
        "fit_one_cycle",
        lambda **given: learner.fit_one_cycle(**{"epochs": 1} | given),
        epochs=WHOLE_1,
        lr_max=RATES,
        div=ABOVE_0,
        div_final=ABOVE_0,
        pct_start=SHARE,
        moms=ONE,
        name=ONE | {"word", "empty"},
    )
    of(
        "fit_flat_cos",
        lambda **given: learner.fit_flat_cos(**{"epochs": 1} | given),
        epochs=WHOLE_1,
        lr=RATES,
        div_final=ABOVE_0,
        pct_start=SHARE,
    )
    of(
        "fine_tune",
        lambda **given: learner.fine_tune(**{"epochs": 1} | given),
        epochs=WHOLE_1,
        base_lr=RATES,
        lr_scale=ONE | ABOVE_0,
        recipe=NOTHING,
        freeze_epochs=ONE | WHOLE_0,
        lr_mult=ONE | ABOVE_0,
        pct_start=ONE | SHARE,
        div=ONE | ABOVE_0,
        div_final=ONE | ABOVE_0,
        unfreeze_to=ONE | {"zero"},
        wd=RATES,
        moms=ONE,
        cache_features=ONE | WHOLE_0,
        run=ONE | PATH,
        save_every=RATES,
    )
    of(
        "gradual_unfreeze",
        lambda **given: learner.gradual_unfreeze(**{"epochs": 1} | given),
        epochs=WHOLE_1,
        base_lr=LEAST_0,
        epochs_each=WHOLE_1,
        decay=ABOVE_0,
        wd=RATES,
    )
    of("fit_phases", lambda **given: learner.fit_phases(**given), phases=NOTHING)
    for name, allowed in {
        "epochs": WHOLE_1,
        "rates": LEAST_0,
        "schedule": NOTHING,
        "weight_decay": LEAST_0,
        "cache_features": WHOLE_0,
    }.items():
        of("fit_phases", functools.partial(_given, with_field), **{name: allowed})
    of("find_batch_size", learner.find_batch_size, most=ONE | WHOLE_1)
    of(
        "lr_find",
        lambda **given: learner.lr_find(**given),
        start_lr=ABOVE_0,
        end_lr=ABOVE_0,
        num_it=NOTHING,
        stop_div=FLAG,
    )
    of("freeze_to", lambda **given: learner.freeze_to(**given), boundary={"zero"})
    of(
        "plan",
        lambda **given: learner.plan(**given),
        epochs=ONE | WHOLE_1,
        base_lr=RATES,
        phases=ONE,
        lr_scale=ONE | ABOVE_0,
        recipe=NOTHING,
        freeze_epochs=ONE | WHOLE_0,
        lr_mult=ONE | ABOVE_0,
        pct_start=ONE | SHARE,
        unfreeze_to=ONE | {"zero"},
    )
    of("diff", learner.diff, since=ONE | WHOLE_1 | PATH | {"empty"})
    of(
        "assert_frozen",
        learner.assert_frozen,
        groups=ONE | {"list", "dict", "words", "word", "empty"},
    )
    of("save", lambda **given: learner.save(**{"path": "x"} | given), path=PATH)
    of("save", lambda **given: learner.save(**{"path": "x"} | given), with_opt=FLAG)
    of(
        "load",
        lambda **given: learner.load(**{"path": "nowhere"} | given),
        path=PATH,
        phase=NOTHING,
        with_opt=FLAG,
        which=NOTHING,
    )
    of("extend", lambda **given: learner.extend(**{"data": data} | given), data=NOTHING)
    of(
        "extend",
        lambda **given: learner.extend(**{"data": data} | given),
        reorder=FLAG,
        init=FUNCTION,
    )
    of(
        "continue_from",
        lambda **given: jaxtune.continue_from(
            **{"path": "nowhere", "data": data} | given
        ),
        path=PATH,
        data=NOTHING,
        which=NOTHING,
        extend=FLAG,
        reorder=FLAG,
        module=ONE,
        at=ONE,
        init=ONE,
        optimizer=NOTHING,
        wd=LEAST_0,
        seed=ONE | INTEGER,
    )
    of(
        "load_predictor",
        lambda **given: jaxtune.load_predictor(**{"path": "nowhere"} | given),
        path=PATH,
        module=ONE,
        which=NOTHING,
    )
    of(
        "create_cnn_model",
        lambda **given: create_cnn_model(
            **{"arch": jaxtune.resnet18, "num_classes": 3, "pretrained": False} | given
        ),
        arch=NOTHING,
        num_classes=WHOLE_1,
        head=ONE,
        in_channels=WHOLE_1,
        channel_init=NOTHING,
        rngs=ONE,
    )
    of(
        "create_body",
        lambda **given: create_body(**{"module": smallest_network()} | given),
        module=NOTHING,
        in_channels=WHOLE_1,
    )
    of(
        "inspect_cuts",
        lambda **given: jaxtune.inspect_cuts(**{"module": smallest_network()} | given),
        module=NOTHING,
        in_channels=WHOLE_1,
        size=WHOLE_1,
    )
    of("num_features", lambda **given: jaxtune.num_features(**given), body=NOTHING)
    of(
        "create_head",
        lambda **given: create_head(
            **{"num_features": 8, "num_classes": 3, "rngs": rngs} | given
        ),
        num_features=WHOLE_1,
        num_classes=WHOLE_1,
        rngs=NOTHING,
    )
    of("create_head", head, hidden=ONE | {"whole", "list", "long"}, dropout={"zero"})
    of("create_head", head, y_range=ONE, init=FUNCTION, first_bn=FLAG)
    for name in ("default_groups", "params", "evaluating", "split_module"):
        of(name, getattr(jaxtune, name), module=NOTHING)
    for name in ("norm_paths", "no_decay_paths", "first_layer_kernels"):
        of(name, getattr(jaxtune, name), module=NOTHING)
    of(
        "split_groups",
        lambda **given: jaxtune.split_groups(
            **{"module": net, "split_on": lambda m: (m[1],)} | given
        ),
        module=NOTHING,
        split_on=FUNCTION,
    )
    of("group_labels", lambda **given: group_labels(params, **given), groups=NOTHING)
    of(
        "extend_outputs",
        lambda **given: jaxtune.extend_outputs(
            **{"network": net, "old_classes": "abc", "new_classes": "abcd"} | given
        ),
        network=NOTHING,
        old_classes={"list", "words", "long", "dict", "set", "array", "bytes"},
        in_channels=WHOLE_1,
        init=FUNCTION,
    )
    of(
        "Architecture",
        lambda **given: jaxtune.resnet18(**given),
        pretrained=FLAG,
        weights=ONE,
        num_classes=ONE | WHOLE_1,
        in_channels=WHOLE_1,
        channel_init=NOTHING,
        stride_in_1x1={"false"},
        read_classifier={"true"},
        draw_classifier=FLAG,
        rngs=ONE,
    )
    of("read_weights", jaxtune.read_weights, path=PATH)
    of(
        "adapt_channels",
        lambda **given: jaxtune.adapt_channels(
            np.zeros((2, 3, 1, 1)), **{"in_channels": 4} | given
        ),
        in_channels=WHOLE_1,
        channel_init=NOTHING,
    )
    of(
        "one_cycle",
        lambda **given: one_cycle(**{"total_steps": 9} | given),
        total_steps=WHOLE_1,
        pct_start=SHARE,
        div=ABOVE_0,
        div_final=ABOVE_0,
        momentums=NOTHING,
    )
    of(
        "flat_cosine",
        lambda **given: jaxtune.flat_cosine(**{"total_steps": 9} | given),
        total_steps=WHOLE_1,
        pct_start=SHARE,
        div_final=ABOVE_0,
        momentum={"zero"},
    )
    of("constant", constant, total_steps=WHOLE_1, momentum={"zero"})
    of(
        "exponential",
        lambda **given: jaxtune.exponential(
            **{"total_steps": 9, "start": 1.0, "stop": 2.0} | given
        ),
        total_steps=WHOLE_1,
        start=ABOVE_0,
        stop=ABOVE_0,
    )
    of(
        "slanted_triangular",
        lambda **given: jaxtune.slanted_triangular(**{"total_steps": 9} | given),
        total_steps=WHOLE_1,
        cut_fraction=SHARE,
        ratio=ABOVE_0,
        momentum={"zero"},
    )
    of(
        "curve",
        lambda **given: jaxtune.curve(
            **{"ends": (1.0,), "starts": (1.0,), "stops": (1.0,)} | given
        ),
        ends={"list"},
        starts={"list", "long"},
        stops={"list", "long"},
        kind={"zero"} | {"list", "long"},
    )
    of(
        "over_updates",
        lambda **given: jaxtune.over_updates(
            **{"schedule": constant(), "gradient_accumulation_steps": 2} | given
        ),
        schedule=NOTHING,
        gradient_accumulation_steps=WHOLE_1,
    )
    of(
        "resolve_rates",
        lambda **given: jaxtune.resolve_rates(**{"rates": 1.0, "count": 3} | given),
        rates=LEAST_0,
        count=WHOLE_1,
    )
    of(
        "fine_tune_phases",
        lambda **given: jaxtune.fine_tune_phases(
            **{"num_groups": 3, "steps_per_epoch": 2, "epochs": 1} | given
        ),
        num_groups=WHOLE_1,
        steps_per_epoch=WHOLE_1,
        epochs=WHOLE_1,
        base_lr=LEAST_0,
        lr_scale=ABOVE_0,
        freeze_epochs=WHOLE_0,
        lr_mult=ABOVE_0,
        weight_decay=LEAST_0,
        momentums=NOTHING,
        unfreeze_to={"zero"},
        cache_features=WHOLE_0,
    )
    of(
        "gradual_phases",
        lambda **given: jaxtune.gradual_phases(
            **{"num_groups": 3, "steps_per_epoch": 2, "epochs": 1} | given
        ),
        num_groups=WHOLE_1,
        epochs=WHOLE_1,
        base_lr=LEAST_0,
        epochs_each=WHOLE_1,
        decay=ABOVE_0,
        weight_decay=LEAST_0,
        schedule=FUNCTION,
    )
    of(
        "boundary_index",
        lambda **given: jaxtune.boundary_index(**given, groups=["a", "b"]),
        boundary={"zero"},
    )
    of(
        "group_optimizer",
        lambda **given: group_optimizer(
            **{"labels": labels, "rates": rates, "schedule": constant()} | given
        ),
        rates=NOTHING,
        schedule=NOTHING,
        optimizer=NOTHING,
        weight_decay=LEAST_0,
        clip_norm=ONE | ABOVE_0,
        gradient_accumulation_steps=WHOLE_1,
    )
    of(
        "optimizer_labels",
        lambda **given: jaxtune.optimizer_labels(
            **{"labels": labels, "frozen": ()} | given
        ),
        frozen={"list", "words", "dict", "array"},
        norms=NOTHING,
    )
    of(
        "training_view",
        lambda **given: jaxtune.training_view(
            **{"module": net, "labels": labels, "frozen": ()} | given
        ),
        module=NOTHING,
        frozen={"list", "words", "dict", "array"},
        norms=NOTHING,
    )
    of(
        "with_precision",
        lambda **given: jaxtune.with_precision(
            **{"module": net, "precision": "bfloat16"} | given
        ),
        module=NOTHING,
        precision=NOTHING,
    )
    of(
        "init_average",
        lambda **given: jaxtune.init_average(params, model_state, **given),
        decay=SHARE,
    )
    of(
        "make_train_step",
        lambda **given: jaxtune.make_train_step(
            **{"graphdef": graphdef, "tx": optax.sgd(1.0), "loss": jaxtune.mse} | given
        ),
        graphdef=NOTHING,
        tx=NOTHING,
        loss={"function"},
        prepare=ONE | FUNCTION,
        apply=FUNCTION,
        mixing=ONE,
    )
    of(
        "make_eval_step",
        lambda **given: jaxtune.make_eval_step(
            **{"graphdef": graphdef, "loss": jaxtune.mse} | given
        ),
        graphdef=NOTHING,
        loss={"function"},
        metrics=ONE | {"dict"},
        prepare=ONE | FUNCTION,
        apply=FUNCTION,
    )
    of(
        "make_predict_step",
        lambda **given: jaxtune.make_predict_step(**{"graphdef": graphdef} | given),
        graphdef=NOTHING,
        activation=FUNCTION,
        prepare=ONE | FUNCTION,
        apply=FUNCTION,
    )
    of("compile_step", jaxtune.compile_step, step=FUNCTION)
    of(
        "TrainState.create",
        lambda **given: TrainState.create(params, model_state, **given),
        tx=NOTHING,
    )
    of(
        "summarize",
        lambda **given: jaxtune.summarize(**{"module": net} | given),
        module=NOTHING,
        in_channels=WHOLE_1,
        norms=NOTHING,
    )
    of(
        "plan_phases",
        lambda **given: jaxtune.plan_phases(
            **{"module": net, "groups": groups, "phases": [phase]} | given
        ),
        module=NOTHING,
        groups=NOTHING,
        phases=NOTHING,
        norms=NOTHING,
        optimizer=NOTHING,
        averages=FLAG,
        gradient_accumulation_steps=WHOLE_1,
        in_channels=WHOLE_1,
        first_phase=WHOLE_1,
    )
    of(
        "suggest_rates",
        lambda **given: jaxtune.suggest_rates([1.0], [1.0], **given),
        num_it=WHOLE_1,
    )
    return [
        (name, call, argument, allowed)
        for name, call, arguments in table
        for argument, allowed in arguments.items()
    ]


def _given(call: Callable, **given) -> object:
    [(name, value)] = given.items()
    return call(name, value)


def problem_of(call: Callable, argument: str, value: object) -> str | None:
    """Returns what is wrong with the answer to a wrong value; None if nothing is."""
    try:
        call(**{argument: value})
    except (TypeError, ValueError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        if not last.filename.startswith(PACKAGE):
            return f"not by a check of ours: {type(error).__name__}: {error}"
        if argument not in str(error):
            return f"doesn't name the argument: {error}"
        return None
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "taken"


def main(root: str) -> None:
    """Prints each wrong value that is taken, or refused without a good word."""
    learner = make_learner(Path(root), verbose=False)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: (
            compiled.append(event)
            if event.endswith("backend_compile_duration")
            else None
        )
    )
    count = 0
    for name, call, argument, allowed in cases(learner, learner.data):
        for kind in VALUES.keys() - allowed:
            count += 1
            before = len(compiled)
            problem = problem_of(call, argument, VALUES[kind])
            if problem is None and len(compiled) > before:
                problem = "refused after something was compiled"
            if problem is not None:
                print(f"{name}({argument}={kind}): {problem}"[:300])
    assert len(learner.history) == 0
    print(count, "wrong values were tried")


if __name__ == "__main__":
    main(sys.argv[1])
