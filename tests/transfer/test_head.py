import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draw import draw, draw_images, draw_labels
from flax import nnx

from jaxtune.models import BatchNorm, Linear
from jaxtune.train import cross_entropy, split_module
from jaxtune.transfer import ConcatPool, SigmoidRange, create_head, evaluating


def size(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(split_module(module)[1]))


def test_concat_pool_is_maximum_then_mean():
    x = jnp.arange(24.0).reshape(1, 2, 3, 4)
    y = ConcatPool()(x)
    np.testing.assert_allclose(y[0, :4], x[0].reshape(-1, 4).max(0))
    np.testing.assert_allclose(y[0, 4:], x[0].reshape(-1, 4).mean(0))
    assert ConcatPool.features(512) == 1024


def test_the_default_head_is_fastais():
    head = create_head(512, 37, rngs=nnx.Rngs(0))
    assert head.names == (
        *("pool", "bn1", "dropout1", "linear1", "relu1"),
        *("bn2", "dropout2", "linear2"),
    )
    assert size(head) == 546_304
    assert head.dropout1.rate == 0.25 and head.dropout2.rate == 0.5
    shapes = {
        ".".join(path): leaf.shape
        for path, leaf in nnx.to_flat_state(nnx.state(head, nnx.Param))
    }
    assert shapes == {
        "bn1.weight": (1024,),
        "bn1.bias": (1024,),
        "linear1.weight": (1024, 512),
        "bn2.weight": (512,),
        "bn2.bias": (512,),
        "linear2.weight": (512, 37),
    }
    assert (head.bn1.bias[...] == 1e-3).all() and (head.bn1.weight[...] == 1).all()
    # Kaiming normal: the deviation of the first layer is sqrt(2 / 1024).
    assert float(head.linear1.weight[...].std()) == pytest.approx(0.0442, rel=0.01)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"hidden": ()}, ["pool", "bn1", "dropout1", "linear1"]),
        ({"hidden": (), "dropout": 0.0}, ["pool", "bn1", "linear1"]),
        (
            {"hidden": (), "dropout": 0.0, "first_bn": False, "bn_final": True},
            ["pool", "linear1", "bn_final"],
        ),
        (
            {"hidden": (8,), "lin_first": True, "dropout": 0.5},
            ["pool", "dropout0", "linear1", "relu1", "bn1", "dropout1", "linear2"],
        ),
        (
            {"hidden": (8, 6), "dropout": [0.0, 0.1, 0.2]},
            [
                *("pool", "bn1", "linear1", "relu1"),
                *("bn2", "dropout2", "linear2", "relu2", "bn3", "dropout3", "linear3"),
            ],
        ),
    ],
)
def test_options_make_fastais_layers(options, names):
    head = create_head(4, 3, **options, rngs=nnx.Rngs(0))
    assert list(head.names) == names
    assert evaluating(head)(jnp.ones((2, 5, 5, 4))).shape == (2, 3)


def test_a_linear_layer_without_a_norm_before_it_has_a_bias():
    head = create_head(4, 3, hidden=(), first_bn=False, rngs=nnx.Rngs(0))
    assert "bias" in nnx.state(head, nnx.Param)["linear1"]
    final = create_head(4, 3, hidden=(), bn_final=True, rngs=nnx.Rngs(0)).bn_final
    assert isinstance(final, BatchNorm) and final.momentum == 0.01


def test_average_pooling_alone_halves_the_input():
    head = create_head(4, 3, concat_pool=False, rngs=nnx.Rngs(0))
    assert head.linear1.weight.shape == (4, 512)


def test_y_range_bounds_the_output():
    head = create_head(4, 1, y_range=(-1, 3), rngs=nnx.Rngs(0))
    y = evaluating(head)(1e3 * jax.random.normal(jax.random.key(0), (64, 2, 2, 4)))
    assert y.min() >= -1 and y.max() <= 3 and y.min() < 0 < 2 < y.max()


@pytest.mark.parametrize("dropout", [1.0, -0.1, [0.5], [0.1, 0.2, 0.3]])
def test_a_wrong_rate_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must be a rate in"):
        create_head(4, 3, dropout=dropout, rngs=nnx.Rngs(0))


def describe(layer) -> str:
    """Our layer in the words of the golden file."""
    if isinstance(layer, BatchNorm):
        return f"BatchNorm1d {layer.weight.shape[0]} momentum={layer.momentum}"
    if isinstance(layer, nnx.Dropout):
        return f"Dropout {layer.rate}"
    if isinstance(layer, Linear):
        before, after = layer.weight.shape
        return f"Linear {before} {after} bias={layer.use_bias}"
    if isinstance(layer, SigmoidRange):
        return f"SigmoidRange(low={layer.low}, high={layer.high})"
    return type(layer).__name__


GOLDEN = Path(__file__).parents[1] / "golden"
FASTAI = json.loads((GOLDEN / "fastai_schedules.json").read_text())["head"]
OURS = {"lin_ftrs": "hidden", "ps": "dropout"}


@pytest.mark.parametrize("arguments", FASTAI["variants"])
def test_layers_are_those_that_fastai_made(arguments):
    call = ast.parse(f"f({arguments})", mode="eval").body
    options = {OURS.get(k.arg, k.arg): ast.literal_eval(k.value) for k in call.keywords}
    pool = options.pop("pool", True)
    if not pool:
        pytest.skip("a head without pooling is handed over as head=")
    features, classes = (ast.literal_eval(a) for a in call.args)
    head = nnx.eval_shape(
        lambda: create_head(features, classes, **options, rngs=nnx.Rngs(0))
    )
    expected = FASTAI["variants"][arguments]
    made = [describe(layer) for layer in head][1:]
    theirs = [
        layer
        for layer in expected["layers"]
        if "Pool" not in layer and layer != "Flatten"
    ]
    assert made == theirs
    assert size(head) == expected["parameters"]


NAMES = {"1.2": "bn1", "1.4": "linear1", "1.6": "bn2", "1.8": "linear2"}


def test_three_steps_of_the_head_are_those_that_fastai_ran():
    with np.load(GOLDEN / "fastai_head.npz") as file:
        golden = dict(file)
    head = create_head(512, 37, dropout=0.0, rngs=nnx.Rngs(0))
    for name, shape in FASTAI["names"].items():
        layer, leaf = name.rsplit(".", 1)
        value = draw(name, tuple(shape))
        getattr(head[NAMES[layer]], leaf).set_value(
            jnp.asarray(value.T if value.ndim == 2 else value)
        )
    features = jnp.asarray(draw_images(200, tuple(FASTAI["shape"])))
    logits = evaluating(head)(features)
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-3, atol=1e-4)

    graphdef, params, model_state = split_module(head)

    @jax.jit
    def step(params, model_state, x, label):
        def loss(params):
            net = nnx.merge(graphdef, params, model_state)
            value = cross_entropy(net(x), label).mean()
            return value, nnx.as_pure(nnx.split(net, nnx.Param, ...)[2])

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
        move = lambda p, g: p - FASTAI["rate"] * g  # noqa: E731
        return jax.tree.map(move, params, grads), stats, value

    losses = []
    for i in range(3):
        x = draw_images(201 + i, tuple(FASTAI["shape"]))
        label = draw_labels(201 + i, len(x), num_classes=37)
        params, model_state, value = step(params, model_state, x, label)
        losses.append(float(value))
    np.testing.assert_allclose(losses, golden["losses"], rtol=1e-4)
    trained = evaluating(nnx.merge(graphdef, params, model_state))
    np.testing.assert_allclose(
        trained(features), golden["trained_logits"], rtol=1e-3, atol=1e-3
    )
    for name, leaf in (("1.2", "running_var"), ("1.6", "running_mean")):
        np.testing.assert_allclose(
            model_state[NAMES[name]][leaf],
            golden[f"{name}.{leaf}"],
            rtol=1e-3,
            atol=1e-5,
        )
