"""The pure functions with `jax_enable_x64` on: each dtype is chosen, none inherited."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import smallest_network

from jaxtune import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CohenKappa,
    CutMix,
    F1Score,
    MixUp,
    RocAuc,
    TrainState,
    accuracy,
    adam,
    aug_transforms,
    averaged,
    binary_cross_entropy,
    create_cnn_model,
    cross_entropy,
    default_groups,
    evaluating,
    flat_cosine,
    focal,
    group_labels,
    group_optimizer,
    init_average,
    make_eval_step,
    make_predict_step,
    make_train_step,
    mse,
    one_cycle,
    optimizer_labels,
    resolve_rates,
    sgd,
    split_module,
    training_images,
    training_view,
    validation_images,
)

STATISTICS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
BATCH = {
    "image": np.random.RandomState(0).randint(0, 255, (4, 24, 24, 3), np.uint8),
    "aspect": np.ones(4, np.float32),
    "index": np.arange(4, dtype=np.int32),
    "label": np.array([0, 1, 2, 1], np.int32),
    "mask": np.array([True, True, True, False]),
}
AUGMENTATION = aug_transforms(min_scale=0.5, flip_vert=True, pad_mode="zeros")


def augmented(batch, key):
    return training_images(
        batch, key, size=(16, 16), augmentation=AUGMENTATION, **STATISTICS
    )


def all_that_is_computed(mixing, optimizer, schedule) -> dict:
    """A state, a step from it, its average, an evaluation and predictions."""
    network = create_cnn_model(smallest_network, 3, cut=2, pretrained=False)
    groups = default_groups(network)
    labels = group_labels(split_module(network)[1], groups)
    trained = optimizer_labels(labels, ())
    rates = resolve_rates(slice(1e-4, 1e-3), len(groups))
    rates = dict(zip(groups, rates, strict=True))
    tx = group_optimizer(trained, rates, schedule, optimizer=optimizer, clip_norm=1.0)
    graphdef, params, model_state = split_module(training_view(network, labels, ()))
    average = init_average(params, model_state, trained, decay=0.9)
    state = TrainState.create(params, model_state, tx, ema=average)
    step = make_train_step(
        graphdef, tx, loss=cross_entropy, labels=trained, prepare=augmented,
        mixing=mixing,
    )  # fmt: skip
    stepped = jax.eval_shape(step, state, BATCH, jax.random.key(1))
    metrics = {"accuracy": accuracy, "f1": F1Score(average="macro"), "auc": RocAuc()}
    metrics["kappa"] = CohenKappa()

    def plain(images):
        return validation_images(images, **STATISTICS)

    graphdef, *values = split_module(evaluating(network))
    evaluate = make_eval_step(
        graphdef, loss=focal, metrics=metrics,
        prepare=lambda batch: plain(batch["image"]),
    )  # fmt: skip
    predict = make_predict_step(graphdef, prepare=plain)
    return {
        "state": state,
        "step": stepped,
        "average": averaged(state),
        "eval": jax.eval_shape(evaluate, *values, BATCH),
        "predict": jax.eval_shape(predict, *values, BATCH["image"]),
    }


@pytest.mark.parametrize(
    ("mixing", "optimizer", "schedule"),
    [(MixUp(), adam, one_cycle(10)), (CutMix(), sgd, flat_cosine(10))],
    ids=["mixup", "cutmix"],
)
def test_no_array_has_another_dtype_than_without(mixing, optimizer, schedule):
    with jax.enable_x64(False):
        narrow = all_that_is_computed(mixing, optimizer, schedule)
    with jax.enable_x64(True):
        wide = all_that_is_computed(mixing, optimizer, schedule)
        assert jnp.zeros(()).dtype == jnp.float64
    same = zip(
        jax.tree_util.tree_leaves_with_path(wide), jax.tree.leaves(narrow), strict=True
    )
    for (path, found), wanted in same:
        assert found.dtype == wanted.dtype, jax.tree_util.keystr(path)


def test_what_is_drawn_for_a_photo_has_the_same_values():
    with jax.enable_x64(False):
        wanted = jax.jit(augmented)(BATCH, jax.random.key(1))
    with jax.enable_x64(True):
        found = jax.jit(augmented)(BATCH, jax.random.key(1))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_losses_are_float32():
    logits, label = jnp.ones((4, 3), jnp.float32), jnp.zeros(4, jnp.int32)
    with jax.enable_x64(True):
        for found in (
            cross_entropy(logits, label, label_smoothing=0.1, class_weights=[1, 2, 3]),
            focal(logits, label, gamma=2, class_weights={0: 1, 1: 2, 2: 3}),
            binary_cross_entropy(logits, logits, pos_weight=[1.0, 2.0, 3.0]),
            mse(logits, logits),
        ):
            assert found.dtype == jnp.float32
