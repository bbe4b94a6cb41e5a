"""Convolution: values, derivatives, transforms, and what each backend is given."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from convolutions import WHO, choose, close, needs_cpu, plain
from flax import nnx

from jaxtune import (
    TrainState,
    cross_entropy,
    evaluating,
    group_labels,
    group_optimizer,
    make_eval_step,
    make_predict_step,
    make_train_step,
    one_cycle,
    optimizer_labels,
    split_module,
    training_view,
    with_precision,
)
from jaxtune.models import BasicBlock, Bottleneck, ResNet, convolution
from jaxtune.models.convolution import convolve, convolve_affine

#: (side, channels in, out, kernel, stride, padding); the last has phases of no taps.
SHAPES = [
    (9, 16, 8, 3, 1, 1),
    (9, 16, 8, 3, 2, 1),
    (8, 16, 8, 3, 2, 1),
    (8, 16, 8, 3, 1, 0),
    (13, 3, 8, 7, 2, 3),
    (11, 16, 4, 5, 3, 2),
    (8, 16, 8, 1, 2, 0),
    (7, 16, 8, 1, 2, 1),
]

_ONE = {"stride": 1, "padding": 1}

#: Of derivatives of a sine of outputs, which makes more of the order of additions;
#: oneDNN's is another on each chip.
ROUNDING = {"XLA": 1e-5, "oneDNN": 3e-5}


@pytest.fixture(params=WHO)
def by(request, monkeypatch):
    """Both convolve in turn."""
    choose(request.param, monkeypatch)
    return request.param


def arrays(side, channels, outputs, kernel):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, side, side, channels), (kernel, kernel, channels, outputs)] * 2
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


@pytest.mark.parametrize(
    ("side", "channels", "outputs", "kernel", "stride", "padding"), SHAPES
)
def test_values_and_derivatives_of_both_kinds_are_jaxs(
    by, side, channels, outputs, kernel, stride, padding
):
    x, weight, *moved = arrays(side, channels, outputs, kernel)

    @functools.partial(jax.jit, static_argnums=0)
    def found(convolution, x, weight, moved):
        f = functools.partial(convolution, stride=stride, padding=padding)

        def loss(x, weight):
            return jnp.sin(f(x, weight)).sum()

        derivatives = [jax.grad(loss, a)(x, weight) for a in (0, 1, (0, 1))]
        return f(x, weight), *derivatives, jax.jvp(f, (x, weight), tuple(moved))

    ours, theirs = (found(f, x, weight, moved) for f in (convolve, plain))
    close(ours, theirs, atol=ROUNDING[by])
    sizes = {"stride": stride, "padding": padding}
    close(convolve(x, weight, **sizes), plain(x, weight, **sizes))


def test_each_images_gradient_and_second_derivatives_are_jaxs(by):
    x, weight, moved, _ = arrays(6, 16, 4, 3)
    sizes = {"stride": 1, "padding": 1}

    def of_one(f):
        return lambda weight, x: (f(x[None], weight, **sizes) ** 3).mean()

    def each(f):
        return jax.jit(jax.vmap(jax.grad(of_one(f)), (None, 0)))(weight, x)

    def along(f):
        slope = jax.grad(lambda x: of_one(f)(weight, x))
        return jax.jvp(slope, (x[0],), (moved[0],))

    def twice(f):
        def slope(weight, x):
            return (jax.grad(of_one(f))(weight, x) ** 2).sum()

        return jax.jit(jax.grad(slope, (0, 1)))(weight, x[0])

    for found in (each, along, twice):
        close(found(convolve), found(plain))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_what_follows_a_convolution_is_computed_with_its_derivatives(by, adds, relu):
    x, weight, _, _ = arrays(9, 16, 8, 3)
    keys = jax.random.split(jax.random.key(1), 3)
    scale, shift = (jax.random.normal(key, (8,)) for key in keys[:2])
    residual = jax.random.normal(keys[2], (2, 9, 9, 8)) if adds else None

    def ours(*given):
        return convolve_affine(*given, relu=relu, **_ONE)

    def theirs(x, weight, scale, shift, residual):
        y = plain(x, weight, **_ONE) * scale + shift
        y = y + residual if adds else y
        return jnp.where(y > 0, y, 0) if relu else y

    @functools.partial(jax.jit, static_argnums=0)
    def found(f, given):
        def loss(given):
            return jnp.sin(f(*given)).sum()

        def of_scale(scale):
            return loss((*given[:2], scale, *given[3:]))

        def of_one(x):
            return f(x[None], *given[1:4], None)

        return (
            f(*given),
            jax.grad(loss)(given),
            jax.grad(of_scale)(given[2]),
            jax.jvp(loss, (given,), (given,)),
            jax.vmap(of_one)(given[0]) if not adds else None,
        )

    given = (x, weight, scale, shift, residual)
    close(found(ours, given), found(theirs, given), atol=ROUNDING[by])
    close(ours(*given), theirs(*given))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_value_that_is_no_number_stays_so_after_relu(by, dtype):
    x = -jnp.ones((1, 4, 4, 16), dtype).at[0, 1, 1, 3].set(jnp.nan)
    weight, scale = jnp.ones((1, 1, 16, 8), dtype), jnp.ones(8)
    y = convolve_affine(x, weight, scale, 0 * scale, relu=True).astype("float32")
    assert jnp.isnan(y[0, 1, 1]).all() and jnp.isnan(y).sum() == 8
    assert (jnp.nan_to_num(y) == 0).all() and not jnp.signbit(jnp.nan_to_num(y)).any()


def test_groups_and_very_small_maps_are_jaxs(by):
    x, weight, *_ = arrays(2, 16, 8, 3)
    close(convolve(x, weight, **_ONE), plain(x, weight, **_ONE))
    close(
        convolve(x, weight[:, :, :4], padding=1, groups=4),
        plain(x, weight[:, :, :4], padding=1, groups=4),
    )


def test_nothing_is_read_beyond_what_is_given(by):
    x, weight, *_ = arrays(9, 16, 8, 3)
    outputs = convolve(x, weight, **_ONE)
    means = outputs.mean((1, 2), keepdims=True)

    def found(scale, residual):
        # As it is called where nothing checks types.
        given = (x, weight, scale, jnp.zeros(8), residual)
        return convolution._affine(*given, False, (1, 1, 1))

    close(found(jnp.full(1, 2.0), means), 2 * outputs + means)
    for scale, residual in ((jnp.ones(3), None), (jnp.ones(8), x)):
        with pytest.raises(ValueError, match="broadcast"):
            found(scale, residual)


def test_what_does_not_fit_is_refused_before_anything_is_compiled():
    x, weight, *_ = arrays(9, 16, 8, 3)
    with pytest.raises((TypeError, ValueError), match="feature"):
        convolve(x[..., :5], weight)
    with pytest.raises(TypeError, match="bfloat16"):
        convolve(x, weight.astype("bfloat16"))


@pytest.mark.parametrize("kernel", [1, 3])
def test_weights_in_float32_are_rounded_for_narrow_images_and_their_gradient_is_not(
    by, kernel
):
    x, weight, *_ = arrays(8, 16, 8, kernel)
    x = x.astype("bfloat16")

    def outputs(x, weight, form=convolve):
        return form(x, weight, stride=2)

    def rounded(x, weight):
        return outputs(x, weight.astype("bfloat16"), plain)

    def loss(form):
        return lambda *given: (form(*given).astype("float32") ** 2).sum()

    assert outputs(x, weight).dtype == "bfloat16"
    close(outputs(x, weight), rounded(x, weight), rtol=2**-7, atol=2**-7)
    found = jax.jit(jax.grad(loss(outputs), (0, 1)))(x, weight)
    expected = jax.grad(loss(rounded), (0, 1))(x, weight)
    assert [slope.dtype for slope in found] == ["bfloat16", "float32"]
    close(found, expected, rtol=2**-5, atol=2**-6)
    twice = jax.grad(lambda w: jax.grad(loss(outputs), 1)(x, w).sum())(weight)
    assert twice.dtype == "float32" and twice.shape == weight.shape


def test_outside_of_a_program_it_is_compiled_once(by):
    x, weight, *_ = arrays(9, 16, 8, 3)
    convolve(x, weight)
    before = [program._cache_size() for program in convolution._compiled]
    for _ in range(3):
        close(convolve(x, weight), plain(x, weight))
    assert [program._cache_size() for program in convolution._compiled] == before
    assert sum(before) > 0


def test_without_jit_it_still_computes(by):
    x, weight, *_ = arrays(6, 16, 8, 3)
    with jax.disable_jit():
        close(convolve(x, weight), plain(x, weight))
        close(jax.grad(lambda w: convolve(x, w).sum())(weight),
              jax.grad(lambda w: plain(x, w).sum())(weight))  # fmt: skip


def test_the_precision_that_one_asks_for_reaches_the_products():
    x, weight, *_ = arrays(6, 16, 8, 3)

    def precisions(name):
        with jax.default_matmul_precision(name):
            traced = jax.jit(jax.grad(lambda w: convolve(x, w).sum())).trace(weight)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        return set(re.findall(r"precision (\w+), precision \w+|precision_config = "
                              r"\[#stablehlo<precision (\w+)>", text))  # fmt: skip

    assert {name for found in precisions("highest") for name in found if name} == {
        "HIGHEST"
    }
    assert "HIGHEST" not in str(precisions("default"))


# What each backend is given.


@pytest.fixture(scope="module")
def lowered():
    """Text of a program for some platforms, by network, precision and step."""
    rows = {
        "image": jax.ShapeDtypeStruct((4, 64, 64, 3), "float32"),
        "label": jax.ShapeDtypeStruct((4,), "int32"),
    }
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)

    @functools.cache
    def step(kind, precision, case):
        net = nnx.eval_shape(lambda: ResNet(*kind, num_classes=5, rngs=nnx.Rngs(0)))
        groups = {"body": "conv1|bn1|layer", "head": "fc"}
        labels = group_labels(split_module(net)[1], groups)
        if case in ("eval", "predict"):
            view = with_precision(evaluating(net), precision)
            graphdef, params, model_state = split_module(view)
            if case == "eval":
                made = make_eval_step(graphdef, loss=cross_entropy)
                return jax.jit(made), (params, model_state, rows)
            made = make_predict_step(graphdef)
            return jax.jit(made), (params, model_state, rows["image"])
        frozen = ("body",) if case == "frozen" else ()
        trained = optimizer_labels(labels, frozen)
        view = with_precision(training_view(net, labels, frozen), precision)
        graphdef, params, model_state = split_module(view)
        tx = group_optimizer(trained, {"body": 1e-4, "head": 1e-3}, one_cycle(9))
        made = make_train_step(graphdef, tx, loss=cross_entropy, labels=trained)
        state = jax.eval_shape(
            lambda p, m: TrainState.create(p, m, tx), params, model_state
        )
        return jax.jit(made), (state, rows, key)

    def text(kind, precision, case, *platforms):
        program, given = step(kind, precision, case)
        if len(platforms) > 1:
            return jax.export.export(program, platforms=platforms)(*given)
        return program.trace(*given).lower(lowering_platforms=platforms).as_text()

    return text


#: Of each block one with a shortcut of its own and one without.
BASIC, BOTTLENECK = (BasicBlock, (2, 1, 1, 1)), (Bottleneck, (2, 1, 1, 1))
CONVOLUTIONS = {BASIC: 14, BOTTLENECK: 20}
CASES = ("frozen", "unfrozen", "eval", "predict")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_on_gpu_and_tpu_a_convolution_is_a_convolution(lowered, kind, precision):
    many = CONVOLUTIONS[kind]
    for case in CASES:
        # The first layer needs no gradient by the photos.
        wanted = 3 * many - 1 if case == "unfrozen" else many
        # The classifier is the only product.
        products = {"unfrozen": 3, "frozen": 2}.get(case, 1)
        for platform in ("cuda", "tpu"):
            text = lowered(kind, precision, case, platform)
            assert text.count("stablehlo.convolution") == wanted
            assert text.count("stablehlo.dot_general") == products
            assert "custom_call" not in text
            assert "optimization_barrier" not in text


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [BASIC, BOTTLENECK], ids=["basic", "bottleneck"])
def test_one_traced_step_is_exported_for_every_platform(
    lowered, kind, precision, case, monkeypatch
):
    monkeypatch.setenv("JAXTUNE_ONEDNN", "1")
    exported = lowered(kind, precision, case, "cpu", "cuda", "tpu")
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "jaxtune_convolution" not in exported.mlir_module()
    assert len(exported.mlir_module_serialized) > 0


@needs_cpu
def test_an_exported_program_computes_what_the_program_does(by):
    x, weight, *_ = arrays(9, 16, 8, 3)
    program = jax.jit(jax.grad(lambda w: (convolve(x, w, **_ONE) ** 2).mean()))
    exported = jax.export.export(program, platforms=["cpu", "cuda"])(weight)
    close(exported.call(weight), program(weight))


@needs_cpu
def test_it_is_not_called_where_a_program_is_divided_among_devices(monkeypatch):
    """XLA divides a convolution of its own; a call it can only copy everywhere."""
    choose("oneDNN", monkeypatch)
    devices = jax.sharding.AbstractMesh((2,), ("data",))
    rows = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("data"))
    x, weight, *_ = arrays(9, 16, 8, 3)

    def text(sharding):
        given = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        traced = jax.jit(lambda x: convolve(x, weight)).trace(given)
        return traced.lower(lowering_platforms=("cpu",)).as_text()

    assert "jaxtune_convolution" in text(None)
    assert "jaxtune_convolution" not in text(rows)
    assert "stablehlo.convolution" in text(rows)
