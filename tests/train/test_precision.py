"""Computing in bfloat16: what is narrow, and that everything that is kept is not."""

from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from runs import smallest_network

from jaxtune import IMAGENET_MEAN, IMAGENET_STD, resnet18
from jaxtune.train import (
    TrainState,
    apply_module,
    choose_precision,
    constant,
    cross_entropy,
    group_optimizer,
    make_train_step,
    norm_paths,
    split_module,
    training_view,
    with_precision,
)
from jaxtune.transfer import evaluating

KEY = jax.random.key(0)
PRODUCTS = ("conv_general_dilated", "convolution", "dot_general")


def products(jaxpr) -> Counter:
    """Dtypes of all convolutions and matrix products, those of inner programs too."""
    found = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            found[equation.invars[0].aval.dtype.name] += 1
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    found += products(inner)
    return found


def dtypes(tree) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": jnp.asarray(rng.normal(size=(8, 16, 16, 3)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 4, 8), jnp.int32),
    }


def training(precision):
    net = smallest_network()
    labels = jax.tree.map(lambda x: "all", split_module(net)[1])
    view = with_precision(training_view(net, labels, ()), precision)
    graphdef, params, model_state = split_module(view)
    tx = group_optimizer(labels, {"all": 1e-2}, constant())
    step = make_train_step(graphdef, tx, loss=cross_entropy, labels=labels)
    return step, TrainState.create(params, model_state, tx)


def test_ten_steps_are_close_to_float32s_and_all_that_is_kept_is_float32():
    ends = {}
    for precision in ("float32", "bfloat16"):
        step, state = training(precision)
        jaxpr = jax.make_jaxpr(step)(state, batch(), KEY)
        # Forward; backward to the weights, and of the last layer to its input.
        assert products(jaxpr.jaxpr) == {precision: 5}
        run, losses = jax.jit(step), []
        for i in range(10):
            state, metrics = run(state, batch(i % 2), KEY)
            losses.append(float(metrics["loss"]))
        assert dtypes((state.params, state.model_state)) == {"float32"}
        assert dtypes(state.opt_state) == {"float32", "int32"}
        assert metrics["loss"].dtype == metrics["grad_norm"].dtype == "float32"
        ends[precision] = losses, state
    (wide, one), (narrow, two) = ends.values()
    np.testing.assert_allclose(narrow, wide, rtol=0.02)
    assert narrow != wide and wide[-1] < 0.9 * wide[0]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.01),
        one.model_state,
        two.model_state,
    )


def test_a_view_is_of_the_same_variables_and_the_same_paths():
    net = smallest_network()
    view = with_precision(net, "bfloat16")
    assert view.conv1.weight is net.conv1.weight and view is not net
    for one, two in zip(split_module(view)[1:], split_module(net)[1:], strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(two)
    assert norm_paths(view) == norm_paths(net) == {"bn1.weight", "bn1.bias"}
    # It can be made before the view for validation or after it: one program.
    graphs = [
        nnx.graphdef(with_precision(evaluating(net), "bfloat16")),
        nnx.graphdef(evaluating(with_precision(net, "bfloat16"))),
    ]
    assert graphs[0] == graphs[1] and hash(graphs[0]) == hash(graphs[1])
    assert graphs[0] != nnx.graphdef(evaluating(net))
    assert with_precision(net, "float32") is net
    assert net(batch()["image"]).dtype == "float32"


class Own(nnx.Module):
    """Computes with an array of its own, which must have its input's dtype."""

    def __init__(self):
        self.kernel = nnx.Param(jnp.ones((1, 1, 8, 8)) / 8)

    def __call__(self, x):
        return jax.lax.conv(
            jnp.moveaxis(x, -1, 1), jnp.moveaxis(self.kernel[...], (0, 1), (2, 3)),
            (1, 1), "SAME",
        )  # fmt: skip


class Flax(nnx.Module):
    """Flax's own layers, with one between that knows nothing of dtypes."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.own = Own()
        self.dropout = nnx.Dropout(0.5)
        self.layer_norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.einsum = nnx.Einsum("bc,cd->bd", (8, 8), (8,), rngs=rngs)
        self.linear = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = self.norm(self.conv(x))
        x = jnp.moveaxis(self.own(x), 1, -1)
        x = self.layer_norm(self.dropout(x, rngs=rngs).mean(1))
        x = self.attention(x)
        return {"logits": self.linear(self.einsum(x.mean(1)))}


def test_flaxs_layers_and_what_has_no_dtype():
    net = Flax(nnx.Rngs(0))
    images = batch()["image"]
    outputs, statistics, counts = {}, {}, {}
    for precision in ("float32", "bfloat16"):
        view = with_precision(net, precision)
        graphdef, params, model_state = split_module(view)

        def run(params, model_state, images, key, graphdef=graphdef):
            return apply_module(graphdef, params, model_state, images, key=key)

        jaxpr = jax.make_jaxpr(run)(params, model_state, images, KEY)
        counts[precision] = products(jaxpr.jaxpr)
        run = jax.jit(run)
        out, after = run(params, model_state, images, KEY)
        outputs[precision], statistics[precision] = out["logits"], after
        other, _ = run(params, model_state, images, jax.random.key(1))
        assert not np.array_equal(other["logits"], out["logits"])
    # The convolution of `Own` alone stays as it was.
    total = counts["float32"]["float32"]
    assert counts["bfloat16"] == {"float32": 1, "bfloat16": total - 1} and total >= 9
    wide, narrow = outputs.values()
    assert narrow.dtype == "float32" and np.isfinite(narrow).all()
    np.testing.assert_allclose(narrow, wide, atol=0.03)
    one, two = (statistics[precision]["norm"] for precision in statistics)
    assert dtypes(two) == {"float32"}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-3), one, two
    )


def test_real_logits_on_a_real_photo_agree(data_dir, weights_dir):
    path = next(p for p in sorted(data_dir.rglob("*.jpg")) if "daisy" in str(p))
    pixels = np.asarray(Image.open(path).convert("RGB").resize((128, 128)), np.float32)
    images = ((pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD)[None].astype(np.float32)
    net = evaluating(resnet18(pretrained=True))
    run = jax.jit(apply_module, static_argnums=0)
    wide, narrow = (
        np.asarray(run(*split_module(with_precision(net, precision)), images)[0])
        for precision in ("float32", "bfloat16")
    )
    assert narrow.dtype == "float32" and not np.array_equal(wide, narrow)
    assert narrow.argmax() == wide.argmax()
    # Eight bits a value: a fraction of a percent of the whole, over twenty layers.
    assert np.linalg.norm(narrow - wide) < 0.02 * np.linalg.norm(wide)


@pytest.mark.parametrize("precision", ["float16", "bf16", ""])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(ValueError, match="must be 'float32' or 'bfloat16'; received"):
        with_precision(smallest_network(), precision)


def test_a_cpu_with_matrix_units_computes_in_bfloat16_by_itself(monkeypatch):
    device = jax.devices("cpu")[0]
    found = "jaxtune.train.precision.onednn_multiplies_bfloat16"
    monkeypatch.setattr(found, lambda: True)
    assert choose_precision("auto", [device]) == "bfloat16"
    # XLA convolves on several devices, whatever the chip.
    assert choose_precision("auto", [device] * 2) == "float32"


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [
        ([("cpu", None)], "float32"),
        ([("tpu", None)], "bfloat16"),
        ([("gpu", "9.0")], "bfloat16"),
        ([("gpu", "12.0")], "bfloat16"),
        ([("gpu", "7.5")], "float32"),
        ([("gpu", "gfx942:sramecc+:xnack-")], "bfloat16"),
        ([("gpu", "gfx1030")], "float32"),
        ([("gpu", "9.0"), ("gpu", "7.0")], "float32"),
        ([("metal", "")], "float32"),
    ],
)
def test_auto_is_what_all_devices_multiply(devices, chosen):
    """NVIDIA's compute capabilities as JAX writes them, and AMD's targets."""
    found = [
        SimpleNamespace(platform=platform)
        if kind is None
        else SimpleNamespace(platform=platform, compute_capability=kind)
        for platform, kind in devices
    ]
    assert choose_precision("auto", found) == chosen
    for named in ("float32", "bfloat16"):
        assert choose_precision(named, found) == named
    with pytest.raises(ValueError, match=r"auto.*float32.*bfloat16"):
        choose_precision("float16", found)
