import jax
import jax.numpy as jnp
import pytest

from jaxtune.loop import memory
from jaxtune.loop.memory import (
    MemoryNeed,
    OutOfMemoryError,
    check_fits,
    device_errors,
    memory_limit,
    out_of_memory,
)

GIB = 2**30


class Gpu:
    platform, id, device_kind = "gpu", 0, "NVIDIA H100 80GB HBM3"

    def memory_stats(self):
        return {"bytes_limit": 60 * GIB, "bytes_in_use": GIB}


def need(**options) -> MemoryNeed:
    given = {"device": Gpu(), "accumulation": 1, "fixed": GIB, "growing": 90 * GIB}
    return MemoryNeed("a train step", **({"rows": 512} | given | options))


def real_need(rows: int) -> MemoryNeed:
    """Of a real step, which donates its state, by the compiler's own count."""

    def step(state, batch):
        def loss(weights):
            hidden = batch
            for weight in weights:
                hidden = jnp.tanh(hidden @ weight)
            return (hidden**2).mean()

        return jax.tree.map(lambda w, g: w - g, state, jax.grad(loss)(state))

    state = [jnp.zeros((64, 64))] * 4
    batch = jnp.zeros((rows, 64))
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    plain = MemoryNeed("a step", rows, jax.local_devices()[0])
    return plain.measured(compiled.memory_analysis(), batch.nbytes)


def message_of(error: Exception, needed: MemoryNeed | None) -> str:
    with pytest.raises(OutOfMemoryError) as caught, device_errors(lambda: needed):
        raise error
    assert caught.value.__cause__ is error and isinstance(caught.value, MemoryError)
    return str(caught.value)


def test_the_estimate_fits_by_the_compilers_own_count():
    """A batch that should fit does, and one not much larger does not."""
    tried = real_need(4096)
    for share in (0.75, 0.5, 0.25):
        limit = int(tried.total * share)
        rows = tried.rows_that_fit(limit)
        assert real_need(rows).total <= limit * 1.01
        assert real_need(int(rows * 1.2)).total > limit


def test_the_need_is_arguments_results_and_what_lies_between():
    compiled = jax.jit(lambda x: (x @ x.T).sum()).lower(jnp.zeros((256, 8))).compile()
    analysis = compiled.memory_analysis()
    found = need(rows=256).measured(analysis, 256 * 8 * 4)
    assert found.total == (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    assert need(fixed=None).measured(None, 10).total is None


def test_rows_that_fit_are_whole_numbers_of_devices():
    assert need().rows_that_fit(91 * GIB) == 512
    assert need().rows_that_fit(46 * GIB) == 256
    assert need(devices=3).rows_that_fit(46 * GIB) == 255
    assert need().rows_that_fit(GIB // 2) == 0
    assert need(fixed=None).rows_that_fit(GIB) is None


def test_a_program_that_can_not_fit_is_refused_before_it_runs():
    check_fits(need(), 91 * GIB)
    check_fits(need(), None)
    with pytest.raises(OutOfMemoryError) as caught:
        check_fits(need(), 60 * GIB)
    assert str(caught.value) == (
        "gpu:0 (NVIDIA H100 80GB HBM3) is out of memory: a train step with a batch of "
        "512 needs 91.0 GiB, and there is 60.0 GiB. By estimate, batch_size=256 "
        "fits; with gradient_accumulation_steps=2 it trains as this one does. A "
        "smaller size= of photos needs less, too, and on a GPU or TPU so "
        'do precision="bfloat16" and rematerialize=True.'
    )


def test_accumulation_that_there_is_is_counted_on():
    said = out_of_memory(need(accumulation=3, devices=4), 40 * GIB)
    assert "on 4 devices needs 91.0 GiB of each" in said
    assert "batch_size=128 fits; with gradient_accumulation_steps=12" in said
    said = out_of_memory(need(accumulation=None), 40 * GIB)
    assert "gradient_accumulation_steps" not in said and "batch_size=128 fits." in said


def test_where_nothing_fits_smaller_photos_are_the_way_out():
    said = out_of_memory(need(fixed=70 * GIB), 60 * GIB)
    assert "not even the smallest batch fits. Take a smaller size=" in said


def test_memory_that_something_else_holds_is_said_to_be_held():
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 3221225472 bytes."
    )
    said = message_of(error, need(growing=GIB))
    assert "needs 2.0 GiB, and there is 60.0 GiB, of which too much is in use" in said
    assert "Another process may hold the card's memory" in said
    assert "XLA_PYTHON_CLIENT_PREALLOCATE=false" in said


@pytest.mark.parametrize(
    "said",
    [
        "INTERNAL: cuDNN launch failure: CUDNN_STATUS_INTERNAL_ERROR",
        "INTERNAL: failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED",
        "INTERNAL: Failed to allocate 3145728 bytes for new constant",
    ],
)
def test_libraries_that_did_not_start_lack_memory(said):
    message = message_of(jax.errors.JaxRuntimeError(said), need())
    assert "libraries did not start" in message and "Another process" in message
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in message


def test_before_any_program_the_devices_own_words_are_kept():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room for 5 bytes\nmore")
    message = message_of(error, None)
    assert "RESOURCE_EXHAUSTED: no room for 5 bytes." in message
    assert "XLA_PYTHON_CLIENT" in message


def test_a_compiler_that_says_what_it_needs_is_quoted():
    """A TPU's, which refuses the program."""
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
        "memory space hbm. Used 30.00G of 15.75G hbm. Exceeded hbm capacity by 14.25G."
    )
    message = message_of(error, need(fixed=None, growing=None))
    assert "needs 30.0 GiB, and there is 15.8 GiB. By estimate, batch_size=256" in (
        message
    )


def test_where_the_need_is_not_known_half_the_batch_is_a_try():
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    message = message_of(error, need(fixed=None, growing=None))
    assert "a batch of 512 does not fit. Try batch_size=256; with" in message


def test_other_errors_pass():
    for error in (ValueError("no"), jax.errors.JaxRuntimeError("INTERNAL: no")):
        with pytest.raises(type(error)) as caught, device_errors(need):
            raise error
        assert caught.value is error


def test_a_processors_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch):
    device = jax.local_devices(backend="cpu")[0]
    whole = memory_limit(device)
    assert whole is None or whole > GIB // 4
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "_CONTAINER_LIMITS", (str(limit),))
    limit.write_text("1048576\n")
    assert memory_limit(device) == 2**20
    limit.write_text("max\n")
    assert memory_limit(device) != 2**20
    assert memory_limit(Gpu()) == 60 * GIB


def test_small_sizes_read_well():
    assert memory.size_text(512) == "512 bytes"
    assert memory.size_text(3 * 2**20) == "3.0 MiB"
