"""The primitive: derivatives of every kind, programs kept on disk, where it is used."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import plain

from jaxtune.models import convolution
from jaxtune.models.convolution import (
    onednn_computes,
    onednn_convolve,
    onednn_convolve_affine,
)

WINDOW = {"stride": 2, "padding": 1, "groups": 2}

here = pytest.mark.skipif(
    not onednn_computes("float32"), reason="oneDNN does not convolve here"
)


def arrays(dtype="float32", count=4):
    keys = jax.random.split(jax.random.key(0), count)
    shapes = [(2, 7, 6, 8), (3, 3, 4, 6)] * 2
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=False)]


def close(ours, theirs, tolerance=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32),
            np.asarray(b, np.float32),
            rtol=tolerance,
            atol=tolerance * float(jnp.abs(b).max()),
        ),
        ours,
        theirs,
    )


def of(function):
    return lambda images, weight: function(images, weight, **WINDOW)


@here
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-6)]
)
def test_values_and_gradients_are_jaxs(dtype, tolerance):
    images, weight, _, _ = arrays(dtype)

    def loss(function):
        return lambda *a: (function(*a).astype("float32") ** 3).mean()

    close(of(onednn_convolve)(images, weight), of(plain)(images, weight), tolerance)
    for arguments in (0, 1, (0, 1)):
        ours, theirs = (
            jax.jit(jax.grad(loss(of(f)), arguments))(images, weight)
            for f in (onednn_convolve, plain)
        )
        close(ours, theirs, tolerance)


@here
def test_forward_and_reverse_go_through_each_other():
    images, weight, moved_images, moved_weight = arrays()
    moved = (moved_images, moved_weight)

    def found(function):
        def loss(*a):
            return jnp.sin(of(function)(*a)).sum()

        def slope(*a):
            return jax.jvp(loss, a, moved)[1]

        return (
            jax.jvp(jax.grad(loss, (0, 1)), (images, weight), moved),
            jax.grad(slope, (0, 1))(images, weight),
            jax.vmap(jax.grad(lambda x, w: loss(x[None], w), 1), (0, None))(
                images, weight
            ),
            jax.grad(lambda w: jax.checkpoint(loss)(images, w))(weight),
        )

    close(found(onednn_convolve), found(plain), 1e-4)


@here
def test_outside_of_a_program_it_is_compiled_once():
    images, weight, *_ = arrays()
    of(onednn_convolve)(images, weight)
    before = convolution._compiled._cache_size()
    for _ in range(3):
        close(of(onednn_convolve)(images, weight), of(plain)(images, weight))
    assert convolution._compiled._cache_size() == before > 0


@here
def test_only_gradients_that_are_asked_for_are_computed():
    images, weight, *_ = arrays()

    def calls(**arguments):
        gradient = jax.grad(lambda *a: of(onednn_convolve)(*a).sum(), **arguments)
        text = jax.jit(gradient).lower(images, weight).compile().as_text()
        return len(re.findall(r"custom_call_target=\"jaxtune_convolution\"", text))

    assert calls(argnums=0) == 1 and calls(argnums=1) == 1
    assert calls(argnums=(0, 1)) == 2


@here
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_convolution_and_what_follows_are_one_call_where_nothing_is_differentiated(
    differentiated,
):
    images, weight, *_ = arrays()
    scale, shift = jnp.ones(6), jnp.zeros(6)

    def loss(scale):
        given = (images, weight, scale, shift, None)
        return onednn_convolve_affine(*given, relu=True, **WINDOW).sum()

    program = jax.jit(jax.grad(loss) if differentiated else loss)
    text = str(program.trace(scale).jaxpr)
    assert ("onednn_convolution_affine" in text) is not differentiated
    text = program.lower(scale).compile().as_text()
    assert text.count('custom_call_target="jaxtune_convolution"') == 1


@here
def test_nothing_is_read_beyond_what_is_given():
    images, weight, *_ = arrays()
    outputs, window = of(onednn_convolve)(images, weight), tuple(WINDOW.values())

    def affine(scale, residual):
        given = (images, weight, scale, jnp.zeros(6), residual)
        return convolution._affine(*given, False, window)

    means = outputs.mean((1, 2), keepdims=True)
    close(affine(jnp.full(1, 2.0), means), 2 * outputs + means)
    for scale, residual in ((jnp.ones(3), None), (jnp.ones(6), images)):
        with pytest.raises(ValueError, match="broadcast"):
            affine(scale, residual)


def test_it_is_off_where_it_can_not_be_used(monkeypatch):
    assert not onednn_computes("float64") and not onednn_computes("int32")
    monkeypatch.setattr(convolution, "_registered", lambda: True)
    assert onednn_computes("float32") == (jax.default_backend() == "cpu")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not onednn_computes("float32")
    monkeypatch.undo()
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")
    assert not onednn_computes("float32")


PROGRAM = """
import sys, jax, jax.numpy as jnp, jax.monitoring
from jaxtune.models.windows import convolve
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
weight = jnp.ones((3, 3, 8, 8))
loss = jax.jit(jax.grad(lambda w: (convolve(jnp.ones((2, 9, 9, 8)), w) ** 2).mean()))
print(float(loss(weight).sum()), "/jax/compilation_cache/cache_hits" in hits)
"""


@here
def test_a_program_that_was_kept_on_disk_runs_in_another_process(tmp_path):
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, tmp_path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert found[0][0] == found[1][0]
    assert [hit for _, hit in found] == ["False", "True"]


LEAVES = """
import jax, jax.numpy as jnp
from jaxtune.models.windows import convolve
def body(_, x):
    return convolve(x, w, padding=1)
step = jax.jit(lambda x: jax.lax.fori_loop(0, 50, body, x))
x, w = jnp.ones((8, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
jax.block_until_ready(step(x))
y = step(x)
{}
"""


@here
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del y"])
def test_a_process_may_end_while_a_program_runs(end):
    done = subprocess.run(
        [sys.executable, "-c", LEAVES.format(end)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
