"""XLA's fast forms on a CPU: values, and what is compiled."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import choose, convolutions, needs_cpu, plain
from hypothesis import given, settings

from jaxtune.models.convolution import convolve
from jaxtune.models.cpu.forms import cpu_convolution
from jaxtune.models.plain import plain_convolution
from jaxtune.train import compile_step

_ONE = {"stride": 1, "padding": 1}


@pytest.fixture(autouse=True)
def by_xla(monkeypatch):
    choose("XLA", monkeypatch)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    convolutions(groups=[1, 1, 2], channels=[1, 3, 8, 16], batches=[1, 2, 3], beyond=8)
)
def test_every_array_of_any_convolution_is_the_plain_one(case):
    (images, weight, outputs), window = case
    rng = np.random.default_rng(0)
    x, w, y = (rng.normal(size=s).astype("float32") for s in (images, weight, outputs))

    @functools.partial(jax.jit, static_argnums=0)
    def found(form, x, w, y):
        made = functools.partial(form, **window, precision=None)
        return (
            made(x, w, result="outputs", shape=outputs),
            made(y, w, result="images", shape=images),
            made(x, y, result="weight", shape=weight),
        )

    for ours, theirs in zip(
        found(cpu_convolution, x, w, y), found(plain_convolution, x, w, y), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def arrays(side, channels, outputs, kernel):
    keys = jax.random.split(jax.random.key(0))
    shapes = [(2, side, side, channels), (kernel, kernel, channels, outputs)]
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


@needs_cpu
def test_the_weights_gradient_reads_arrays_and_computes_none_again():
    """What XLA lays out anew for it must be laid out, not recomputed on the way."""
    x, weight = arrays(12, 16, 16, 3)

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


@needs_cpu
def test_a_frozen_layers_gradient_is_not_computed():
    x, weight = arrays(12, 16, 16, 3)

    def count(**arguments):
        gradient = jax.grad(lambda x, w: convolve(x, w, **_ONE).sum(), **arguments)
        text = jax.jit(gradient).lower(x, weight).compile().as_text()
        return len(re.findall(r" convolution\(", text))

    assert count(argnums=0) == 1
    assert count(argnums=1) == 1
    assert count(argnums=(0, 1)) == 2


@needs_cpu
def test_one_pixel_kernels_and_maps_of_few_places_are_products():
    def text(side, kernel, padding):
        step = jax.jit(jax.grad(lambda *a: convolve(*a, padding=padding).sum(), (0, 1)))
        return step.lower(*arrays(side, 16, 8, kernel)).as_text()

    for shape in ((6, 1, 0), (2, 3, 1)):
        assert "stablehlo.convolution" not in text(*shape)
        assert "dot_general" in text(*shape)
    assert "stablehlo.convolution" in text(6, 3, 1)


def test_bfloat16_stays_so():
    x, weight = (a.astype("bfloat16") for a in arrays(9, 16, 8, 3))
    loss = jax.grad(lambda *a: convolve(*a, stride=2).astype("float32").sum(), (0, 1))
    assert [a.dtype for a in loss(x, weight)] == [jnp.bfloat16] * 2
