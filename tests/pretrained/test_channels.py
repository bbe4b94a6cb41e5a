import numpy as np
import pytest

from jaxtune.pretrained import adapt_channels, adapt_statistics

WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(np.float32)


def test_a_grey_photo_is_seen_as_before():
    grey = adapt_channels(WEIGHT, 1)
    np.testing.assert_allclose(grey, WEIGHT.sum(axis=1, keepdims=True))


def test_two_channels_get_the_first_two():
    for policy in ("zero", "repeat"):
        two = adapt_channels(WEIGHT, 2, channel_init=policy)
        np.testing.assert_allclose(two, WEIGHT[:, :2] * 1.5, rtol=1e-6)


def test_more_channels_by_either_policy():
    zero = adapt_channels(WEIGHT, 13)
    np.testing.assert_array_equal(zero[:, :3], WEIGHT)
    assert not zero[:, 3:].any()
    repeat = adapt_channels(WEIGHT, 13, channel_init="repeat")
    np.testing.assert_allclose(repeat[:, 4], WEIGHT[:, 1] * 3 / 13, rtol=1e-6)
    np.testing.assert_allclose(repeat[:, 12], WEIGHT[:, 0] * 3 / 13, rtol=1e-6)
    assert adapt_channels(WEIGHT, 3) is WEIGHT


def test_statistics_follow_the_weights():
    mean = (0.4, 0.5, 0.6)
    assert adapt_statistics(mean, 3) == mean
    assert adapt_statistics(mean, 1) == pytest.approx((0.5,))
    assert adapt_statistics(mean, 2) == (0.4, 0.5)
    assert adapt_statistics(mean, 5) == pytest.approx((0.4, 0.5, 0.6, 0.5, 0.5))
    assert adapt_statistics(mean, 5, channel_init="repeat") == (0.4, 0.5, 0.6, 0.4, 0.5)


def test_what_is_unknown_is_refused():
    with pytest.raises(ValueError, match="must be 'zero' or 'repeat'; received"):
        adapt_channels(WEIGHT, 4, channel_init="mean")
    with pytest.raises(
        ValueError, match="in_channels must be a whole number of at least 1"
    ):
        adapt_channels(WEIGHT, 0)
