import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.checkpoint import CheckpointMismatchError
from jaxtune.checkpoint.leaves import Leaf
from jaxtune.checkpoint.matching import (
    castable,
    check_same_state,
    is_optimizer_state,
    is_random_state,
    match_arrays,
)
from jaxtune.checkpoint.storage import FORMAT, Stored

F32 = np.dtype("float32")


def leaves(**shapes):
    """Returns leaves from dotted names (with __ for the dots) and shapes."""
    return {tuple(name.split("__")): Leaf(shape, F32) for name, shape in shapes.items()}


def stored(path, own=True, **shapes):
    return Stored(
        path=path,
        tree=None,
        single=False,
        leaves=leaves(**shapes),
        checksums={},
        format=FORMAT if own else None,
    )


@pytest.fixture
def ours(tmp_path):
    return stored(
        tmp_path,
        params__body__w=(2, 3),
        params__head__w=(3, 4),
        model_state__body__mean=(3,),
        opt_state__0__mu__body__w=(2, 3),
        opt_state__0__mu__head__w=(3, 4),
    )


WANTED = {
    "params": leaves(body__w=(2, 3), head__w=(3, 4)),
    "model_state": leaves(body__mean=(3,)),
}


def error(*arguments, **options):
    with pytest.raises(CheckpointMismatchError) as caught:
        match_arrays(*arguments, **options)
    return str(caught.value)


def test_each_array_has_its_name_in_the_checkpoint(ours):
    assert match_arrays(ours, WANTED) == {
        "params": {
            ("body", "w"): ("params", "body", "w"),
            ("head", "w"): ("params", "head", "w"),
        },
        "model_state": {("body", "mean"): ("model_state", "body", "mean")},
    }


def test_what_an_average_is_made_of_is_not_the_network(ours, tmp_path):
    raw = leaves(
        raw__params__body__w=(2, 3),
        raw__params__head__w=(3, 4),
        raw__model_state__body__mean=(3,),
    )
    expected = match_arrays(ours, WANTED)
    ours.leaves.update(raw)
    assert match_arrays(ours, WANTED) == expected
    # In others' checkpoints the word means nothing.
    theirs = stored(tmp_path, own=False)
    theirs.leaves.update(raw)
    assert match_arrays(theirs, WANTED)["params"]["head", "w"][:2] == ("raw", "params")


def test_both_sides_of_a_difference_are_listed(ours):
    wanted = {
        "params": leaves(body__w=(2, 4), fc=(1,), head__w=(3, 4)),
        "model_state": {},
    }
    text = error(ours, wanted)
    assert str(ours.path) in text
    assert "- params/fc (1,): only in the network" in text
    assert "+ model_state/body.mean (3,): only in the checkpoint" in text
    assert "! params/body.w: (2, 3) in the checkpoint, (2, 4) in the network" in text


def test_long_lists_are_cut_but_counted_on_both_sides(tmp_path):
    many = {f"params__a{i:02}": (1,) for i in range(30)}
    wanted = {"params": leaves(**{f"b{i:02}": (1,) for i in range(20)})}
    text = error(stored(tmp_path, **many), {**wanted, "model_state": {}})
    assert text.count("only in the network") == 12 and "- … and 8 more" in text
    assert text.count("only in the checkpoint") == 12 and "+ … and 18 more" in text


@pytest.mark.parametrize(
    ("here", "there", "expected"),
    [
        ("float32", "bfloat16", True),
        ("float16", "float32", True),
        ("float64", "float32", True),
        ("int32", "int32", True),
        ("int32", "int64", False),
        ("int32", "float32", False),
        ("float32", "int32", False),
        ("bool", "float32", False),
        ("complex64", "float32", False),
    ],
)
def test_only_floats_are_cast(here, there, expected):
    here, there = Leaf((2,), jnp.dtype(here)), Leaf((2,), jnp.dtype(there))
    assert castable(here, there) is expected
    assert not castable(here, there._replace(shape=(2, 1)))


def test_a_dtype_that_does_not_fit_is_listed(ours):
    wanted = {
        **WANTED,
        "model_state": {("body", "mean"): Leaf((3,), np.dtype("int32"))},
    }
    text = error(ours, wanted)
    assert (
        "body.mean: (3,) float32 in the checkpoint, (3,) int32 in the network" in text
    )


def test_the_way_out_is_told_only_where_it_is_one(ours):
    head = {**WANTED, "params": leaves(body__w=(2, 3), head__w=(3, 9))}
    assert "partial='body' restores that" in error(ours, head)
    assert match_arrays(ours, head, partial=("body",))["params"] == {
        ("body", "w"): ("params", "body", "w")
    }
    nothing = {"params": leaves(body__w=(9, 3), head__w=(3, 9)), "model_state": {}}
    assert "partial" not in error(ours, nothing)
    assert "Build the network it was saved from" in error(ours, nothing)
    three = {
        "params": leaves(body__w=(2, 3), head__w=(3, 4), neck__w=(1,)),
        "model_state": leaves(body__mean=(3,)),
    }
    assert "partial=('body', 'head') restores that" in error(ours, three)


def test_a_part_must_agree_entirely(ours):
    wanted = {"params": leaves(body__w=(2, 3), body__v=(1,)), "model_state": {}}
    text = error(ours, wanted, partial=("body",))
    assert "- params/body.v (1,): only in the network" in text
    assert "+ model_state/body.mean (3,): only in the checkpoint" in text
    assert "head" not in text


def test_partial_is_a_whole_word(ours):
    with pytest.raises(ValueError, match="its children are body, head"):
        match_arrays(ours, WANTED, partial=("bod",))


def test_others_are_found_below_any_prefix(tmp_path):
    others = stored(
        tmp_path,
        own=False,
        state__net__body__w__value=(2, 3),
        state__net__head__w__value=(3, 4),
        state__net__body__mean__value=(3,),
        state__net__drop__rngs__key__value=(2,),
        state__step=(),
    )
    matched = match_arrays(others, WANTED)
    assert matched["params"][("head", "w")] == ("state", "net", "head", "w", "value")
    assert matched["model_state"][("body", "mean")][:2] == ("state", "net")


def test_the_place_looked_at_is_told(tmp_path):
    others = stored(
        tmp_path,
        own=False,
        net__body__w=(2, 3),
        net__head__w=(3, 9),
        stats__body__mean=(3,),
    )
    text = error(others, WANTED)
    assert "params looked for below net; model_state looked for below stats" in text


def test_several_places_are_an_error(tmp_path):
    twice = {
        f"{place}__{name}": shape
        for place in ("ema", "net")
        for name, shape in (("body__w", (2, 3)), ("head__w", (3, 4)))
    }
    text = error(stored(tmp_path, own=False, **twice, s__body__mean=(3,)), WANTED)
    assert "several places: ema, net. Choose one, such as prefix='ema'" in text
    assert "Build the network" not in text
    both = stored(tmp_path, own=False, **twice, s__body__mean=(3,))
    matched = match_arrays(both, WANTED, prefix="net")
    assert matched["params"]["head", "w"] == ("net", "head", "w")
    assert matched["model_state"] == {("body", "mean"): ("s", "body", "mean")}
    text = error(both, WANTED, prefix="net.body")
    assert "- params/head.w (3, 4): only in the network" in text
    assert "params looked for below net.body" in text
    with pytest.raises(ValueError, match="prefix='model'; its children are ema, net"):
        match_arrays(both, WANTED, prefix="model")


def test_the_statistics_nearest_to_the_parameters_are_theirs(tmp_path):
    networks = {
        f"{network}__{tree}__{name}": shape
        for network in ("ema", "net")
        for tree, name, shape in (
            ("params", "body__w", (2, 3)),
            ("params", "head__w", (3, 4)),
            ("stats", "body__mean", (3,)),
        )
    }
    others = stored(tmp_path, own=False, **networks)
    assert "several places: ema.params, net.params" in error(others, WANTED)
    matched = match_arrays(others, WANTED, prefix="net.params")
    assert matched["model_state"]["body", "mean"] == ("net", "stats", "body", "mean")
    as_far = stored(
        tmp_path,
        own=False,
        params__body__w=(2, 3),
        params__head__w=(3, 4),
        one__body__mean=(3,),
        two__body__mean=(3,),
    )
    assert "(model_state) in several places: one, two." in error(as_far, WANTED)


def test_an_optimizers_state_must_be_the_same(tmp_path):
    here = leaves(count=(), mu__w=(2,))
    check_same_state(tmp_path, here, dict(here))
    with pytest.raises(
        CheckpointMismatchError, match="opt_state/nu.w .2,.: only in the"
    ):
        check_same_state(tmp_path, here, {**here, **leaves(nu__w=(2,))})
    with pytest.raises(
        CheckpointMismatchError, match=r"averages other parameters:\n  - raw/nu.w"
    ):
        check_same_state(tmp_path, here, {**here, **leaves(nu__w=(2,))}, item="raw")
    half = {**here, ("mu", "w"): Leaf((2,), jnp.dtype("bfloat16"))}
    with pytest.raises(CheckpointMismatchError, match="bfloat16 in the optimizer"):
        check_same_state(tmp_path, here, half)


def foreign(tmp_path, *dotted):
    return stored(
        tmp_path, own=False, **{name.replace(".", "__"): (1,) for name in dotted}
    )


NAMES = ("body.w", "body.b", "head.w")
NETWORK = {
    "params": {tuple(name.split(".")): Leaf((1,), F32) for name in NAMES},
    "model_state": {},
}


@pytest.mark.parametrize("prefix", ["", "model.", "state.params.0."])
def test_a_tree_is_found_below_any_prefix(tmp_path, prefix):
    names = [prefix + name for name in NAMES]
    beside = ["step"] if prefix else []
    matched = match_arrays(foreign(tmp_path, *names, *beside), NETWORK)["params"]
    assert matched == {
        tuple(name.split(".")): tuple(f"{prefix}{name}".split(".")) for name in NAMES
    }


def test_a_parameter_may_be_called_value(tmp_path):
    held = foreign(tmp_path, "model.query", "model.value", "model.query.value")
    wanted = {"params": leaves(query=(1,), value=(1,)), "model_state": {}}
    assert "+ params/query.value (1,): only in the checkpoint" in error(held, wanted)
    alone = {"params": leaves(value=(1,)), "model_state": {}}
    assert match_arrays(foreign(tmp_path, "model.value"), alone)["params"] == {
        ("value",): ("model", "value")
    }


def test_every_name_must_be_there(tmp_path):
    text = error(foreign(tmp_path, "net.body.w", "net.body.b", "x.head.w"), NETWORK)
    assert "- params/head.w (1,): only in the network" in text
    assert "params looked for below net" in text


def test_moments_are_not_parameters(tmp_path):
    moments = [f"{p}.{name}" for p in ("opt_state.0.mu", "x.nu") for name in NAMES]
    own = [f"params.{name}" for name in NAMES]
    matched = match_arrays(foreign(tmp_path, *own, *moments), NETWORK)["params"]
    assert {name[0] for name in matched.values()} == {"params"}
    assert "- params/head.w" in error(foreign(tmp_path, *moments), NETWORK)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("opt_state.0.mu", True),
        ("state.optimizer.opt_state.1", True),
        ("mu", True),
        ("optimizer.model", False),
        ("state.params", False),
        ("options", False),
    ],
)
def test_what_belongs_to_an_optimizer(prefix, expected):
    assert is_optimizer_state(tuple(prefix.split("."))) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("drop.rngs.key", True),
        ("drop.rngs.default.count.value", True),
        ("rngs.key", True),
        ("attention.key", False),
        ("rngs", False),
    ],
)
def test_what_is_random_state(name, expected):
    assert is_random_state(tuple(name.split("."))) is expected
