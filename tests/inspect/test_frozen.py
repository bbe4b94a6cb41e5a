import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.inspect.diff import FrozenMovedError, Snapshot, check_frozen

LABELS = {"bn": {"weight": "body"}, "fc": {"weight": "head"}}


def values(bn=1.0, fc=1.0, mean=0.5):
    params = {"bn": {"weight": jnp.full(3, bn)}, "fc": {"weight": jnp.full(2, fc)}}
    return params, {"bn": {"mean": jnp.full(3, mean)}}


def phases():
    return [
        Snapshot(1, "phase 1/2", ("body",), *values()),
        Snapshot(2, "phase 2/2", (), *values(fc=2.0)),
    ]


def test_what_trained_while_it_was_not_frozen_is_fine():
    check_frozen(phases(), values(bn=7.0, fc=3.0, mean=0.1), LABELS)
    check_frozen([], values(), LABELS, groups=["body"])


@pytest.mark.parametrize("mean", [0.1, np.nextafter(np.float32(0.5), np.float32(1))])
def test_one_bit_of_a_statistic_is_found_and_named(mean):
    stopped = phases()
    stopped[1] = stopped[1]._replace(model_state=values(mean=mean)[1])
    with pytest.raises(FrozenMovedError, match=r"body, in phase 1/2: bn\.mean$"):
        check_frozen(stopped, values(), LABELS)


def test_it_is_an_assertion_error_and_says_why_norms_moved():
    last = [Snapshot(1, "phase 1", ("body",), *values())]
    with pytest.raises(AssertionError, match='norms="stats" moves the statistics'):
        check_frozen(last, values(mean=1.0), LABELS, norms="stats")
    with pytest.raises(AssertionError, match='norms="train" moves'):
        check_frozen(last, values(bn=1.1), LABELS, norms="train")


def test_groups_of_ones_own_choice_are_held_since_the_first_phase():
    with pytest.raises(FrozenMovedError, match="head, in all training: fc.weight"):
        check_frozen(phases(), values(fc=2.0), LABELS, groups=["head"])
    check_frozen(phases(), values(fc=2.0), LABELS, groups=["body"])
    with pytest.raises(FrozenMovedError, match="body"):
        check_frozen(phases(), values(bn=0.0), LABELS, groups=["body"])
