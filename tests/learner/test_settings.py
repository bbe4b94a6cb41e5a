"""Options of a learner: names and other libraries' numbers do, the rest is refused."""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from runs import smallest_network
from small import small_network

from jaxtune import (
    IMAGENET_MEAN,
    ImageDataLoaders,
    adam,
    create_body,
    cross_entropy,
    error_rate,
    load_predictor,
    resnet18,
    sgd,
    vision_learner,
)
from jaxtune.learner.settings import check_statistics

learner = functools.partial(
    vision_learner, arch=smallest_network, cut=2, hidden=(), verbose=False
)


@pytest.fixture(scope="module")
def data(root):
    return ImageDataLoaders.from_folder(
        root, size=16, batch_size=32, seed=0, workers=0, cache_bytes=0
    )


class Linen(linen.Module):
    def __call__(self, x):
        return x


class TwoOutputs(nnx.Module):
    def __call__(self, x):
        return x, x.mean()


def test_names_stand_for_jaxtunes_own(data):
    model = vision_learner(data, "resnet18", pretrained=False, verbose=0)
    assert model.network["arch"] == "resnet18"
    model = learner(
        data, optimizer="sgd", loss="cross_entropy", metrics=["accuracy", error_rate]
    )
    assert list(model._trainer.programs.metrics) == ["accuracy", "error_rate"]
    assert model._trainer.optimizer is sgd
    assert model._trainer.programs.loss is cross_entropy
    with pytest.raises(ValueError, match="'resnet-18'. Did you mean resnet18"):
        vision_learner(data, "resnet-18")
    with pytest.raises(ValueError, match="'acuracy'. Did you mean accuracy"):
        learner(data, metrics="acuracy")
    with pytest.raises(ValueError, match="'adamw'. Did you mean adam"):
        learner(data, optimizer="adamw")


def test_numbers_of_numpy_and_jax_train_as_pythons_do(data):
    """One run in which every number is another library's, and the same in Python's."""
    losses = []
    for whole, number in ((np.int64, np.float64), (int, float)):
        model = learner(
            data,
            seed=whole(3),
            lr=number(1e-3),
            wd=number(0.01),
            moms=tuple(map(number, (0.95, 0.85, 0.95))),
            clip_norm=number(1.0),
            gradient_accumulation_steps=whole(1),
            dropout=number(0.25),
        )
        model.freeze_to(whole(-1))
        options = {"freeze_epochs": whole(1), "lr_mult": number(10.0)}
        history = model.fine_tune(whole(1), number(1e-2), **options)
        losses.append([row.valid_loss for row in history])
    assert losses[0] == losses[1]
    rates = []
    for lr in ([1e-3, 1e-2], np.array([1e-3, 1e-2]), slice(np.float64(1e-3), 1e-2)):
        model.fit(jnp.int32(1), lr, wd=jnp.float32(0.01))
        *_, record = model.history.phases.values()
        rates.append(record.phase.rates)
    assert rates == [(1e-3, 1e-2)] * 3


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"optimizer": optax.adamw(1e-3)}, "made already.*optax.adamw.learning_rate"),
        ({"optimizer": optax.adamw}, "the function adamw takes no momentum"),
        ({"optimizer": lambda **numbers: None}, "made None"),
        ({"loss": nnx.BatchNorm}, "the class BatchNorm. Write BatchNorm"),
        ({"arch": Linen()}, "a Flax Linen module, Linen. nnx.bridge.ToNNX"),
        ({"arch": Linen}, "a Flax Linen module, Linen"),
        (
            {"arch": None, "cut": None, "body": TwoOutputs()},
            "returns a tuple",
        ),
        ({"arch": lambda depth: None}, "needs depth, which nothing here gives"),
        ({"opt_func": adam}, "vision_learner has no option opt_func. There are"),
        ({"hiden": (8,)}, "no option hiden. Did you mean hidden"),
    ],
)
def test_a_wrong_type_is_said_with_what_to_write(data, options, match):
    with pytest.raises(TypeError, match=match):
        learner(data, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"arch": smallest_network(), "weights": "x.pth"}, "leave weights out"),
        ({"arch": smallest_network(), "channel_init": "repeat"}, "leave channel_init"),
        ({"channel_init": "repeat"}, "takes no argument `channel_init`"),
        ({"arch": resnet18, "weights": "x", "pretrained": False}, "pretrained=False"),
        ({"normalize": False, "mean": 0.5, "std": 0.5}, "leave out the one"),
        ({"mean": 0.5}, "both mean and std"),
        ({"y_range": (0, 1)}, "the data has classes: leave it out"),
    ],
)
def test_what_would_have_no_effect_is_refused(data, options, match):
    with pytest.raises((TypeError, ValueError), match=match):
        learner(data, **options)


def test_what_a_method_would_not_use_or_cannot_is_refused(data):
    model = learner(data)
    with pytest.raises(ValueError, match="comes with epochs and lr_mult"):
        model.plan(3, lr_mult=10, phases=[])
    with pytest.raises(ValueError, match="rise from start_lr to end_lr"):
        model.lr_find(start_lr=1, end_lr=1e-3)
    assert len(model.history) == 0


def test_statistics_of_ones_own_are_used_and_kept(data, tmp_path):
    network = small_network(rngs=nnx.Rngs(0))
    body = create_body(network, "layer1")
    model = vision_learner(
        data, body=body, mean=(0.5, 0.25, 0.125), std=np.float32(0.5), verbose=False
    )
    expected = (0.5, 0.25, 0.125), (0.5, 0.5, 0.5)
    programs = model._trainer.programs
    assert (programs.mean, programs.std) == expected
    model.save(tmp_path / "kept")
    predictor = load_predictor(tmp_path / "kept", module=model.model)
    kept = predictor.meta["mean"], predictor.meta["std"]
    assert tuple(map(tuple, kept)) == expected
    photo = data.valid_items.paths[0]
    np.testing.assert_allclose(
        predictor.predict(photo).probabilities,
        model.predict(photo).probabilities,
        rtol=1e-5,
    )


def test_guessed_statistics_are_said(data):
    with pytest.warns(UserWarning, match="nothing says which mean and standard"):
        model = learner(data, arch=smallest_network())
    assert model._trainer.programs.mean == IMAGENET_MEAN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Random values have no statistics that they were made for.
        learner(data)
        learner(data, arch=smallest_network(), pretrained=False)
        learner(data, arch=smallest_network(), normalize=False)
        learner(data, arch=smallest_network(), mean=0.5, std=0.5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_statistics_are_one_for_each_channel(channels):
    values = [0.1 * (i + 1) for i in range(channels)]
    for given in (values, tuple(values), np.array(values), jnp.array(values)):
        mean, std = check_statistics(given, given, channels)
        np.testing.assert_allclose(mean, values, rtol=1e-6)
        assert mean == std and len(mean) == channels
    assert check_statistics(0, 1, channels) == ((0.0,) * channels, (1.0,) * channels)
    for wrong, match in (
        ([*values, 0.5], f"mean must be {channels} number"),
        ([float("nan")] * channels, r"mean\[0\] must be a number"),
        ([123.0] * channels, "mean is of images in 0..1.*Divide it by 255"),
    ):
        with pytest.raises(ValueError, match=match):
            check_statistics(wrong, values, channels)
    with pytest.raises(ValueError, match=r"std\[0\] must be a number above 0"):
        check_statistics(values, [0.0] * channels, channels)
