import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draw import spread
from flax import nnx

from jaxtune.train import (
    FROZEN,
    accumulated_gradients,
    adam,
    constant,
    group_optimizer,
    group_states,
    has_updated,
    one_cycle,
    restart_schedule,
    sgd,
)

TREE = nnx.State(
    {
        "body": {"conv": jnp.asarray([1.0, -2.0]), "bias": jnp.asarray([0.5])},
        "head": {"weight": jnp.asarray([3.0, 4.0])},
    }
)
LABELS = nnx.State(
    {"body": {"conv": "body", "bias": "body"}, "head": {"weight": "head"}}
)
ONLY_HEAD = nnx.State(
    {"body": {"conv": FROZEN, "bias": FROZEN}, "head": {"weight": "head"}}
)


def grads(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), TREE)


def by_hand(p, gs, rates, momentums, wd):
    """fastai's Adam in float64, with the scheduled momentum in its debiasing."""
    p, m, v = np.asarray(p, np.float64), 0.0, 0.0
    for t, (g, lr, mom) in enumerate(zip(gs, rates, momentums, strict=True), start=1):
        g = np.asarray(g, np.float64)
        p = p * (1 - lr * wd)
        m = mom * m + (1 - mom) * g
        v = 0.99 * v + 0.01 * g**2
        p = p - lr / (1 - mom**t) * m / (np.sqrt(v / (1 - 0.99**t)) + 1e-5)
    return p


def run(tx, steps, tree=TREE, state=None):
    state = tx.init(tree) if state is None else state
    for step in range(steps):
        updates, state = tx.update(grads(step), state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree, state


def test_adam_is_fastais_with_a_rate_for_each_group_and_a_cycling_momentum():
    schedule, steps = one_cycle(8), 8
    tx = group_optimizer(
        LABELS, {"body": 1e-2, "head": 1e-1}, schedule, no_decay={"body.bias"}
    )
    tree, _ = run(tx, steps)
    curve = [tuple(map(float, schedule(i))) for i in range(steps)]
    momentums = [mom for _, mom in curve]
    for path, rate, wd in (
        (("body", "conv"), 1e-2, 0.01),
        (("body", "bias"), 1e-2, 0.0),
        (("head", "weight"), 1e-1, 0.01),
    ):
        gs = [grads(i)[path[0]][path[1]] for i in range(steps)]
        expected = by_hand(
            TREE[path[0]][path[1]], gs, [rate * m for m, _ in curve], momentums, wd
        )
        np.testing.assert_allclose(tree[path[0]][path[1]], expected, rtol=2e-5)


def test_adam_is_what_fastai_ran():
    """Eight steps of the real fastai, its gradient depending on the parameter."""
    golden = json.loads(
        (Path(__file__).parents[1] / "golden" / "fastai_schedules.json").read_text()
    )["adam"]
    start = jnp.asarray(spread("adam value", (3, 4), low=-1.0, high=1.0))
    slopes = spread("adam slope", (8, 3, 4), low=-1.0, high=1.0)
    for name, wd in (("decayed", 0.01), ("not_decayed", 0.0)):
        value, state = start, None
        for i, (rate, momentum) in enumerate(golden["steps"]):
            tx = adam(
                learning_rate=jnp.float32(rate),
                momentum=jnp.float32(momentum),
                weight_decay=jnp.float32(wd),
                mask=lambda tree: jax.tree.map(lambda _: True, tree),
            )
            state = tx.init(value) if state is None else state
            updates, state = tx.update(slopes[i] * (1 + value), state, value)
            value = optax.apply_updates(value, updates)
            expected = np.reshape(golden[name][i], (3, 4))
            np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_stay_and_hold_no_moments():
    tx = group_optimizer(ONLY_HEAD, {"head": 1e-1}, constant())
    tree, state = run(tx, 3)
    np.testing.assert_array_equal(tree["body"]["conv"], TREE["body"]["conv"])
    assert not np.array_equal(tree["head"]["weight"], TREE["head"]["weight"])
    inner = group_states(state)["head"].inner
    moments = [x for x in jax.tree.leaves(inner) if x.shape == (2,)]
    assert len(moments) == 2 and sum(x.size for x in jax.tree.leaves(inner)) <= 6
    assert list(group_states(state)) == ["head"]


def test_clipping_looks_at_what_trains_and_scales_it():
    tx = group_optimizer(
        LABELS,
        {"body": 1.0, "head": 1.0},
        constant(momentum=0.0),
        optimizer=sgd,
        weight_decay=0.0,
        clip_norm=0.5,
    )
    tree, _ = run(tx, 1)
    moved = jax.tree.map(lambda a, b: a - b, TREE, tree)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.5, rel=1e-5)


def test_sgd_by_hand():
    tx = group_optimizer(
        LABELS,
        {"body": 0.1, "head": 0.1},
        constant(momentum=0.9),
        optimizer=sgd,
        weight_decay=0.0,
    )
    tree, _ = run(tx, 2)
    g0, g1 = (np.asarray(grads(i)["head"]["weight"]) for i in range(2))
    expected = np.asarray([3.0, 4.0]) - 0.1 * g0 - 0.1 * (0.9 * g0 + g1)
    np.testing.assert_allclose(tree["head"]["weight"], expected, rtol=1e-5)


def test_rates_are_data():
    """Another rate and schedule: another state for the same compiled update."""
    one = group_optimizer(LABELS, {"body": 1e-2, "head": 1e-1}, one_cycle(5))
    two = group_optimizer(LABELS, {"body": 1e-4, "head": 1e-3}, constant())
    traces = []

    @jax.jit
    def update(grads, state, tree):
        traces.append(1)
        return one.update(grads, state, tree)

    a, _ = update(grads(0), one.init(TREE), TREE)
    b, _ = update(grads(0), two.init(TREE), TREE)
    expected, _ = two.update(grads(0), two.init(TREE), TREE)
    assert len(traces) == 1
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), b, expected)
    assert not np.allclose(a["head"]["weight"], b["head"]["weight"])


def test_restarting_a_schedule_keeps_the_moments():
    tx = group_optimizer(LABELS, {"body": 1e-2, "head": 1e-1}, one_cycle(5))
    _, state = run(tx, 3)
    fresh = group_optimizer(LABELS, {"body": 1.0, "head": 2.0}, constant()).init(TREE)
    kept = group_states(restart_schedule(state, fresh))["head"]
    assert int(kept.step) == 0 and float(kept.rate) == 2.0
    old = group_states(state)["head"]
    jax.tree.map(np.testing.assert_array_equal, kept.inner, old.inner)


def test_rates_of_groups_that_do_not_train_are_ignored():
    rates = {"body": float("nan"), "head": 1e-1}
    tree, state = run(group_optimizer(ONLY_HEAD, rates, constant()), 2)
    alone, other = run(group_optimizer(ONLY_HEAD, {"head": 1e-1}, constant()), 2)
    jax.tree.map(np.testing.assert_array_equal, tree, alone)
    assert jax.tree.structure(state) == jax.tree.structure(other)


def test_numbers_may_be_arrays_and_stay_the_callers_own():
    rate = jnp.asarray(1e-1)
    tx = group_optimizer(
        LABELS, {"body": rate, "head": rate}, constant(), weight_decay=rate
    )
    plain = group_optimizer(
        LABELS, {"body": 1e-1, "head": 1e-1}, constant(), weight_decay=0.1
    )
    jax.tree.map(np.testing.assert_array_equal, tx.init(TREE), plain.init(TREE))
    update = jax.jit(tx.update, donate_argnums=1)
    update(grads(0), tx.init(TREE), TREE)
    assert not rate.is_deleted()


@pytest.mark.parametrize(
    ("rate", "dtype"),
    [
        (0.5, "float32"),
        (np.float64(0.5), "float32"),
        (jnp.bfloat16(0.5), "float32"),
        (lambda: jnp.float64(0.5), "float64"),
    ],
)
def test_a_rate_is_float32_unless_an_array_is_wider(rate, dtype):
    with jax.enable_x64(True):
        rate = rate() if callable(rate) else rate
        tx = group_optimizer(ONLY_HEAD, {"head": rate}, constant())
        state = group_states(tx.init(TREE))["head"]
    assert state.rate.dtype == dtype and float(state.rate) == 0.5
    assert state.weight_decay.dtype == "float32"


def test_groups_and_rates_must_agree():
    with pytest.raises(ValueError, match=r"no learning rate for the group\(s\) head"):
        group_optimizer(LABELS, {"body": 1e-2}, constant())
    frozen = jax.tree.map(lambda _: FROZEN, LABELS)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        group_optimizer(frozen, {}, constant())


def test_adam_is_a_transformation_whose_state_does_not_depend_on_numbers():
    make = lambda x: adam(  # noqa: E731
        learning_rate=x, momentum=x, weight_decay=x, mask=lambda tree: True
    ).init(jnp.ones(3))
    jax.tree.map(np.testing.assert_array_equal, make(0.1), make(0.9))


def test_a_gradient_that_is_no_number_moves_nothing():
    params = nnx.State({"a": jnp.ones(2), "b": jnp.ones(3), "c": jnp.ones(1)})
    labels = nnx.State({"a": FROZEN, "b": "one", "c": "two"})
    rates = {"one": 0.1, "two": 0.1}
    tx = group_optimizer(labels, rates, constant(10), clip_norm=1.0)
    state = tx.init(params)
    good = jax.tree.map(jnp.ones_like, params)
    updates, state = tx.update(good, state, params)
    assert float(updates["b"][0]) < 0
    bad = nnx.State({"a": jnp.zeros(2), "b": jnp.ones(3), "c": jnp.array([jnp.nan])})
    updates, state = tx.update(bad, state, params)
    for leaf in jax.tree.leaves(updates):
        assert (leaf == 0).all()
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


RATES = {"body": 1e-2, "head": 1e-1}


def mean_of(steps):
    return jax.tree.map(lambda *gs: sum(gs) / len(gs), *(grads(i) for i in steps))


def test_accumulated_gradients_move_by_their_mean():
    """Clipping looks at the mean, and the schedule counts updates."""
    whole = group_optimizer(LABELS, RATES, one_cycle(3), clip_norm=0.5)
    tx = group_optimizer(
        LABELS, RATES, one_cycle(3), clip_norm=0.5, gradient_accumulation_steps=4
    )
    expected, state, tree, waiting = TREE, whole.init(TREE), TREE, tx.init(TREE)
    update_one = jax.jit(tx.update)
    for update in range(3):
        steps = range(4 * update, 4 * update + 4)
        updates, state = whole.update(mean_of(steps), state, expected)
        expected = optax.apply_updates(expected, updates)
        for step in steps:
            before, still = waiting, tree
            updates, waiting = update_one(grads(step), waiting, tree)
            tree = optax.apply_updates(tree, updates)
            assert bool(has_updated(before, waiting)) == (step == steps[-1])
            if step != steps[-1]:
                jax.tree.map(np.testing.assert_array_equal, tree, still)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), tree, expected
        )
    head = group_states(waiting)["head"]
    assert int(head.step) == 3 and list(group_states(waiting)) == ["body", "head"]
    assert bool(has_updated(state, state))


def test_what_is_frozen_holds_no_accumulator():
    tx = group_optimizer(
        ONLY_HEAD, {"head": 1e-1}, constant(), gradient_accumulation_steps=2
    )
    tree, state = run(tx, 3)
    (gathered,) = accumulated_gradients(state)
    (leaf,) = jax.tree.leaves(gathered)
    np.testing.assert_array_equal(leaf, grads(2)["head"]["weight"])
    # Whatever gradient comes for it: a step and two updates, to the head alone.
    jax.tree.map(np.testing.assert_array_equal, tree["body"], TREE["body"])
    plain = group_optimizer(ONLY_HEAD, {"head": 1e-1}, constant())
    assert accumulated_gradients(plain.init(TREE)) == []
    shapes = [x.shape for x in jax.tree.leaves(state)]
    assert shapes.count((2,)) == 1 + [
        x.shape for x in jax.tree.leaves(plain.init(TREE))
    ].count((2,))


def test_without_accumulation_the_state_has_its_old_form():
    """Checkpoints name its leaves by these paths."""
    tx = group_optimizer(LABELS, RATES, constant(), gradient_accumulation_steps=1)
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tx.init(TREE))
    ]
    assert paths[0] == ".inner_states['body'].inner_state.step"
    assert ".inner_states['head'].inner_state.inner[0].mu['head']['weight']" in paths
    assert len(paths) == 32


def test_a_batch_that_is_no_number_is_left_out_of_the_mean():
    tx = group_optimizer(
        LABELS, RATES, one_cycle(3), clip_norm=1.0, gradient_accumulation_steps=2
    )
    good = [grads(0), grads(1)]
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.inf), grads(7))
    results, update_one = [], jax.jit(tx.update)
    for batches in (good, [bad, good[0], bad, good[1], bad]):
        tree, state, moved = TREE, tx.init(TREE), []
        for batch in batches:
            updates, after = update_one(batch, state, tree)
            moved.append(bool(has_updated(state, after)))
            tree, state = optax.apply_updates(tree, updates), after
        results.append((tree, state))
        assert moved == [batch is good[1] for batch in batches]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_restarting_a_schedule_forgets_gradients_that_no_update_used():
    make = lambda rate: group_optimizer(  # noqa: E731
        ONLY_HEAD, {"head": rate}, one_cycle(5), gradient_accumulation_steps=3
    )
    _, state = run(make(1e-1), 5)
    kept = restart_schedule(state, make(2.0).init(TREE))
    assert float(jnp.abs(accumulated_gradients(state)[0]["head"]["weight"]).sum()) > 0
    assert float(jnp.abs(accumulated_gradients(kept)[0]["head"]["weight"]).sum()) == 0
    old, new = (group_states(tree)["head"] for tree in (state, kept))
    assert (int(old.step), int(new.step), float(new.rate)) == (1, 0, 2.0)
    jax.tree.map(np.testing.assert_array_equal, old.inner, new.inner)
    # The next update is of three batches again.
    counts = []
    for step in range(3):
        _, after = make(2.0).update(grads(step), kept, TREE)
        counts.append(bool(has_updated(kept, after)))
        kept = after
    assert counts == [False, False, True]


def test_accumulation_can_be_scanned_and_its_rates_are_data():
    tx = group_optimizer(LABELS, RATES, one_cycle(3), gradient_accumulation_steps=3)
    traces = []

    @jax.jit
    def scanned(state, batches):
        traces.append(1)

        def step(carry, batch):
            tree, state = carry
            updates, state = tx.update(batch, state, tree)
            return (optax.apply_updates(tree, updates), state), None

        return jax.lax.scan(step, (TREE, state), batches)[0]

    batches = jax.tree.map(lambda *x: jnp.stack(x), *(grads(i) for i in range(7)))
    tree, state = scanned(tx.init(TREE), batches)
    expected = run(tx, 7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        (tree, state),
        expected,
    )
    faster = group_optimizer(
        LABELS, {"body": 1.0, "head": 1.0}, constant(), gradient_accumulation_steps=3
    )
    other, _ = scanned(faster.init(TREE), batches)
    assert len(traces) == 1 and not np.allclose(
        other["head"]["weight"], tree["head"]["weight"]
    )


@pytest.mark.parametrize("steps", [0, -1])
def test_batches_for_one_update_are_a_whole_number(steps):
    with pytest.raises(ValueError, match="whole number of at least 1; received"):
        group_optimizer(LABELS, RATES, constant(), gradient_accumulation_steps=steps)
