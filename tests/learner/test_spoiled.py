"""A training that came to no number, and which values the learner holds then."""

import jax.numpy as jnp
import numpy as np
import pytest
import runs
from photos import make_photos

from jaxtune import NonFiniteLossError, cross_entropy
from jaxtune.loop.recovery import has_diverged


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=4)


def learner(root, **options):
    return runs.make_learner(root, verbose=False, **options)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}])
def test_a_spoiled_network_is_given_back_as_it_was(root, options):
    model = learner(root, **options)
    for before in (0, 1):
        if before:
            model.fit(1, 1e-3)
        bits, figures = runs.bits(model), model.validate()
        for train in (model.fit, model.fit_one_cycle, model.fine_tune):
            with pytest.raises(NonFiniteLossError, match="beginning of this phase"):
                train(2, 1e10)
            assert runs.bits(model) == bits and model.validate() == figures
            model.freeze()
        assert len(model.history) == before
    model.fit(1, 1e-3)


def spoil(model, factor):
    """Multiplies the network's first kernel, between two steps of a fit."""
    running = model._trainer.running
    params = running.state.params
    params["body"]["conv1"]["weight"] = params["body"]["conv1"]["weight"] * factor


def test_it_goes_back_to_the_newest_whole_epoch(root):
    from jaxtune import LambdaCallback

    model, kept = learner(root), []

    def note(epoch, logs):
        kept.append(runs.bits(model))

    def break_it(batch, logs):
        if len(kept) == 2 and batch == 1:
            spoil(model, jnp.nan)

    callbacks = LambdaCallback(on_epoch_end=note, on_train_batch_end=break_it)
    with pytest.raises(NonFiniteLossError, match="after epoch 2 of this phase"):
        model.fit(4, 1e-3, callbacks=callbacks)
    assert len(model.history) == 2 and runs.bits(model) == kept[-1]
    assert model._trainer.step == 6 and model._trainer.opt_state is None


def test_a_network_that_validation_finds_spoiled(root):
    from jaxtune import LambdaCallback

    model = learner(root)
    bits = runs.bits(model)

    def last(batch, logs):
        if batch == 2:
            spoil(model, jnp.inf)

    with pytest.raises(NonFiniteLossError, match="outputs for the validation photos"):
        model.fit(1, 1e-3, callbacks=LambdaCallback(on_train_batch_end=last))
    assert runs.bits(model) == bits and not model.history


def hard_on_red(logits, label):
    return cross_entropy(logits, label) / jnp.where(label == 2, 0.0, 1.0)


def test_a_loss_that_is_infinite_is_not_the_networks_fault(root):
    model = learner(root, loss=hard_on_red)
    bits = runs.bits(model)
    with pytest.raises(NonFiniteLossError, match="those before that step"):
        model.fit(1, 1e-3)
    assert runs.bits(model) == bits
    with pytest.warns(UserWarning, match="outputs are finite; look at loss and labels"):
        assert model.validate()["loss"] == np.inf
    with pytest.raises(NonFiniteLossError, match="before any rate was tried"):
        model.lr_find(num_it=8)


def test_a_network_without_numbers_says_so_everywhere(root):
    model = learner(root)
    kernel = model.model[0].conv1.weight
    kernel.set_value(kernel[...] * jnp.nan)
    with pytest.warns(UserWarning, match="NaN or infinite; its weights have diverged"):
        assert np.isnan(model.validate()["loss"])
    for answer in (
        model.get_preds,
        lambda: model.predict(model.data.valid.items.paths[0]),
    ):
        with pytest.warns(UserWarning, match="photos are NaN or infinite; its weights"):
            answer()
    with pytest.raises(NonFiniteLossError, match="already: its weights have diverged"):
        model.fit(1)
    with pytest.raises(NonFiniteLossError, match="before any rate was tried"):
        model.lr_find(num_it=8)


def test_the_finder_stops_where_there_is_no_number(root):
    found = learner(root).lr_find(num_it=40, end_lr=1e30)
    assert len(found.losses) < 40


@pytest.mark.parametrize(
    ("loss", "before", "diverged"),
    [
        (1.0, 1.0, False), (3.9, 1.0, False), (4.1, 1.0, True), (np.nan, 1.0, True),
        (np.inf, 1.0, True), (-3.0, -1.0, False), (1.9, -1.0, False), (2.1, -1.0, True),
        (np.nan, np.nan, False), (1.0, np.inf, False),
    ],
)  # fmt: skip
def test_when_a_loss_says_so(loss, before, diverged):
    assert has_diverged(loss, before) is diverged
