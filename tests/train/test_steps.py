import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from runs import smallest_network
from small import small_network

from jaxtune.data import CutMix, MixUp, mix
from jaxtune.models import BasicBlock, ResNet, Sequential
from jaxtune.train import (
    TrainState,
    apply_module,
    binary_cross_entropy,
    compile_step,
    constant,
    cross_entropy,
    error_rate,
    group_optimizer,
    make_eval_step,
    make_predict_step,
    make_train_step,
    mse,
    no_decay_paths,
    norm_paths,
    one_cycle,
    optimizer_labels,
    sgd,
    split_module,
    training_view,
)
from jaxtune.transfer import (
    create_cnn_model,
    default_groups,
    evaluating,
    group_labels,
)

KEY = jax.random.key(0)
FROZEN_GROUPS = ("early", "late")


def batch(rows=4, seed=0, size=32):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.normal(size=(rows, size, size, 3)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 5, rows), jnp.int32),
    }


@pytest.fixture(scope="module")
def net():
    return create_cnn_model(small_network(pretrained=True), 5, cut=4, hidden=(16,))


def make(net, frozen=(), norms="train", schedule=None, **options):
    """A step and a state, as the learner makes them but with public functions only."""
    groups = default_groups(net)
    plain = group_labels(split_module(net)[1], groups)
    labels = optimizer_labels(plain, frozen, norms=norms, norm_params=norm_paths(net))
    used = set(jax.tree.leaves(labels)) & set(groups)
    tx = group_optimizer(
        labels,
        {name: 1e-2 for name in groups if name in used},
        schedule or one_cycle(10),
        no_decay=no_decay_paths(net),
        **options,
    )
    graphdef, params, model_state = split_module(
        training_view(net, plain, frozen, norms=norms)
    )
    step = make_train_step(graphdef, tx, loss=cross_entropy, labels=labels)
    state = TrainState.create(params, model_state, tx)
    return step, jax.tree.map(jnp.copy, state)


@pytest.fixture
def counted(monkeypatch):
    """XLA convolves: it counts nothing in a call into another library."""
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")


def flops(function, *arguments) -> float:
    # On a GPU convolutions become calls, of which XLA counts nothing.
    with jax.default_device(jax.devices("cpu")[0]):
        compiled = jax.jit(function).lower(*arguments).compile()
    return compiled.cost_analysis()["flops"]


def bits(tree) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_frozen_body_stays_bit_for_bit(net):
    step, state = make(net, FROZEN_GROUPS, "frozen")
    before = jax.tree.map(np.asarray, state)
    run = compile_step(step, donate=True)
    for i in range(3):
        state, metrics = run(state, batch(seed=i), KEY)
    assert bits(state.params["body"]) == bits(before.params["body"])
    assert bits(state.model_state["body"]) == bits(before.model_state["body"])
    assert bits(state.params["head"]) != bits(before.params["head"])
    assert int(state.step) == 3 and float(metrics["grad_norm"]) > 0


@pytest.mark.parametrize(("norms", "affine"), [("stats", False), ("train", True)])
def test_what_moves_in_a_frozen_body_with_other_norms(net, norms, affine):
    step, state = make(net, FROZEN_GROUPS, norms)
    after, _ = jax.jit(step)(state, batch(), KEY)
    bn, conv = after.params["body"]["bn1"], after.params["body"]["conv1"]
    assert bits(conv) == bits(state.params["body"]["conv1"])
    assert (bits(bn) != bits(state.params["body"]["bn1"])) == affine
    assert bits(after.model_state["body"]) != bits(state.model_state["body"])


def test_a_frozen_step_costs_the_bodys_forward_pass_and_the_head(counted):
    """Also with clipping and the logged gradient norm, which every step returns."""
    network = create_cnn_model(ResNet(BasicBlock, (1, 1, 1, 1), rngs=nnx.Rngs(1)), 37)
    data = batch(8, size=64)
    body_def, body, body_state = split_module(evaluating(network[0]))
    head_def, head, head_state = split_module(network[1])

    def run_body(params, model_state, images):
        return nnx.merge(body_def, params, model_state)(images)

    def head_loss(params, features):
        logits = nnx.merge(head_def, params, head_state)(
            features, rngs=nnx.Rngs(dropout=0)
        )
        return cross_entropy(logits, data["label"]).mean()

    features = jnp.ones((8, 2, 2, 512))
    floor = flops(run_body, body, body_state, data["image"])
    floor += flops(jax.value_and_grad(head_loss), head, features)
    # The optimizer's own arithmetic is part of any step that trains a head.
    tx = optax.adamw(1e-3)
    floor += flops(tx.update, head, tx.init(head), head)
    for options in ({}, {"clip_norm": 1.0}):
        step, state = make(network, FROZEN_GROUPS, "frozen", **options)
        assert flops(step, state, data, KEY) <= 1.02 * floor


def test_an_unfrozen_step_costs_the_whole_backward_pass_too(counted, net):
    frozen_step, frozen_state = make(net, FROZEN_GROUPS, "frozen")
    open_step, open_state = make(net)
    data = batch()
    cheap = flops(frozen_step, frozen_state, data, KEY)
    assert flops(open_step, open_state, data, KEY) > 2 * cheap


def test_a_frozen_phase_holds_no_moments_of_the_body(net):
    _, state = make(net, FROZEN_GROUPS, "frozen")
    head = sum(x.size for x in jax.tree.leaves(state.params["head"]))
    held = sum(x.size for x in jax.tree.leaves(state.opt_state))
    assert 2 * head <= held < 2 * head + 100


def test_masked_rows_do_not_count(net):
    step, state = make(net, FROZEN_GROUPS, "frozen")
    data = batch()
    mask = jnp.asarray([True, True, False, False])
    other = dict(data, label=data["label"].at[2:].set(4), mask=mask)
    one, two = (jax.jit(step)(state, b, KEY) for b in (dict(data, mask=mask), other))
    assert float(one[1]["count"]) == 2.0
    assert bits(one[0].params) == bits(two[0].params)
    assert bits(one[1]) == bits(two[1])


def test_dropout_draws_by_key_and_step(net):
    step, state = make(net, FROZEN_GROUPS, "frozen")
    run = jax.jit(step)
    losses = [
        float(run(s, batch(), key)[1]["loss"])
        for s, key in (
            (state, KEY),
            (state, KEY),
            (state, jax.random.key(1)),
            (state.replace(step=state.step + 1), KEY),
        )
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_prepare_gets_the_batch_and_a_key(net):
    groups = group_labels(split_module(net)[1], default_groups(net))
    tx = group_optimizer(groups, dict.fromkeys(default_groups(net), 0.0), constant())
    graphdef, params, model_state = split_module(net)
    state = TrainState.create(params, model_state, tx)
    seen = []

    def prepare(batch, key):
        seen.append(sorted(batch))
        return batch["image"] * jax.random.bernoulli(key, 0.5)

    step = make_train_step(graphdef, tx, loss=cross_entropy, prepare=prepare)
    jax.jit(step)(state, dict(batch(), index=jnp.arange(4)), KEY)
    assert seen == [["image", "index", "label"]]


def test_training_learns(net):
    """Twenty steps on four images that never change: the loss falls to a fraction."""
    step, state = make(net, schedule=constant())
    run = compile_step(step, donate=True)
    state, first = run(state, batch(), KEY)
    for _ in range(19):
        state, last = run(state, batch(), KEY)
    assert float(last["loss"]) < 0.3 * float(first["loss"])


def test_steps_compose_with_scan_and_have_a_gradient_for_a_rate(net):
    step, state = make(net, FROZEN_GROUPS, "frozen", schedule=constant())
    one, two = batch(seed=0), batch(seed=1)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    scanned, metrics = jax.jit(
        lambda s: jax.lax.scan(lambda s, b: step(s, b, KEY), s, stacked)
    )(state)
    looped = state
    for data in (one, two):
        looped, _ = jax.jit(step)(looped, data, KEY)
    assert metrics["loss"].shape == (2,)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        scanned.params["head"],
        looped.params["head"],
    )


def test_eval_sums_over_real_rows(net):
    graphdef, params, model_state = split_module(evaluating(net))
    step = jax.jit(
        make_eval_step(graphdef, loss=cross_entropy, metrics={"error": error_rate})
    )
    data = batch()
    whole = step(params, model_state, data)
    mask = jnp.asarray([True, False, True, False])
    half = step(params, model_state, dict(data, mask=mask))
    rest = step(params, model_state, dict(data, mask=~mask))
    assert float(whole["count"]) == 4 and float(half["count"]) == 2
    for name in ("loss", "error"):
        total = float(half[name]) + float(rest[name])
        assert total == pytest.approx(float(whole[name]), rel=1e-5)
    logits = nnx.merge(graphdef, params, model_state)(data["image"])
    expected = cross_entropy(logits, data["label"]).sum()
    assert float(whole["loss"]) == pytest.approx(float(expected), rel=1e-4)


def test_predict_gives_probabilities(net):
    graphdef, params, model_state = split_module(evaluating(net))
    step = jax.jit(make_predict_step(graphdef, prepare=lambda x: x / 2))
    images = batch()["image"]
    probabilities = step(params, model_state, images)
    logits = nnx.merge(graphdef, params, model_state)(images / 2)
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(-1), np.ones(4), rtol=1e-5)


def small(mixing, loss=cross_entropy):
    """A step of the smallest network with dropout's key in use, and its state."""
    graphdef, params, model_state = split_module(smallest_network())
    tx = optax.sgd(0.1)
    step = make_train_step(graphdef, tx, loss=loss, mixing=mixing)
    return graphdef, jax.jit(step), TrainState.create(params, model_state, tx)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
@pytest.mark.parametrize(
    ("loss", "label"),
    [
        (cross_entropy, jnp.asarray([0, 3, 1, 2])),
        (binary_cross_entropy, jnp.asarray([[1.0, 0, 1, 0], [0, 1, 1, 1]] * 2)),
        (mse, jnp.arange(16.0).reshape(4, 4)),
    ],
)  # fmt: skip
def test_mixing_is_the_loss_of_both_labels_by_weight(mixing, loss, label):
    graphdef, step, state = small(mixing, loss)

    @jax.jit
    def losses(state, data):
        key = jax.random.fold_in(jax.random.fold_in(KEY, 2), 3)
        images, other, weight = mix(data["image"], label, key, mixing)
        logits, _ = apply_module(graphdef, state.params, state.model_state, images)
        wanted = weight * loss(logits, label) + (1 - weight) * loss(logits, other)
        return step(state, data, KEY)[1]["loss"], wanted.mean()

    state = state.replace(step=state.step + 3)
    got, wanted = losses(state, dict(batch(size=8), label=label))
    assert float(got) == pytest.approx(float(wanted), rel=1e-5)


def test_mixing_draws_by_key_and_step():
    _, step, state = small(MixUp())
    data = batch(size=8)
    losses = [
        float(step(s, data, key)[1]["loss"])
        for s, key in (
            (state, KEY),
            (state, KEY),
            (state, jax.random.key(1)),
            (state.replace(step=state.step + 1), KEY),
        )
    ]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_two_steps_with_a_stop_between_are_two_steps():
    """What is mixed depends on nothing that a checkpoint does not hold."""
    _, step, state = small(CutMix())
    first, second = batch(seed=0, size=8), batch(seed=1, size=8)
    middle, _ = step(state, first, KEY)
    kept = jax.tree.map(np.asarray, middle)
    _, step_again, _ = small(CutMix())
    one, _ = step(middle, second, KEY)
    two, _ = step_again(jax.tree.map(jnp.asarray, kept), second, KEY)
    assert bits(one) == bits(two)


@pytest.mark.parametrize("mixing", [MixUp(), CutMix()])
def test_padding_never_gets_into_a_mixed_row(mixing):
    """The network has no norm here, through which any row sees all others."""
    graphdef, params, model_state = split_module(smallest_network())
    weights = jax.random.normal(KEY, (3, 5))

    def flat(graphdef, params, model_state, images, *, key):
        logits = images.mean(axis=(1, 2)) @ weights
        return logits + 0 * params["fc"]["bias"].sum(), model_state

    tx = optax.sgd(0.1)
    step = jax.jit(
        make_train_step(graphdef, tx, loss=cross_entropy, mixing=mixing, apply=flat)
    )
    state = TrainState.create(params, model_state, tx)
    mask = jnp.asarray([True, False, True, True])
    data = dict(batch(size=8), mask=mask)
    other = dict(data, image=data["image"].at[1].set(100.0),
                 label=data["label"].at[1].set(4))  # fmt: skip
    one, two = (step(state, b, KEY)[1] for b in (data, other))
    assert float(one["count"]) == 3 and float(one["loss"]) == float(two["loss"])


def test_no_mixing_is_another_program_than_mixing_and_draws_nothing():
    graphdef, step, state = small(None)
    arguments = state, batch(size=8), KEY
    plain = step.lower(*arguments).as_text()
    # The smallest network has no dropout: nothing else is drawn in its step.
    assert "threefry" not in plain
    assert "threefry" in small(MixUp())[1].lower(*arguments).as_text()


def test_accumulated_batches_are_one_that_is_as_large():
    """To rounding, where nothing looks at a batch's statistics; scanned."""
    parts = smallest_network()
    network = Sequential({name: parts[name] for name in ("conv1", "pool", "fc")})
    graphdef, params, model_state = split_module(network)
    labels = jax.tree.map(lambda x: "all", params)
    large = [batch(12, seed=seed, size=8) for seed in range(2)]
    small = [
        {name: x[i : i + 4] for name, x in b.items()} for b in large for i in (0, 4, 8)
    ]
    ends = []
    for steps, batches in ((1, large), (3, small)):
        # Adam would enlarge the rounding of gradients that are nearly zero.
        tx = group_optimizer(
            labels,
            {"all": 1e-2},
            one_cycle(2),
            optimizer=sgd,
            gradient_accumulation_steps=steps,
        )
        step = make_train_step(graphdef, tx, loss=cross_entropy, labels=labels)
        state = TrainState.create(params, model_state, tx)
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
        run = jax.jit(lambda s, b, step=step: jax.lax.scan(
            lambda s, b: step(s, b, KEY), s, b
        ))  # fmt: skip
        ends.append(run(state, stacked)[0])
    one, three = ends
    assert (int(one.step), int(three.step)) == (2, 6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        one.params,
        three.params,
    )
    assert bits(one.params) != bits(params)
