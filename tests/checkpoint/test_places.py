import pytest

from jaxtune.checkpoint.places import Index, is_optimizers, is_random_state

WANTED = [("body", "w"), ("body", "b"), ("head", "w")]


def index(*dotted):
    return Index(tuple(name.split(".")) for name in dotted)


def below(prefix, *more):
    return [prefix + ".".join(name) for name in WANTED] + list(more)


@pytest.mark.parametrize("prefix", ["", "model.", "state.params.0."])
def test_a_tree_is_found_below_any_prefix(prefix):
    found = index(*below(prefix, "step"))
    assert found.places(WANTED) == [tuple(prefix.split(".")[:-1])]


def test_value_at_the_end_of_a_name_does_not_count():
    found = index(*[f"model.{'.'.join(name)}.value" for name in WANTED])
    assert found.places(WANTED) == [("model",)]
    assert found["model", "body", "w"] == ("model", "body", "w", "value")
    assert set(found.below(("model",))) == set(WANTED)


def test_a_parameter_may_be_called_value():
    found = index("model.query", "model.value", "model.query.value")
    assert found["model", "value"] == ("model", "value")
    assert found["model", "query"] == ("model", "query")
    assert len(found.below(("model",))) == 3


def test_every_name_must_be_there():
    found = index("model.body.w", "model.body.b", "other.head.w")
    assert found.places(WANTED) == []
    assert found.nearest(WANTED) == ("model",)
    assert index("x.y").nearest(WANTED) is None


def test_several_places_are_all_told():
    found = index(*below("ema."), *below("params."))
    assert found.places(WANTED) == [("ema",), ("params",)]


def test_moments_are_not_parameters():
    found = index(*below("params."), *below("opt_state.0.mu."), *below("x.nu."))
    assert found.places(WANTED) == [("params",)]
    assert index(*below("opt.0.trace.")).nearest(WANTED) is None


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
    assert is_optimizers(tuple(prefix.split("."))) is expected


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
