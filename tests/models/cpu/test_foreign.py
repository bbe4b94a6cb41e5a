"""Calls from compiled programs into Python: shapes, several at a time, errors."""

import ctypes
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import needs_cpu
from processes import run_script

from jaxtune.models.cpu import foreign

SEEN = []


def array(operand):
    shape = foreign.sizes(operand.shape)
    place = (ctypes.c_float * int(np.prod(shape))).from_address(operand.address)
    return np.frombuffer(place, np.float32).reshape(shape)


def add(operands, settings):
    SEEN.append(([o.dtype for o in operands], threading.get_ident()))
    (number,) = foreign.sizes(settings)
    if number < 0:
        raise ValueError(f"{number} is too small")
    left, right, result = map(array, operands)
    result[:] = left + right + number


foreign.register("test_add", add)


def called(left, right, number):
    call = jax.ffi.ffi_call("test_add", jax.ShapeDtypeStruct(left.shape, left.dtype))
    return call(left, right, settings=np.array([number], np.int64))


@needs_cpu
def test_a_function_is_called_and_fills_the_result():
    x, y = jnp.arange(6.0).reshape(2, 3), jnp.ones((2, 3))
    z = jax.jit(lambda x, y: called(x, y, 5) * 2)(x, y)
    assert (z == (x + y + 5) * 2).all()
    assert SEEN[-1][0] == ["float32"] * 3


@needs_cpu
def test_what_it_raises_the_program_raises():
    x = jnp.ones(3)
    with pytest.raises(Exception, match="ValueError: -1 is too small"):
        jax.jit(lambda x: called(x, x, -1))(x).block_until_ready()
    assert (called(x, x, 0) == 2).all()


@needs_cpu
def test_programs_of_several_threads_call_it_at_once():
    step = jax.jit(lambda x: called(called(x, x, 1), x, 2))
    results = {}

    def run(number):
        x = jnp.full((4,), float(number))
        for _ in range(50):
            results.setdefault(number, []).append(np.asarray(step(x)))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, found in results.items():
        assert len(found) == 50 and (np.stack(found) == 3 * number + 3).all()


INTERRUPTED = """
import ctypes, signal, threading, time
import jax, jax.numpy as jnp, numpy as np
from jaxtune.models.cpu import foreign

# A shell has the programs ignore it that it starts in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
calls, filled = [], []

def copy(operands, settings):
    source, target = (
        np.frombuffer((ctypes.c_float * 100).from_address(o.address), np.float32)
        for o in operands
    )
    calls.append(1)
    target[:50] = source[:50]
    if len(calls) == 1:
        signal.raise_signal(signal.SIGINT)  # Ctrl-C in the middle of a call.
    target[50:] = source[50:]
    filled.append(target.copy())

foreign.register("copy", copy)
start = threading.Thread.start

def start_slowly(thread):
    start(thread)
    time.sleep(0.1)  # A machine that is busy; the call isn't over yet.

threading.Thread.start = start_slowly
call = jax.ffi.ffi_call("copy", jax.ShapeDtypeStruct((100,), jnp.float32))
x, interrupted = np.arange(100, dtype=np.float32), False
program = jax.jit(lambda x: call(x, settings=np.zeros(1, np.int64)))
try:
    program(x).block_until_ready()
    time.sleep(20)
except KeyboardInterrupt:
    interrupted = True
for _ in range(1000):
    # Python may be interrupted here while the call, in its own thread, still copies.
    if filled:
        break
    time.sleep(0.01)
print(interrupted, len(filled), bool((filled[0] == x).all()))
"""


@needs_cpu
def test_an_interrupt_in_a_call_comes_after_it_and_leaves_no_array_half_filled():
    assert run_script(INTERRUPTED).split() == ["True", "1", "True"]
