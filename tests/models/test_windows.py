"""Convolution and pooling: values, derivatives, transforms, and what is compiled."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import plain

from jaxtune.models.convolution import onednn_computes
from jaxtune.models.windows import convolve, convolve_affine, global_max, max_pool
from jaxtune.train import compile_step

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


@pytest.fixture
def by_xla(monkeypatch):
    """Only XLA convolves, as it does where oneDNN is not installed."""
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")


@pytest.fixture(params=["oneDNN", "XLA"])
def by(request):
    """Both convolve in turn."""
    if request.param == "XLA":
        request.getfixturevalue("by_xla")
    elif not onednn_computes("float32"):
        pytest.skip("oneDNN does not convolve here")


def arrays(side, channels, outputs, kernel):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, side, side, channels), (kernel, kernel, channels, outputs)] * 2
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def close(ours, theirs):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a, b, rtol=1e-5, atol=1e-5 * max(10, float(jnp.abs(b).max()))
        ),
        ours,
        theirs,
    )


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

    close(found(convolve, x, weight, moved), found(plain, x, weight, moved))
    sizes = {"stride": stride, "padding": padding}
    close(convolve(x, weight, **sizes), plain(x, weight, **sizes))


def test_each_images_gradient_and_a_second_derivative_are_jaxs(by):
    x, weight, moved, _ = arrays(6, 16, 4, 3)
    sizes = {"stride": 1, "padding": 1}

    def of_one(f):
        return lambda weight, x: (f(x[None], weight, **sizes) ** 3).mean()

    def each(f):
        return jax.jit(jax.vmap(jax.grad(of_one(f)), (None, 0)))(weight, x)

    def along(f):
        slope = jax.grad(lambda x: of_one(f)(weight, x))
        return jax.jvp(slope, (x[0],), (moved[0],))

    close(each(convolve), each(plain))
    close(along(convolve), along(plain))


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
    close(found(ours, given), found(theirs, given))
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
    close(
        convolve(x, weight, stride=1, padding=1), plain(x, weight, stride=1, padding=1)
    )
    grouped = convolve(x, weight[:, :, :4], padding=1, groups=4)
    apart = [
        plain(x[..., i : i + 4], weight[:, :, :4, i // 2 : i // 2 + 2], **_ONE)
        for i in range(0, 16, 4)
    ]
    close(grouped, jnp.concatenate(apart, -1))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU backend only")
def test_the_weights_gradient_reads_arrays_and_computes_none_again(by_xla):
    """What XLA lays out anew for it must be laid out, not recomputed on the way."""
    x, weight, *_ = arrays(12, 16, 16, 3)

    def loss(convolution, weights, x):
        for weight in weights:
            y = convolution(x, weight, **_ONE)
            x = jax.nn.relu((y - y.mean((0, 1, 2))) * 1.5 + x)
        return (x**2).mean()

    def fused_layouts(convolution):
        step = compile_step(jax.grad(functools.partial(loss, convolution)))
        text = step.lower([weight, weight, weight], x).compile().as_text()
        # The images, channels first and the batch last, as the gradient wants them.
        return re.findall(r"= f32\[16,12,12,2\]\S* fusion\((.*?)\), kind", text)

    assert any(operands.count("%") > 1 for operands in fused_layouts(plain))
    assert all(operands.count("%") == 1 for operands in fused_layouts(convolve))


def test_a_frozen_layers_gradient_is_not_computed(by_xla):
    x, weight, *_ = arrays(12, 16, 16, 3)

    def count(**arguments):
        gradient = jax.grad(lambda x, w: convolve(x, w, **_ONE).sum(), **arguments)
        text = jax.jit(gradient).lower(x, weight).compile().as_text()
        return len(re.findall(r" convolution\(", text))

    assert count(argnums=0) == 1
    assert count(argnums=1) == 1
    assert count(argnums=(0, 1)) == 2


@pytest.mark.parametrize(
    ("side", "window", "stride", "padding"),
    [(8, 3, 2, 1), (9, 3, 2, 1), (7, 2, 2, 0), (9, 5, 3, 2)],
)
def test_max_pools_values_and_gradient_are_jaxs(side, window, stride, padding):
    x, _, moved, _ = arrays(side, 4, 1, 1)
    sizes = ((window, window), (stride, stride), ((padding, padding),) * 2)

    def ours(x):
        return max_pool(x, window, stride, padding)

    def theirs(x):
        return jax.lax.reduce_window(
            x,
            -jnp.inf,
            jax.lax.max,
            (1, *sizes[0], 1),
            (1, *sizes[1], 1),
            ((0, 0), *sizes[2], (0, 0)),
        )

    close(ours(x), theirs(x))
    close(
        jax.grad(lambda x: (ours(x) ** 2).sum())(x),
        jax.grad(lambda x: (theirs(x) ** 2).sum())(x),
    )
    close(jax.jvp(ours, (x,), (moved,)), jax.jvp(theirs, (x,), (moved,)))


def test_of_equal_places_the_first_gets_the_gradient_and_padding_none():
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.zeros((1, 4, 4, 1)))
    first = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, :, :, 0], first)
    below = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.full((1, 4, 4, 1), -5.0))
    np.testing.assert_array_equal(below, gradient)


def test_the_maximum_of_a_map_and_its_derivatives_are_jaxs():
    x, _, moved, _ = arrays(5, 4, 1, 1)
    x, moved = x[:, :3], moved[:, :3]

    def theirs(x):
        return x.max((1, 2))

    for f in (global_max, jax.vmap(lambda x: global_max(x[None])[0])):
        np.testing.assert_array_equal(f(x), theirs(x))
        close(
            jax.grad(lambda x, f=f: (f(x) ** 3).sum())(x),
            jax.grad(lambda x: (theirs(x) ** 3).sum())(x),
        )
        close(jax.jvp(f, (x,), (moved,)), jax.jvp(theirs, (x,), (moved,)))
    ties = jax.grad(lambda x: global_max(x).sum())(jnp.zeros((1, 2, 2, 1)))
    assert ties.ravel().tolist() == [1, 0, 0, 0]
    assert jnp.isnan(global_max(x.at[1, 2, 2, 3].set(jnp.nan))[1, 3])


def test_a_maximum_has_a_gradient_where_the_layer_before_is_rounded_in_two_ways():
    x, *_ = arrays(7, 8, 1, 1)

    def loss(scale):
        # A batch norm, which XLA computes for the maximum and for its gradient again.
        y = (x - x.mean((0, 1, 2))) * (jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5) * scale)
        return (global_max(y + 0.1 * scale) ** 2).sum()

    # Without LLVM's passes the two are not the same to the last bit.
    plain = {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    }
    gradients = [
        jax.jit(jax.grad(loss), compiler_options=options)(jnp.ones(8))
        for options in (plain, {})
    ]
    close(*gradients)


def test_pooling_a_value_that_is_no_number_is_no_number():
    x = jnp.ones((1, 4, 4, 1)).at[0, 0, 0, 0].set(jnp.nan)
    value, _ = jax.value_and_grad(lambda x: max_pool(x, 3, 2, 1)[0, 0, 0, 0])(x)
    assert jnp.isnan(value)
    assert jnp.isnan(max_pool(x, 3, 2, 1)[0, 0, 0, 0])
