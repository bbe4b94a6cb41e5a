"""The average of the weights, recomputed with NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from flax import nnx

from jaxtune.models import BatchNorm, Linear, Sequential
from jaxtune.train import (
    FROZEN,
    TrainState,
    averaged,
    check_decay,
    cross_entropy,
    decay_after,
    group_optimizer,
    init_average,
    make_train_step,
    one_cycle,
    optimizer_labels,
    raw_values,
    split_module,
    still_statistics,
    training_view,
    update_average,
    with_raw_values,
)
from jaxtune.transfer import create_cnn_model, default_groups, group_labels

KEY = jax.random.key(0)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.normal(size=(count, 8, 8, 8, 3)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, (count, 8)), jnp.int32),
    }


def make(frozen=("body",), norms="frozen", decay=0.6):
    """A step and a state with an average; the second group is the head."""
    net = create_cnn_model(runs.smallest_network, 3, cut=2, hidden=(4,))
    groups = group_labels(split_module(net)[1], default_groups(net))
    view = training_view(net, groups, frozen, norms=norms)
    labels = optimizer_labels(groups, frozen, norms=norms)
    rates = {"body": 1e-2, "head": 1e-1}
    tx = group_optimizer(labels, rates, one_cycle(10))
    graphdef, params, model_state = split_module(view)
    average = init_average(
        params, model_state, labels, decay=decay, still=still_statistics(view)
    )
    state = TrainState.create(params, model_state, tx, ema=average)
    step = make_train_step(graphdef, tx, loss=cross_entropy, labels=labels)
    return step, jax.tree.map(jnp.copy, state)


@pytest.fixture(scope="module")
def trained():
    """States before and after each of ten steps, the network whole, one compile."""
    step, state = make(frozen=())
    states, step, data = [state], jax.jit(step), batches(10)
    for i in range(10):
        batch = {name: rows[i] for name, rows in data.items()}
        states.append(step(states[-1], batch, KEY)[0])
    return step, states


def test_ten_steps_are_what_numpy_says(trained):
    states = trained[1]
    for kind in ("params", "model_state"):
        values = [jax.tree.leaves(getattr(state, kind)) for state in states]
        found = jax.tree.leaves(getattr(states[-1].ema, kind))
        assert len(found) == len(values[0]) > 5
        for i, average in enumerate(found):
            expected = np.asarray(values[0][i], np.float64)
            for t in range(10):
                left = min(0.6, (1 + t) / (10 + t))
                new = np.asarray(values[t + 1][i], np.float64)
                expected = left * expected + (1 - left) * new
            np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(average, values[-1][i])
    assert int(states[-1].ema.updates) == 10


def test_what_is_validated_is_the_average_and_the_rest_as_it_is(trained):
    state = trained[1][-1]
    params, model_state = averaged(state)
    assert jax.tree.structure(params) == jax.tree.structure(state.params)
    assert (
        params["head"]["linear1"]["weight"]
        is (state.ema.params["head"]["linear1"]["weight"])
    )
    without = state.replace(ema=None)
    assert averaged(without) == (state.params, state.model_state)
    assert raw_values(without) is None
    assert model_state is not state.model_state


def test_another_decay_and_a_step_of_no_number_compile_nothing(trained):
    step, states = trained
    before, state = step._cache_size(), states[-1]
    batch = {name: rows[0] for name, rows in batches(1, seed=1).items()}
    other = state.replace(ema=init_average(state.params, state.model_state, decay=0.05))
    after, _ = step(other, batch, KEY)
    # The average left a twentieth, and followed the values with the rest.
    weight = lambda tree: np.asarray(tree["head"]["linear2"]["weight"])  # noqa: E731
    expected = 0.05 * weight(state.params) + 0.95 * weight(after.params)
    np.testing.assert_allclose(weight(after.ema.params), expected, rtol=1e-5)

    bad = {**batch, "image": batch["image"].at[0].set(jnp.nan)}
    after, metrics = step(state, bad, KEY)
    assert not metrics["finite"] and int(after.step) == int(state.step) + 1
    jax.tree.map(np.testing.assert_array_equal, after.ema, state.ema)
    assert step._cache_size() == before


@pytest.mark.parametrize("norms", ["frozen", "stats"])
def test_what_is_frozen_holds_no_average(norms):
    step, state = make(norms=norms)
    assert not jax.tree.leaves(state.ema.params["body"])
    held = jax.tree.leaves(state.ema.params["head"])
    assert len(held) == len(jax.tree.leaves(state.params["head"]))
    # The statistics of a frozen group have an average where they move.
    moving = len(jax.tree.leaves(state.ema.model_state["body"]))
    assert moving == {"frozen": 0, "stats": 2}[norms]
    batch = {name: rows[0] for name, rows in batches(1).items()}
    after, _ = jax.eval_shape(step, state, batch, KEY)
    assert after == jax.eval_shape(lambda: state)


def test_what_does_not_move_keeps_its_bits():
    values = nnx.State({"a": jnp.asarray([0.1, 3e-7, -12345.678])})
    average = init_average(values, nnx.State({}), decay=0.7)
    update = jax.jit(lambda average: update_average(average, values, nnx.State({})))
    for _ in range(20):
        average = update(average)
    np.testing.assert_array_equal(average.params["a"], values["a"])
    assert int(average.updates) == 20


def test_the_decay_rises_to_its_limit():
    assert float(decay_after(0, 0.999)) == pytest.approx(0.1)
    assert float(decay_after(99, 0.999)) == pytest.approx(100 / 109)
    assert float(decay_after(10**6, 0.999)) == pytest.approx(0.999)
    assert float(decay_after(890, 0.99)) == pytest.approx(0.99, abs=1e-5)


@pytest.mark.parametrize("decay", [0, 1, 1.5, -0.1, float("nan")])
def test_a_decay_lies_between_0_and_1(decay):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        check_decay(decay)
    check_decay(None)


def test_it_composes_with_scan_and_vmap_over_decays(trained):
    step, states = trained
    seen = [(state.params, state.model_state) for state in states[1:]]
    seen = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seen)

    def average_all(decay):
        first = init_average(states[0].params, states[0].model_state, decay=decay)
        return jax.lax.scan(
            lambda average, values: (update_average(average, *values), None),
            first,
            seen,
        )[0]

    both = jax.jit(jax.vmap(average_all))(jnp.asarray([0.3, 0.6]))
    one = states[-1].ema
    for several, alone in zip(jax.tree.leaves(both), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(several[1], alone, rtol=1e-5, atol=1e-7)
    weight = both.params["head"]["linear1"]["weight"]
    assert not np.allclose(weight[0], weight[1])

    def train(state):
        return jax.lax.scan(lambda s, b: step(s, b, KEY), state, batches(10))

    after, metrics = jax.eval_shape(train, states[0])
    assert after == jax.eval_shape(lambda: states[0]) and metrics["loss"].shape == (10,)


def test_a_batch_that_only_accumulates_moves_no_average():
    net = Linear(2, 3, rngs=nnx.Rngs(0))
    graphdef, params, model_state = split_module(net)
    labels = jax.tree.map(lambda x: "all", params)
    tx = group_optimizer(
        labels, {"all": 1e-2}, one_cycle(4), gradient_accumulation_steps=2
    )
    average = init_average(params, model_state)
    state = TrainState.create(params, model_state, tx, ema=average)
    step, updates = jax.jit(make_train_step(graphdef, tx, loss=cross_entropy)), []
    batch = {"image": jnp.ones((4, 2)), "label": jnp.arange(4) % 3}
    for i in range(4):
        after, _ = step(state, batch, KEY)
        updates.append(int(after.ema.updates))
        if i == 2:
            jax.tree.map(np.testing.assert_array_equal, after.ema, state.ema)
        state = after
    assert updates == [0, 1, 1, 2]


def test_a_state_comes_back_from_its_average_and_raw_values(trained):
    state = trained[1][5]
    params, model_state = averaged(state)
    kept = state.replace(params=params, model_state=model_state)
    again = with_raw_values(kept, raw_values(state))
    jax.tree.map(np.testing.assert_array_equal, again, state)


def test_counts_and_keys_have_no_average():
    net = Sequential({"linear": Linear(2, 3, rngs=nnx.Rngs(0)), "norm": BatchNorm(3)})
    net.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    _, params, model_state = split_module(net)
    labels = jax.tree.map(lambda x: "all", params)
    labels["linear"]["bias"] = FROZEN
    average = init_average(params, model_state, labels)
    assert set(jax.tree.leaves(jax.tree.map(jnp.shape, average.params["linear"])))
    assert average.params["linear"]["bias"] is None
    assert not jax.tree.leaves(average.model_state["drop"])
    state = TrainState.create(params, model_state, optax.sgd(0.1), ema=average)
    assert averaged(state)[1]["drop"] == model_state["drop"]
