"""One sentence for each wrong argument, and NumPy's and JAX's scalars are numbers."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.arguments import (
    check_choice,
    check_flag,
    check_function,
    check_instance,
    check_integer,
    check_number,
    check_numbers,
    check_path,
    described,
    is_traced,
    like,
)


@pytest.mark.parametrize("of", [int, np.int64, np.uint8, np.array, jnp.asarray])
def test_any_librarys_integers_are_integers(of):
    found = check_integer(of(3), "epochs", least=1, most=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    "of",
    [int, float, np.float16, np.float32, np.int8, np.array, jnp.asarray, jnp.bfloat16],
)
def test_any_librarys_numbers_are_numbers(of):
    found = check_number(of(2), "lr", above=0)
    assert found == 2.0 and type(found) is float


@pytest.mark.parametrize(
    "value",
    [None, "3", 3.0, True, np.bool_(1), np.float32(3), [3], np.array([3]), 3j, int],
)
def test_what_is_no_integer_is_a_type_error(value):
    with pytest.raises(TypeError, match="epochs must be a whole number; received"):
        check_integer(value, "epochs")


@pytest.mark.parametrize(
    "value",
    [None, "0.1", True, np.bool_(1), [0.1], {}, 1j, object(), float, np.array([0.1])],
)
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match="lr must be a number; received"):
        check_number(value, "lr")


@pytest.mark.parametrize(
    ("value", "limits", "wanted"),
    [
        (float("nan"), {}, "a finite number; received nan"),
        (float("inf"), {"least": 0}, "a number of at least 0; received inf"),
        (0, {"above": 0}, "a number above 0; received 0"),
        (jnp.float32(-1), {"least": 0}, "a number of at least 0; received"),
        (
            1.0,
            {"least": 0, "below": 1},
            "a number of at least 0 and below 1; received 1.0",
        ),
        (2, {"least": 0, "most": 1}, "a number from 0 to 1; received 2"),
    ],
)
def test_a_number_out_of_range_is_a_value_error(value, limits, wanted):
    with pytest.raises(ValueError, match=f"dropout must be {wanted}"):
        check_number(value, "dropout", **limits)


def test_several_numbers():
    for given in ([1, 2], (1, 2), np.array([1, 2]), jnp.array([1.0, 2.0]), range(1, 3)):
        assert check_numbers(given, "std", count=2, above=0) == (1.0, 2.0)
    for wrong in (1.0, "12", {1: 2}, None, np.zeros((1, 2)), {1.0, 2.0}):
        with pytest.raises(TypeError, match="std must be 2 numbers; received"):
            check_numbers(wrong, "std", count=2)
    with pytest.raises(ValueError, match="std must be 2 numbers; received 3:"):
        check_numbers([1, 2, 3], "std", count=2)
    with pytest.raises(ValueError, match=r"std\[1\] must be a number above 0"):
        check_numbers([1, 0], "std", above=0)
    with pytest.raises(TypeError, match=r"std\[0\] must be a number"):
        check_numbers(["a"], "std")


def test_a_string_is_no_flag_and_a_choice_is_a_string():
    assert check_flag(np.bool_(False), "verbose") is False
    for wrong in ("no", 0, 1, None, []):
        with pytest.raises(TypeError, match="verbose must be True or False"):
            check_flag(wrong, "verbose")
    assert check_choice(None, "which", ("a", "b"), or_none=True) is None
    with pytest.raises(TypeError, match="which must be 'a' or 'b'; received None"):
        check_choice(None, "which", ("a", "b"))
    with pytest.raises(ValueError, match="which must be 'a', 'b' or None; received"):
        check_choice("c", "which", ("a", "b"), or_none=True)


def test_a_class_in_an_instances_place_is_told_its_brackets():
    with pytest.raises(TypeError, match=r"the class Path. Write Path\(...\) with"):
        check_instance(Path, "path", Path, "a path")
    assert check_function(len, "loss", "a function") is len
    with pytest.raises(TypeError, match="loss must be a function; received 'mse'"):
        check_function("mse", "loss", "a function")


def test_paths():
    assert check_path(Path("a"), "run") == Path("a")
    assert check_path(None, "run", or_none=True) is None
    with pytest.raises(TypeError, match="run must be a path, .* received 3"):
        check_path(3, "run")
    with pytest.raises(ValueError, match="run must be a path, .* received ''"):
        check_path("", "run")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 2)), r"a numpy array of shape \(3, 2\)"),
        (jnp.zeros(3), r"a jax array of shape \(3,\)"),
        (len, "the function len"),
        (object(), "an object"),
        (functools.partial(len), "a partial"),
        ("x" * 200, "a str, 'xxx.* …"),
        (jax.nn.relu, "a custom_jvp|the function relu"),
    ],
)
def test_a_value_is_shown_in_short(value, words):
    assert re.match(words, described(value)) and len(described(value)) < 100


def test_like_names_are_proposed():
    known = ["resnet18", "resnet34"]
    assert like("ResNet-34", known) == "Did you mean resnet34 or resnet18?"
    assert like("vgg", known) == "There are resnet18, resnet34."


def test_what_is_traced_is_no_number_yet():
    seen = []
    jax.jit(lambda x: seen.append(is_traced(x)))(1.0)
    assert seen == [True] and not is_traced(jnp.ones(()))
