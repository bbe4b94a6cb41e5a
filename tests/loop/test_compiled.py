import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.loop import compiled_steps as compiled
from jaxtune.loop.compiled_steps import CompiledStep
from jaxtune.loop.memory import OutOfMemoryError


def make(step=lambda state, batch: (state + batch["x"].sum(), batch["x"].mean())):
    noted = []
    jitted = jax.jit(step, donate_argnums=0)
    made = CompiledStep(jitted, "a step", 1, note=noted.append, accumulation=1)
    return made, noted


def test_a_step_is_called_as_it_is_and_compiled_once():
    compilations = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            compilations.append(about["fun_name"])

    def one_of_its_own(state, batch):
        return state + batch["x"].sum(), batch["x"].mean()

    step, noted = make(one_of_its_own)
    assert step.__wrapped__ is one_of_its_own
    state, batch = jnp.zeros(3), {"x": np.ones((4, 2), np.float32)}
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for _ in range(3):
            state, mean = step(state, batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    np.testing.assert_array_equal(state, 24.0)
    assert step.count == 1 and compilations.count("jit(one_of_its_own)") == 1
    assert {(need.task, need.rows) for need in noted} == {("a step", 4)}
    assert noted[-1].total >= batch["x"].nbytes + state.nbytes


def test_what_can_not_fit_is_refused_with_its_state_whole(monkeypatch):
    step, noted = make()
    monkeypatch.setattr(compiled, "memory_limit", lambda device: 100)
    state = jnp.zeros(30)
    with pytest.raises(OutOfMemoryError, match="a step with a batch of 8 needs"):
        step(state, {"x": jnp.ones((8, 2))})
    assert not state.is_deleted() and step.count == 0
    assert noted[-1].rows == 8
    monkeypatch.setattr(compiled, "memory_limit", lambda device: 1000)
    step(state, {"x": jnp.ones((8, 2))})
    assert state.is_deleted()


def test_a_form_that_is_compiled_ahead_compiles_nothing_more():
    step, _ = make(lambda state, batch: (state * 7 + batch["x"].sum(), state))
    state, x = jnp.zeros(3), jnp.ones((4, 2))
    step.compile(
        jax.ShapeDtypeStruct(state.shape, state.dtype),
        {"x": jax.ShapeDtypeStruct(x.shape, x.dtype)},
    )
    step(state, {"x": x})
    assert step.count == 1


def test_nothing_is_compiled_where_compiling_is_switched_off():
    step, noted = make()
    with jax.disable_jit():
        step(jnp.zeros(3), {"x": jnp.ones((4, 2))})
    assert not noted
