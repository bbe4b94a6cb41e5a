"""Arrays are found under whatever names a file gives them."""

import pytest

from jaxtune.pretrained.naming import named_as

ORDER = ("conv1", "relu", "layer1", "fc")
WANTED = ("conv1.weight", "layer1.0.bias", "fc.weight")
BODY = {"conv1.weight": 1, "layer1.0.bias": 2}
OTHER = {"conv1.weight": 8, "layer1.0.bias": 9, "fc.weight": 9}


def below(prefix, arrays):
    return {prefix + name: each for name, each in arrays.items()}


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "encoder.", "module.encoder_q.", "a.b.c."],
)
def test_any_prefix_is_removed_and_what_is_beside_keeps_its_name(prefix):
    file = below(prefix, BODY) | {"queue": 3, "projector.0.weight": 4}
    assert named_as(file, WANTED) == BODY | {"queue": 3, "projector.0.weight": 4}


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ("module.encoder_q.", "module.encoder_k."),
        ("teacher.backbone.", "student.backbone."),
        ("online_network.", "target_network."),
        ("", "ema."),
    ],
)
def test_of_two_networks_the_one_that_is_meant_is_taken(chosen, other):
    """Also where the other one alone has a classifier."""
    for file in (
        below(chosen, BODY) | below(other, OTHER),
        below(other, OTHER) | below(chosen, BODY),
    ):
        found = named_as(file, WANTED, order=ORDER, optional="fc")
        assert {name: found[name] for name in BODY} == BODY


@pytest.mark.parametrize("prefix", ["", "backbone.", "0."])
def test_a_list_of_children_gets_their_names(prefix):
    file = below(prefix, {"0.weight": 1, "2.0.bias": 2}) | {"head.weight": 3}
    assert named_as(file, WANTED, order=ORDER) == BODY | {"head.weight": 3}


def test_another_networks_names_stay():
    assert named_as({"a.b": 1}, WANTED, order=ORDER) == {"a.b": 1}
