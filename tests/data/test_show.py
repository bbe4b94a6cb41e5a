"""A shown batch is what training sees, pixel for pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxtune.data import ImageDataLoaders, show_batch, training_images
from jaxtune.data.show import augmented_rows, first_rows
from jaxtune.train import TrainState, cross_entropy, make_train_step, split_module


def make(channels=3, labels=None, **options):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 20, channels), np.uint8)
    labels = ["ant", "bee", "cat"] * 8 if labels is None else labels
    options = {"size": (8, 12), "batch_size": 5, "workers": 0, "seed": 3} | options
    return ImageDataLoaders.from_arrays((images, labels), **options)


def shown(figure):
    """Pixels and titles of a figure, in their order."""
    axes = figure.axes
    return [a.images[0].get_array() for a in axes], [a.get_title() for a in axes]


class Seen(Exception):
    """Carries images out of a train step."""


def test_what_is_shown_is_what_a_train_step_sees():
    pytest.importorskip("matplotlib")
    data = make()
    draw = jax.jit(
        functools.partial(
            training_images, size=data.size, augmentation=data.augmentation
        )
    )

    def prepare(batch, key):
        raise Seen(draw(batch, key))

    graphdef, params, model_state = split_module(nnx.Linear(1, 1, rngs=nnx.Rngs(0)))
    tx = optax.sgd(1.0)
    step = make_train_step(graphdef, tx, loss=cross_entropy, prepare=prepare)
    state = TrainState.create(params, model_state, tx)
    for epoch in (0, 2):
        batch = next(data.train.batches(epoch))
        key = jax.random.fold_in(jax.random.key(data.seed), epoch)
        with pytest.raises(Seen) as caught:
            step(state, jax.tree.map(jnp.asarray, batch), key)
        images, titles = shown(data.show_batch(max_n=4, epoch=epoch))
        assert len(images) == 4
        np.testing.assert_allclose(images, caught.value.args[0][:4], atol=1e-6)
        assert titles == [data.classes[label] for label in batch["label"][:4]]


def test_validation_and_host_photos_are_shown_as_they_are():
    pytest.importorskip("matplotlib")
    data = make()
    images, titles = shown(show_batch(data, split="valid"))
    rows = first_rows(data.valid, 9)
    np.testing.assert_array_equal(images, rows["image"])
    assert len(titles) == len(data.valid_items) == 6
    images, _ = shown(show_batch(data, augment=False, max_n=7))
    np.testing.assert_array_equal(images, first_rows(data.train, 7)["image"])
    assert images[0].shape == (16, 24, 3)
    again, _ = shown(show_batch(data.train, max_n=7))
    np.testing.assert_array_equal(again, images)


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_other_channels_are_shown(channels):
    pytest.importorskip("matplotlib")
    images, _ = shown(make(channels).show_batch(max_n=2))
    assert images[0].shape == ((8, 12, 3) if channels > 3 else (8, 12))


def test_titles_of_every_kind():
    pytest.importorskip("matplotlib")
    tags = [("sea", "sun"), (), ("sea",)] * 8
    _, titles = shown(make(labels=tags, augmentation=None).show_batch(max_n=24))
    assert set(titles) == {"sea;sun", "", "sea"}
    _, titles = shown(make(labels=[0.5, 1.25, 3.0] * 8).show_batch(max_n=24))
    assert set(titles) == {"0.5", "1.25", "3"}


def test_copies_of_a_photo_are_augmented_each_by_its_own_draw():
    data = make(weights=[1.0] + [0.0] * 23, valid_pct=0.01)
    rows = first_rows(data.train, 5)
    assert (rows["index"] % data.train.num_items == rows["index"][0]).all()
    assert len(set(rows["index"].tolist())) == 5
    views = np.asarray(augmented_rows(data, rows))
    assert all(not np.array_equal(views[0], view) for view in views[1:])


def test_rows_go_on_over_batches_and_leave_padding_out():
    data = make()
    rows = first_rows(data.valid, 50)
    assert rows["mask"].all() and rows["index"].tolist() == list(range(6))
    with pytest.raises(ValueError, match="max_n must be .*at least 1; received 0"):
        show_batch(data, max_n=0)
    with pytest.raises(ValueError, match="'train' or 'valid'; received 'test'"):
        show_batch(data, split="test")
