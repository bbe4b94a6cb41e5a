"""The steps under JAX's transforms: jit, scan, vmap, grad, checkpoint. And purity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxtune.data import Augmentation, training_images
from jaxtune.models import BatchNorm, Conv, ReLU, Sequential
from jaxtune.train import (
    FROZEN,
    TrainState,
    apply_module,
    compile_step,
    constant,
    cross_entropy,
    flat_cosine,
    group_optimizer,
    make_eval_step,
    make_predict_step,
    make_train_step,
    no_decay_paths,
    one_cycle,
    optimizer_labels,
    split_module,
    training_view,
)
from jaxtune.transfer import create_head, evaluating, group_labels

KEY = jax.random.key(0)
GROUPS = {"body": r"body\.", "head": r"head\."}
FREEZINGS = {"frozen": ("body",), "open": ()}
RATE = 1e-3

STEPS = 5


def network():
    """A convolution with a batch norm, and fastai's head."""
    rngs = nnx.Rngs(0)
    body = Sequential(
        {
            "conv1": Conv(3, 8, 3, stride=2, padding=1, rngs=rngs),
            "bn1": BatchNorm(8),
            "relu": ReLU(),
        }
    )
    head = create_head(8, 5, hidden=(), rngs=rngs)
    return Sequential({"body": body, "head": head})


def batches(number, rows=8, size=16):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(number, rows, size, size, 3))
    labels = rng.integers(0, 5, (number, rows))
    return {"image": jnp.asarray(images, jnp.float32), "label": jnp.asarray(labels)}


class Parts:
    """A network as pure functions and trees, as anyone may make them."""

    def __init__(self, frozen=(), *, still=False, loss=cross_entropy, **options):
        """`still`: nothing is drawn and no statistic moves while training either."""
        net = network()
        plain = group_labels(split_module(net)[1], GROUPS)
        view = training_view(net, plain, frozen, norms="frozen")
        view = evaluating(net) if still else view
        self.graphdef, self.params, self.model_state = split_module(view)
        self.labels = optimizer_labels(plain, frozen, norms="frozen")
        self.no_decay = no_decay_paths(net)
        self.eval_graphdef = nnx.graphdef(evaluating(net))
        self.loss = loss
        self.step = self.make_step(self.optimizer(), **options)

    def make_step(self, tx, **options):
        options = {"loss": self.loss, "labels": self.labels} | options
        return make_train_step(self.graphdef, tx, **options)

    def optimizer(self, rate=RATE, schedule=None, **options):
        return group_optimizer(
            self.labels,
            {"body": rate, "head": rate},
            constant() if schedule is None else schedule,
            no_decay=self.no_decay,
            **options,
        )

    def state(self, *arguments, params=None, **options):
        params = self.params if params is None else params
        tx = self.optimizer(*arguments, **options)
        return TrainState.create(params, self.model_state, tx)

    def train(self, state, data, key=KEY, step=None):
        """Steps in a `lax.scan`."""
        step = self.step if step is None else step
        return jax.lax.scan(lambda s, batch: step(s, batch, key), state, data)


@pytest.fixture(scope="module", params=FREEZINGS)
def parts(request):
    return Parts(FREEZINGS[request.param])


@pytest.fixture(scope="module")
def head_only():
    return Parts(FREEZINGS["frozen"])


def bits(tree) -> list[bytes]:
    return [
        np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes()
        for x in jax.tree.leaves(tree)
    ]


def is_key(x) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def row(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


# One program or many calls.


def called(parts, number):
    data, step, state = batches(number), compile_step(parts.step), parts.state()
    metrics = []
    for n in range(number):
        state, measured = step(state, row(data, n), KEY)
        metrics.append(measured)
    return state, jax.tree.map(lambda *x: jnp.stack(x), *metrics)


def test_ten_scanned_steps_of_a_frozen_phase_are_ten_calls(head_only):
    """To rounding: in a loop XLA fuses the update in another way."""
    start = head_only.state()
    scanned = compile_step(head_only.train)(start, batches(10))
    assert int(scanned[0].step) == 10 and scanned[1]["loss"].shape == (10,)
    expected = moved(start, *called(head_only, 10))
    assert_same_way(moved(start, *scanned), expected, head_only)


def test_ten_scanned_steps_of_a_whole_network_are_ten_calls():
    """To rounding: in a loop XLA sums the body's gradient in another order."""
    whole = Parts()
    start = whole.state()
    scanned = moved(start, *compile_step(whole.train)(start, batches(10)))
    expected = moved(start, *called(whole, 10))
    assert_same_way(scanned, expected, whole)
    assert bits(scanned["loss"][0]) == bits(expected["loss"][0])


# Many runs at once.


def moved(start, state, metrics):
    """How far parameters and statistics went, and the losses on the way."""
    return {
        "params": minus(state.params, start.params),
        "model_state": minus(state.model_state, start.model_state),
        "loss": metrics["loss"],
    }


def minus(one, other):
    return jax.tree.map(lambda a, b: a - b, one, other)


def assert_same_way(one, other, parts):
    """Two runs are one but for rounding, measured by how far they went.

    In loops and under vmap XLA sums in another order, which moves a gradient's last
    bits; Adam divides each gradient by its own size, so one that nearly cancels moves
    its parameter another way. Seen are 1e-7 of the way for a head and 7e-4 for a whole
    network; the losses of a whole network differ in the sixth digit.
    """
    whole = FROZEN not in jax.tree.leaves(parts.labels)
    for name, limit in (
        ("params", 5e-3 if whole else 1e-4),
        ("model_state", 1e-4 if whole else 1e-5),
        ("loss", 1e-4 if whole else 1e-5),
    ):
        apart = optax.tree.norm(minus(one[name], other[name]))
        assert 0 < float(optax.tree.norm(other[name]))
        assert float(apart) <= limit * float(optax.tree.norm(other[name])), name


def assert_each_is_its_own_run(run, arguments, parts):
    """`vmap` over five is five runs, and they differ; returns their losses."""
    together, alone = jax.jit(jax.vmap(run))(arguments), jax.jit(run)
    number = len(together["loss"])
    for n in range(number):
        assert_same_way(row(together, n), alone(row(arguments, n)), parts)
    losses = np.asarray(together["loss"])
    assert len({loss.tobytes() for loss in losses}) == number == len(losses)
    return losses


def test_five_seeds_train_at_once(parts):
    """Five heads, drawn inside the transform, and five keys."""
    data = batches(STEPS)

    def run(key):
        head_key, key = jax.random.split(key)
        head = create_head(8, 5, hidden=(), rngs=nnx.Rngs(head_key))
        trees = {"body": parts.params["body"], "head": split_module(head)[1]}
        params = nnx.State({k: nnx.to_pure_dict(tree) for k, tree in trees.items()})
        start = parts.state(params=params)
        return moved(start, *parts.train(start, data, key))

    losses = assert_each_is_its_own_run(run, jax.random.split(KEY, 5), parts)
    assert losses.shape == (5, STEPS) and len(set(losses[:, 0].tolist())) == 5


def test_five_rates_decays_and_clippings_train_at_once():
    """The state is made inside the transform, from numbers that are traced."""
    parts, data = Parts(), batches(STEPS)
    fifths = jnp.asarray([0.05, 0.1, 0.3, 0.6, 1.0])

    def run(numbers):
        # Rate and decay lie in the state; clipping is part of the step.
        step = parts.make_step(parts.optimizer(**numbers))
        start = parts.state(**numbers)
        return moved(start, *parts.train(start, data, step=step))

    numbers = {
        "rate": RATE * fifths,
        "weight_decay": 100 * fifths,
        "clip_norm": 2 / fifths,
    }
    losses = assert_each_is_its_own_run(run, numbers, parts)
    assert len(set(losses[:, 0].tolist())) == 1


def test_each_number_that_is_traced_counts(head_only):
    data = batches(2)

    def run(numbers):
        step = head_only.make_step(head_only.optimizer(**numbers))
        start = head_only.state(**numbers)
        return head_only.train(start, data, step=step)[1]["loss"][-1]

    numbers = {"rate": RATE, "weight_decay": 0.5, "clip_norm": 1.0}
    slopes = jax.jit(jax.grad(run))(numbers)
    assert all(np.isfinite(slope) and slope != 0 for slope in slopes.values())


def test_schedules_train_at_once(head_only):
    """A schedule is data: three of them are one with another axis."""
    data = batches(STEPS)
    schedules = [one_cycle(STEPS), flat_cosine(STEPS, pct_start=0.5), constant()]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *schedules)

    def run(schedule):
        start = head_only.state(RATE, schedule)
        return moved(start, *head_only.train(start, data))

    assert_each_is_its_own_run(run, stacked, head_only)


def test_a_schedule_can_be_made_inside_a_transform(head_only):
    def run(rate, schedule=None):
        start = head_only.state(rate, schedule or one_cycle(STEPS))
        return moved(start, *head_only.train(start, batches(STEPS)))

    inside = jax.jit(run)(RATE)
    outside = jax.jit(run)(RATE, one_cycle(STEPS))
    assert_same_way(inside, outside, head_only)


# Gradients through steps.


def loss_after(parts, steps):
    """The next batch's loss after some steps, as a function of the rate."""
    data = batches(steps + 1)

    def run(rate):
        return parts.train(parts.state(rate), data)[1]["loss"][-1]

    return jax.jit(jax.value_and_grad(run))


def slope_and_differences(run, rate, h):
    (above, _), (below, _) = run(rate + h), run(rate - h)
    return run(rate)[1], float(above - below) / (2 * h)


@pytest.mark.parametrize(("frozen", "steps"), [("frozen", 3), ("open", 1), ("open", 3)])
def test_the_gradient_for_a_rate_is_that_of_finite_differences(frozen, steps):
    """In float64, to six digits.

    Batch statistics and the package's own loss are float32 whatever goes in, so the
    norms stand still here, and the loss is another.
    """
    with jax.enable_x64(True):
        parts = Parts(
            FREEZINGS[frozen],
            still=True,
            loss=optax.softmax_cross_entropy_with_integer_labels,
            prepare=lambda batch, key: batch["image"].astype(jnp.float64),
        )
        values = parts.params, parts.model_state
        values = jax.tree.map(lambda x: x.astype(jnp.float64), values)
        parts.params, parts.model_state = values
        slope, differences = slope_and_differences(
            loss_after(parts, steps), jnp.float64(RATE), 1e-8
        )
        assert slope.dtype == jnp.float64
    assert float(slope) == pytest.approx(differences, rel=1e-6)
    assert abs(float(slope)) > 1


def test_the_gradient_for_a_rate_with_batch_statistics_and_dropout(head_only):
    """As training runs, in float32: to what a difference of float32 losses can say."""
    run = loss_after(head_only, 3)
    slope, differences = slope_and_differences(run, RATE, RATE / 10)
    assert float(slope) == pytest.approx(differences, rel=1e-2)


def test_the_gradient_for_a_rate_goes_through_running_statistics(head_only):
    """A validation loss depends on a rate through the head's statistics too."""
    parts, data = head_only, batches(4)

    @jax.jit
    @jax.value_and_grad
    def run(rate):
        seen = jax.tree.map(lambda x: x[:-1], data)
        state, _ = parts.train(parts.state(rate), seen)
        logits, _ = apply_module(
            parts.eval_graphdef, state.params, state.model_state, data["image"][-1]
        )
        return parts.loss(logits, data["label"][-1]).mean()

    slope, differences = slope_and_differences(run, RATE, RATE / 10)
    assert float(slope) == pytest.approx(differences, rel=1e-2)


def test_a_gradient_that_is_exactly_0_makes_no_nan(head_only):
    """A channel that is always 0 has no gradient, and Adam takes the root of it."""
    data, run = batches(4), head_only.train
    params = jax.tree.map(lambda x: x, head_only.params)
    params["body"]["bn1"]["bias"] = jnp.zeros(8).at[0].set(-100.0)

    def loss(rate):
        return run(head_only.state(rate, params=params), data)[1]["loss"][-1]

    assert np.isfinite(jax.jit(jax.grad(loss))(RATE))


def test_a_rate_for_each_group_has_its_own_gradient():
    parts, data = Parts(), batches(2)

    def run(rates):
        tx = group_optimizer(parts.labels, rates, constant())
        state = TrainState.create(parts.params, parts.model_state, tx)
        state, _ = parts.step(state, row(data, 0), KEY)
        _, metrics = parts.step(state, row(data, 1), KEY)
        return metrics["loss"]

    slopes = jax.jit(jax.grad(run))({"body": RATE, "head": RATE})
    assert all(np.isfinite(s) and s != 0 for s in slopes.values())
    assert slopes["body"] != slopes["head"]


# Rematerialisation.


def remat_body(parts):
    """A forward pass whose body is computed anew for the backward pass."""
    net = nnx.merge(parts.graphdef, parts.params, parts.model_state)
    graphs = {name: nnx.graphdef(net[name]) for name in net.names}
    run_body = jax.checkpoint(apply_module, static_argnums=0)

    def apply(graphdef, params, model_state, images, *, key=None):
        features, body = run_body(
            graphs["body"], params["body"], model_state["body"], images
        )
        logits, head = apply_module(
            graphs["head"], params["head"], model_state["head"], features, key=key
        )
        trees = {"body": body, "head": head}
        return logits, nnx.State(
            {name: nnx.to_pure_dict(tree) for name, tree in trees.items()}
        )

    return apply


@pytest.mark.parametrize("what", ["body", "network"])
def test_a_checkpointed_network_has_the_same_gradients_from_fewer_residuals(what):
    parts, data = Parts(), row(batches(1), 0)
    apply = {
        "body": remat_body(parts),
        "network": jax.checkpoint(apply_module, static_argnums=0),
    }[what]

    def residuals(apply):
        def loss(params):
            logits, _ = apply(
                parts.graphdef, params, parts.model_state, data["image"], key=KEY
            )
            return cross_entropy(logits, data["label"]).mean()

        kept = jax.eval_shape(lambda p: jax.vjp(loss, p)[1], parts.params)
        return sum(leaf.size for leaf in jax.tree.leaves(kept))

    assert residuals(apply) < 0.5 * residuals(apply_module)
    start = parts.state()
    plain = moved(start, *jax.jit(parts.step)(start, data, KEY))
    remat = parts.make_step(parts.optimizer(), apply=apply)
    assert_same_way(moved(start, *jax.jit(remat)(start, data, KEY)), plain, parts)


def test_a_forward_pass_of_ones_own_serves_every_step(head_only):
    parts, data = head_only, row(batches(1), 0)

    def doubled(*arguments, **options):
        logits, model_state = apply_module(*arguments, **options)
        return 2 * logits, model_state

    def total(logits, label):
        return logits.sum(-1)

    def results(apply):
        graphdef = parts.eval_graphdef
        step = parts.make_step(parts.optimizer(), apply=apply, loss=total)
        evaluate = make_eval_step(graphdef, loss=total, apply=apply)
        predict = make_predict_step(graphdef, activation=lambda x: x, apply=apply)

        @jax.jit
        def all_of_them(params, model_state):
            return (
                step(parts.state(), data, KEY)[1]["loss"],
                evaluate(params, model_state, data)["loss"],
                predict(params, model_state, data["image"]),
            )

        return all_of_them(parts.params, parts.model_state)

    for one, two in zip(results(apply_module), results(doubled), strict=True):
        np.testing.assert_allclose(2 * one, two, rtol=1e-5)


# Purity.


def test_steps_have_no_effects_and_change_nothing_that_goes_in(parts):
    state, data = parts.state(), row(batches(1), 0)
    evaluate = make_eval_step(parts.eval_graphdef, loss=cross_entropy)
    predict = make_predict_step(parts.eval_graphdef)
    values = parts.params, parts.model_state
    for step, arguments in (
        (parts.step, (state, data, KEY)),
        (evaluate, (*values, data)),
        (predict, (*values, data["image"])),
    ):
        assert not jax.make_jaxpr(step)(*arguments).effects
        before = bits(arguments)
        with jax.check_tracer_leaks():
            one = jax.jit(step)(*arguments)
        assert bits(one) == bits(jax.jit(step)(*arguments))
        assert bits(arguments) == before


def test_two_steps_share_nothing(head_only):
    """Steps called in turns give what each gives alone."""
    data, both = batches(2), (head_only, Parts(still=True))
    steps = [jax.jit(parts.step) for parts in both]

    def run(order):
        states = [parts.state() for parts in both]
        for which, number in order:
            states[which], _ = steps[which](states[which], row(data, number), KEY)
        return bits(states)

    alone = run([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert run([(0, 0), (1, 0), (0, 1), (1, 1)]) == alone


def test_only_dropout_and_augmentation_look_at_the_key():
    data = row(batches(1), 0)
    photos = {
        "image": (data["image"] * 50 + 128).astype(jnp.uint8),
        "label": data["label"],
        "aspect": jnp.ones(8),
        "index": jnp.arange(8),
    }
    prepare = functools.partial(
        training_images, size=(16, 16), augmentation=Augmentation()
    )
    still = Parts(still=True)
    for parts, batch, draws in (
        (still, data, False),
        (Parts(), data, True),
        (Parts(still=True, prepare=prepare), photos, True),
    ):
        step = jax.jit(parts.step)
        one, two, again = (
            bits(step(parts.state(), batch, jax.random.key(seed))) for seed in (0, 1, 0)
        )
        assert one == again
        assert (one != two) == draws
