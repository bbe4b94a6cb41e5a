"""Numbers in capitals were given by torch 2.13 and fastai 2.8.12."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.train import (
    binary_cross_entropy,
    cross_entropy,
    default_activation,
    default_loss,
    focal,
    identity,
    l1,
    mse,
    weighted_cross_entropy,
)

LOGITS = jnp.asarray([[2.0, -1.0, 0.5], [0.1, 0.2, -3.0], [-4.0, 1.0, 7.0]])
LABEL = jnp.asarray([0, 2, 1])
SEVERAL = jnp.asarray([[1.0, 0, 1], [0, 0, 0], [1, 1, 0]])
WEIGHTS = (0.5, 1.0, 2.0)
SMOOTHED = [0.3913113474845886, 3.6555702686309814, 5.969159126281738]
WEIGHTED_SMOOTHED = [0.28272122144699097, 7.134583473205566, 5.969159126281738]
WEIGHTED = [0.12065566331148148, 7.731140613555908, 6.002492427825928]
WEIGHTED_MEAN = 3.9583683013916016
FOCAL = [0.011092753149569035, 3.705291986465454, 5.972846031188965]
BINARY = [0.3047555983066559, 0.53037428855896, 3.7774410247802734]
BINARY_POSITIVE = [0.6631162762641907, 0.53037428855896, 5.0646138191223145]
SQUARED, ABSOLUTE = 9.477778434753418, 1.9777777194976807


def test_cross_entropy_by_hand_one_value_a_row():
    logits = jnp.asarray([[0.0, 0.0], [2.0, -1.0]])
    losses = cross_entropy(logits, jnp.asarray([0, 1]))
    np.testing.assert_allclose(losses, [np.log(2), np.log1p(np.exp(3.0))], rtol=1e-6)


def test_label_smoothing_is_fastais():
    got = cross_entropy(LOGITS, LABEL, label_smoothing=0.1)
    np.testing.assert_allclose(got, SMOOTHED, rtol=1e-6)
    got = weighted_cross_entropy(WEIGHTS, label_smoothing=0.1)(LOGITS, LABEL)
    np.testing.assert_allclose(got, WEIGHTED_SMOOTHED, rtol=1e-6)
    plain = cross_entropy(LOGITS, LABEL, label_smoothing=0.0)
    np.testing.assert_array_equal(plain, cross_entropy(LOGITS, LABEL))


def test_class_weights_multiply_and_give_torchs_mean():
    losses = weighted_cross_entropy(WEIGHTS)(LOGITS, LABEL)
    np.testing.assert_allclose(losses, WEIGHTED, rtol=1e-6)
    weights = np.asarray(WEIGHTS)[np.asarray(LABEL)]
    assert float(losses.mean() / weights.mean()) == pytest.approx(WEIGHTED_MEAN)


def test_balanced_weights_give_torchs_mean_over_the_photos():
    rng = np.random.default_rng(0)
    label = rng.choice(3, 60, p=[0.6, 0.3, 0.1])
    logits = jnp.asarray(rng.normal(size=(60, 3)), jnp.float32)
    balanced = 60 / (3 * np.bincount(label))
    losses = weighted_cross_entropy(balanced)(logits, jnp.asarray(label))
    plain = np.asarray(cross_entropy(logits, jnp.asarray(label)))
    torch = np.average(plain, weights=balanced[label])
    assert float(losses.mean()) == pytest.approx(torch, rel=1e-5)


def test_weights_are_readable_in_a_recipe():
    loss = weighted_cross_entropy(np.asarray(WEIGHTS, np.float32))
    assert isinstance(loss, functools.partial) and loss.func is cross_entropy
    assert loss.keywords == {"class_weights": WEIGHTS}


@pytest.mark.parametrize("wrong", [(1.0, -1.0), (0.0, 0.0), (1.0, float("nan")), ()])
def test_impossible_weights_are_refused(wrong):
    with pytest.raises(
        ValueError, match=r"class_weights( needs|\[1\] must be).*(got|received)"
    ):
        weighted_cross_entropy(wrong)


@pytest.mark.parametrize("number", [2, 4])
def test_weights_of_other_classes_are_refused(number):
    for loss in (cross_entropy, focal):
        with pytest.raises(ValueError, match=r"3 classes; got shape \(. *,\)"):
            loss(LOGITS, LABEL, class_weights=(1.0,) * number)
    with pytest.raises(ValueError, match="pos_weight needs"):
        binary_cross_entropy(LOGITS, SEVERAL, pos_weight=(1.0,) * number)


def test_focal_is_fastais():
    np.testing.assert_allclose(focal(LOGITS, LABEL), FOCAL, rtol=1e-5)
    plain = cross_entropy(LOGITS, LABEL)
    np.testing.assert_allclose(focal(LOGITS, LABEL, gamma=0), plain, rtol=1e-6)
    weighted = focal(LOGITS, LABEL, class_weights=WEIGHTS)
    np.testing.assert_allclose(
        weighted, np.asarray(FOCAL) * np.asarray(WEIGHTS)[np.asarray(LABEL)], rtol=1e-5
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_slope_where_the_network_is_sure(gamma):
    sure = jnp.asarray([[200.0, 0.0, 0.0]])
    slope = jax.grad(lambda x: focal(x, jnp.asarray([0]), gamma=gamma).sum())(sure)
    assert np.isfinite(slope).all()


def test_binary_cross_entropy_is_torchs_mean_over_classes():
    got = binary_cross_entropy(LOGITS, SEVERAL)
    np.testing.assert_allclose(got, BINARY, rtol=1e-6)
    got = binary_cross_entropy(LOGITS, SEVERAL, pos_weight=(2.0, 0.5, 3.0))
    np.testing.assert_allclose(got, BINARY_POSITIVE, rtol=1e-6)
    whole = binary_cross_entropy(LOGITS, SEVERAL.astype(jnp.int32))
    np.testing.assert_allclose(whole, BINARY, rtol=1e-6)
    far = binary_cross_entropy(jnp.asarray([[1e4, -1e4]]), jnp.asarray([[0.0, 1.0]]))
    np.testing.assert_allclose(far, [1e4], rtol=1e-6)


def test_errors_of_values():
    assert float(mse(LOGITS, SEVERAL).mean()) == pytest.approx(SQUARED)
    assert float(l1(LOGITS, SEVERAL).mean()) == pytest.approx(ABSOLUTE)
    outputs, target = jnp.asarray([[1.0], [-2.0]]), jnp.asarray([3.0, 1.0])
    for a in (outputs, outputs[:, 0]):
        for b in (target, target[:, None], target.astype(jnp.int32)):
            assert mse(a, b).tolist() == [4.0, 9.0]
            assert l1(a, b).tolist() == [2.0, 3.0]


@pytest.mark.parametrize("loss", [mse, l1])
def test_other_numbers_of_outputs_are_refused(loss):
    with pytest.raises(ValueError, match=r"outputs are \(2, 1\), targets \(2, 3\)"):
        loss(jnp.ones((2, 1)), jnp.ones((2, 3)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (cross_entropy, LABEL),
        (functools.partial(cross_entropy, label_smoothing=0.1), LABEL),
        (weighted_cross_entropy(WEIGHTS), LABEL),
        (focal, LABEL),
        (binary_cross_entropy, SEVERAL),
        (mse, SEVERAL),
        (l1, SEVERAL),
    ],
)
def test_half_precision_comes_in_and_float32_goes_out(loss, label, dtype):
    got = loss(LOGITS.astype(dtype), label)
    assert got.dtype == jnp.float32 and got.shape == (3,)
    wanted = loss(LOGITS.astype(dtype).astype(jnp.float32), label)
    np.testing.assert_array_equal(got, wanted)
    several = jax.jit(jax.vmap(loss))(LOGITS[None].repeat(2, 0), jnp.stack([label] * 2))
    np.testing.assert_allclose(several[1], loss(LOGITS, label), rtol=1e-5)
    slope = jax.grad(lambda x: loss(x, label).sum())(LOGITS)
    assert np.isfinite(slope).all() and (slope != 0).any()


def test_each_kind_of_labels_has_its_loss_and_activation():
    assert default_loss("single") is cross_entropy
    assert default_loss("multi") is binary_cross_entropy
    assert default_loss("regression") is mse
    assert default_activation("regression") is identity
    assert identity(LOGITS) is LOGITS
    np.testing.assert_allclose(default_activation("single")(LOGITS).sum(-1), 1.0, 1e-6)
    np.testing.assert_allclose(
        default_activation("multi")(LOGITS), 1 / (1 + np.exp(-LOGITS)), rtol=1e-5
    )
    for default in (default_loss, default_activation):
        with pytest.raises(ValueError, match="'single', 'multi' or 'regression'; got"):
            default("both")
