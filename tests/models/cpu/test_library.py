"""oneDNN's interface: the thread that runs all, memory, and what the chip offers."""

import ctypes
import os
import threading
from ctypes import byref

import pytest

from jaxtune.models.cpu import onednn

LIBRARY = onednn.library()
pytestmark = pytest.mark.skipif(
    LIBRARY is None, reason=f"{onednn.DISTRIBUTION} is not installed"
)


def test_everything_runs_in_one_thread_which_is_not_the_callers():
    found = []

    def ask():
        found.append(LIBRARY.do(threading.get_ident))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and found[0] != threading.get_ident()


def test_what_a_call_raises_comes_back():
    with pytest.raises(ZeroDivisionError):
        LIBRARY.do(lambda: 1 // 0)
    assert LIBRARY.do(pow, 2, 3) == 8


def test_spaces_are_aligned_and_apart():
    sizes = (5, 1000, 64, 1 << 20)
    places = LIBRARY.space(*sizes)
    assert all(place % 64 == 0 for place in places)
    ends = [place + size for place, size in zip(places, sizes, strict=True)]
    assert all(end <= place for end, place in zip(ends, places[1:], strict=False))


def test_a_primitives_scratch_memory_is_among_them():
    """Otherwise it would be oneDNN's own, which belongs to one thread."""
    options = {"stride": 1, "padding": 1, "groups": 4, "dtype": "float32"}
    shapes = {"images": (2, 6, 6, 8), "weight": (3, 3, 2, 12), "outputs": (2, 6, 6, 12)}
    for result in onednn.RESULTS:
        made = LIBRARY.do(onednn.Convolution, LIBRARY, result, **shapes, **options)
        assert all(size > 0 for _, size in made._spaces)
        user, number = 1, ctypes.c_int(-1)
        attributes = LIBRARY.attributes()
        LIBRARY._checked(
            "primitive_attr_get_scratchpad_mode", attributes, byref(number)
        )
        assert number.value == user


def test_what_the_chip_offers_is_what_it_has_and_is_allowed():
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    with open("/proc/cpuinfo") as file:
        has = " avx512bw " in file.read()
    lesser = allowed in ("SSE41", "AVX", "AVX2", "AVX2_VNNI")
    assert LIBRARY.has_avx512 is (has and not lesser)
