"""Compiles steps with the options that each backend needs.

Options that the installed jaxlib does not know are omitted.
"""

import functools
import os
from collections.abc import Callable

import jax

from jaxtune.arguments import check_flag, check_function
from jaxtune.pretrained import cache_dir

#: By default XLA's CPU backend uses YNNPACK for convolutions too, which makes training
#: a ResNet more than twice as slow. This limits it to dot products and reductions.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}

#: XLA flags that exclude GPU kernels with a nondeterministic order of additions.
_DETERMINISTIC = (
    "--xla_gpu_deterministic_ops=true",
    "--xla_gpu_exclude_nondeterministic_ops=true",
)

#: JAX's default of `jax_persistent_cache_min_compile_time_secs`, in seconds.
_DEFAULT_MIN_COMPILE_TIME = 1.0


@functools.cache
def compiler_options(backend: str) -> dict[str, str] | None:
    """Returns the compiler options for a backend, or None if there are none.

    Args:
        backend: "cpu", "gpu" or "tpu", see `jax.default_backend`.
    """
    if backend != "cpu":
        return None
    try:
        probe = jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS)
        probe.lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except Exception:
        # The option is experimental and may be removed; without it steps are slower.
        return None
    return _CPU_OPTIONS


def compile_step(step: Callable, *, donate: bool = False) -> Callable:
    """Returns `jax.jit(step)` with the backend's compiler options.

    JAX accepts such options for outermost programs only, so the result can't be scanned
    or differentiated. Do that with the step itself, and compile the result.

    Args:
        step: A pure function.
        donate: Whether to donate the first argument, the state; it can't be used after
            the call.

    Raises:
        TypeError: If the step is not callable.
    """
    check_function(step, "step", "a pure function, such as make_train_step makes")
    donate = check_flag(donate, "donate")
    return jax.jit(
        step,
        donate_argnums=(0,) if donate else (),
        # JAX needs the options before it knows on which backend the program will run.
        compiler_options=compiler_options(jax.default_backend()),
    )


def enable_compilation_cache() -> None:
    """Enables JAX's persistent compilation cache, unless the user already has.

    Sets `jax_compilation_cache_dir`, unless it is set, to a folder in jaxtune's cache
    (see `cache_dir`). Programs that compile in less than a second are cached too,
    unless the user has changed that minimum: a run has about a hundred of them.

    If XLA_FLAGS asks for deterministic kernels, a separate folder is used: XLA also
    caches which kernels were fastest, and reuses them without checking whether they are
    deterministic.
    """
    if jax.config.jax_compilation_cache_dir is None:
        flags = os.environ.get("XLA_FLAGS", "")
        fixed = any(flag in flags for flag in _DETERMINISTIC)
        folder = cache_dir() / ("programs-deterministic" if fixed else "programs")
        jax.config.update("jax_compilation_cache_dir", str(folder))
    option = "jax_persistent_cache_min_compile_time_secs"
    if getattr(jax.config, option) == _DEFAULT_MIN_COMPILE_TIME:
        jax.config.update(option, 0.0)
