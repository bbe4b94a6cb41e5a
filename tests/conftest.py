import importlib.metadata
import os
from pathlib import Path

import pytest
import typecheck  # noqa: F401  (before jaxtune, which it may check)

# Most of the suite's time is compiling, and a program of a test runs a few times only.
# With "false" in the environment everything is compiled as for users.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true") == "true":
    if importlib.metadata.version("jax") < "0.11":
        # Takes half of what is left; later versions have no such choice.
        flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false"]
        os.environ["XLA_FLAGS"] = " ".join(filter(None, flags))


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Real weights; the test is skipped where there are none."""
    return _folder("JAXTUNE_WEIGHTS_DIR")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos; the test is skipped where there are none."""
    return _folder("JAXTUNE_DATA_DIR")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(pytestconfig):
    """Compiled programs are shared by all processes of a run, and by the runs after it.

    JAX names a program by all that it depends on. Workers and the processes that tests
    start find the folder in the environment; `pytest --cache-clear` empties it.
    """
    import jax

    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None:
        folder = str(pytestconfig.cache.mkdir("programs"))
    settings = {
        "jax_compilation_cache_dir": folder,
        # Much of the suite's time is compiling the same small programs again.
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        yield


@pytest.fixture
def fresh_programs():
    """What was traced before is not used in the test, nor what it traces after it."""
    from jaxtune.loop import compiled_steps

    compiled_steps._shared.cache_clear()
    yield
    compiled_steps._shared.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def whole_products():
    """float32 is multiplied as float32 on accelerators too, to compare it with others.

    By itself a GPU takes 10 bits of mantissa for it (TF32), and a TPU 7; and learners
    would compute in bfloat16, as they would on a CPU with matrix units. Processes that
    tests start compute as a user's do.
    """
    import jax

    from jaxtune.train import precision

    with pytest.MonkeyPatch.context() as patch:
        if jax.default_backend() != "cpu":
            jax.config.update("jax_default_matmul_precision", "highest")
            patch.setattr(precision, "_multiplies_bfloat16", lambda device: False)
        patch.setattr(precision, "onednn_multiplies_bfloat16", lambda: False)
        yield


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value or not Path(value).is_dir():
        pytest.skip(f"{variable} names no folder")
    return Path(value)
