"""Compiles steps with the options that each backend needs.

The one rule of the file: an option a jaxlib does not know is left out, never an error.
"""

import functools
import os
from collections.abc import Callable

import jax

from jaxtune.arguments import check_flag, check_function
from jaxtune.pretrained import cache_dir

#: XLA's CPU backend sends convolutions to YNNPACK by default, which makes a training
#: step of a ResNet more than twice as slow; dot products and reductions stay there.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}

#: Flags of XLA's GPU compiler that leave out kernels which add up in any order.
_DETERMINISTIC = (
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_exclude_nondeterministic_ops=true",
)

#: JAX's own `jax_persistent_cache_min_compile_time_secs`, in seconds.
_JAX_KEEPS_FROM = 1.0


@functools.cache
def compiler_options(backend: str) -> dict[str, str] | None:
    """Returns the compiler options for a backend that this jaxlib knows, or None.

    Args:
        backend: "cpu", "gpu" or "tpu", see `jax.default_backend`.
    """
    if backend != "cpu":
        return None
    try:
        probe = jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS)
        probe.lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except Exception:
        # Experimental options come and go; without them steps are only slower.
        return None
    return _CPU_OPTIONS


def compile_step(step: Callable, *, donate: bool = False) -> Callable:
    """Returns `jax.jit(step)` with this backend's options.

    Compile last: JAX takes options for whole programs only, so what this returns can't
    be scanned or differentiated. Do that to the step itself, and compile the result.

    Args:
        step: A pure function.
        donate: Whether the first argument, the state, is given up to the result; it
            can't be used after the call.

    Raises:
        TypeError: If the step can't be called.
    """
    check_function(step, "step", "a pure function, such as make_train_step makes")
    donate = check_flag(donate, "donate")
    return jax.jit(
        step,
        donate_argnums=(0,) if donate else (),
        # JAX wants a program's options before it knows where the program will run; no
        # other line of the package asks for the default backend.
        compiler_options=compiler_options(jax.default_backend()),
    )


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk between runs, unless the user chose a place.

    Sets JAX's `jax_compilation_cache_dir`, if nothing set it before, to a folder in
    jaxtune's cache (see `cache_dir`). Programs that compile in less than a second are
    kept too, unless the user chose from when on: a job has a hundred of them.

    Where XLA_FLAGS asks for kernels of one fixed order of additions, the folder is
    another one: XLA keeps beside the programs which kernels were the fastest, and takes
    them from there without asking whether they still may be used.
    """
    if jax.config.jax_compilation_cache_dir is None:
        flags = os.environ.get("XLA_FLAGS", "")
        fixed = any(flag in flags for flag in _DETERMINISTIC)
        folder = cache_dir() / ("programs-deterministic" if fixed else "programs")
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if jax.config.jax_persistent_cache_min_compile_time_secs == _JAX_KEEPS_FROM:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
