"""oneDNN in programs: which convolutions it computes, and that it ends no process."""

import itertools
import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest
from convolutions import choose, has_onednn, plain
from convolutions import close as nearly

from jaxtune.models.convolution import convolve, convolve_affine
from jaxtune.models.cpu import calls, onednn
from jaxtune.models.cpu.calls import onednn_computes, onednn_multiplies_bfloat16

WINDOW = {"stride": 2, "padding": 1, "groups": 2}

here = pytest.mark.skipif(
    not has_onednn(), reason=f"{onednn.DISTRIBUTION} can't be used here"
)


@pytest.fixture
def by_onednn(monkeypatch):
    choose("oneDNN", monkeypatch)


def arrays(dtype="float32", count=4):
    keys = jax.random.split(jax.random.key(0), count)
    shapes = [(2, 7, 6, 8), (3, 3, 4, 6)] * 2
    return [jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=False)]


def close(ours, theirs, tolerance=1e-5):
    nearly(ours, theirs, rtol=tolerance, atol=tolerance, least=0.0)


def of(function):
    return lambda images, weight: function(images, weight, **WINDOW)


def count_calls(text: str) -> int:
    return len(re.findall(r"@jaxtune_convolution|=\"jaxtune_convolution\"", text))


@here
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-6)]
)
def test_values_and_gradients_are_jaxs(by_onednn, dtype, tolerance):
    images, weight, _, _ = arrays(dtype)

    def loss(function):
        return lambda *a: (function(*a).astype("float32") ** 3).mean()

    close(of(convolve)(images, weight), of(plain)(images, weight), tolerance)
    for arguments in (0, 1, (0, 1)):
        ours, theirs = (
            jax.jit(jax.grad(loss(of(f)), arguments))(images, weight)
            for f in (convolve, plain)
        )
        close(ours, theirs, tolerance)


@here
def test_forward_and_reverse_go_through_each_other(by_onednn):
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

    close(jax.jit(found, static_argnums=0)(convolve), found(plain), 1e-4)


@here
def test_only_gradients_that_are_asked_for_are_computed(by_onednn):
    images, weight, *_ = arrays()

    def number(**arguments):
        gradient = jax.grad(lambda *a: of(convolve)(*a).sum(), **arguments)
        return count_calls(jax.jit(gradient).lower(images, weight).compile().as_text())

    assert number(argnums=0) == 1 and number(argnums=1) == 1
    assert number(argnums=(0, 1)) == 2


@here
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_convolution_and_what_follows_are_one_call_where_nothing_is_differentiated(
    by_onednn, differentiated
):
    images, weight, *_ = arrays()
    scale, shift = jnp.ones(6), jnp.zeros(6)

    def loss(scale):
        given = (images, weight, scale, shift, None)
        return convolve_affine(*given, relu=True, **WINDOW).sum()

    program = jax.jit(jax.grad(loss) if differentiated else loss)
    text = str(program.trace(scale).jaxpr)
    assert ("convolution_affine" in text) is not differentiated
    assert count_calls(program.lower(scale).compile().as_text()) == 1


def computes(dtype="float32", images=(2, 7, 6, 8), weight=(3, 3, 4, 6)) -> bool:
    given = [jax.core.ShapedArray(shape, dtype) for shape in (images, weight)]
    made = {"result": "outputs", "shape": (2, 4, 3, 6), "dtype": dtype}
    return onednn_computes(given, **made, **WINDOW)


@here
def test_it_computes_what_it_has_a_kernel_for(by_onednn, monkeypatch):
    assert computes()
    assert not computes("float64") and not computes("int32") and not computes("float16")
    assert not computes(images=(0, 7, 6, 8))
    assert not computes(images=(2, 7, 6, 10))
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")
    assert not computes()


@here
def test_what_it_has_no_kernel_for_is_xlas_before_the_program_runs(
    by_onednn, monkeypatch
):
    """As bfloat16 is on chips that don't have it."""
    described = onednn.Library.descriptor

    def refuse(self, kind, *arguments):
        if kind == "convolution_backward_weights":
            raise RuntimeError("oneDNN's primitive_desc_create failed with status 3.")
        return described(self, kind, *arguments)

    monkeypatch.setattr(onednn.Library, "descriptor", refuse)
    monkeypatch.setattr(calls, "_made", {})
    images, weight, *_ = arrays()
    step = jax.jit(jax.value_and_grad(lambda w: (of(convolve)(images, w) ** 2).mean()))
    # Forward it convolves all the same.
    assert count_calls(step.lower(weight).as_text()) == 1
    plain_step = jax.value_and_grad(lambda w: (of(plain)(images, w) ** 2).mean())
    close(step(weight), plain_step(weight))


def test_without_avx512_it_is_not_even_loaded(monkeypatch):
    monkeypatch.delenv("JAXTUNE_ONEDNN", raising=False)
    monkeypatch.setattr(calls, "_chip_has", lambda flag: False)
    monkeypatch.setattr(onednn, "library", lambda: pytest.fail("it was loaded"))
    assert not computes()


@here
def test_a_chip_that_is_told_to_be_a_lesser_one_counts_as_one(monkeypatch):
    monkeypatch.delenv("JAXTUNE_ONEDNN", raising=False)
    monkeypatch.setattr(calls, "_chip_has", lambda flag: True)
    for has in (False, True):
        monkeypatch.setattr(onednn.Library, "has_avx512", has)
        assert computes() is has


@here
def test_bfloat16_is_for_chips_with_matrix_units_that_may_be_used(monkeypatch):
    monkeypatch.setenv("JAXTUNE_ONEDNN", "1")
    for chip, library in itertools.product((False, True), repeat=2):
        monkeypatch.setattr(calls, "_chip_has", lambda flag, chip=chip: chip)
        monkeypatch.setattr(onednn.Library, "has_amx", library)
        assert onednn_multiplies_bfloat16() is (chip and library)
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")
    assert not onednn_multiplies_bfloat16()


@here
@pytest.mark.parametrize("follows", [False, True])
def test_a_photos_channels_become_sixteen_in_bfloat16(by_onednn, follows):
    """With three, matrix units multiply zeros for the most part."""
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (2, 12, 8, 3))
    weight = jax.random.normal(keys[1], (7, 7, 3, 16))
    window = {"stride": 2, "padding": 3}

    def found(function, images, weight):
        y = function(images, weight, **window)
        return jax.nn.relu(y * 2 + 1) if follows else y

    def ours(images, weight):
        if not follows:
            return convolve(images, weight, **window)
        scale, shift = jnp.full(16, 2.0), jnp.ones(16)
        return convolve_affine(images, weight, scale, shift, relu=True, **window)

    for dtype, wide in (("float32", 3), ("bfloat16", 16)):
        if not computes(dtype):
            pytest.skip("oneDNN has no bfloat16 on this chip")
        program = jax.jit(ours).lower(images.astype(dtype), weight)
        assert re.search(rf"jaxtune_convolution\(.*x{wide}x", program.as_text())
        assert count_calls(program.as_text()) == 1
        outputs = program.compile()(images.astype(dtype), weight)
        close(outputs, found(plain, images, weight), 1e-4 if wide == 3 else 2**-4)
    if follows:  # Rounding moves values across the ReLU's edge.
        return
    slope = jax.grad(lambda w: ours(images.astype("bfloat16"), w).sum())(weight)
    expected = jax.grad(lambda w: found(plain, images, w).sum())(weight)
    close(slope, expected, 2**-3)


def test_without_the_library_xla_convolves_in_silence(monkeypatch):
    monkeypatch.setenv("JAXTUNE_ONEDNN", "1")
    monkeypatch.setattr(onednn, "library", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not computes()


PROGRAM = """
import sys, jax, jax.numpy as jnp, jax.monitoring
from jaxtune.models.convolution import convolve
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
weight = jnp.ones((3, 3, 8, 8))
loss = jax.jit(jax.grad(lambda w: (convolve(jnp.ones((2, 9, 9, 8)), w) ** 2).mean()))
print(float(loss(weight).sum()), "/jax/compilation_cache/cache_hits" in hits)
"""


@here
@pytest.mark.end_to_end
def test_a_program_that_was_kept_on_disk_runs_in_another_process(by_onednn, tmp_path):
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
from jaxtune.models.convolution import convolve
def body(_, x):
    return convolve(x, w, padding=1)
step = jax.jit(lambda x: jax.lax.fori_loop(0, 50, body, x))
x, w = jnp.ones((8, 32, 32, 32)), jnp.ones((3, 3, 32, 32))
jax.block_until_ready(step(x))
y = step(x)
{}
"""


@here
@pytest.mark.end_to_end
@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del y"])
def test_a_process_may_end_while_a_program_runs(by_onednn, end):
    done = subprocess.run(
        [sys.executable, "-c", LEAVES.format(end)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
