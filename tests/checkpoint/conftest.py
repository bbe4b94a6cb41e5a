import importlib.util
import os
import site
import subprocess
import sys
import venv
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.checkpoint import save_checkpoint

HERE = Path(__file__).parent

PARAMS = nnx.State(
    {
        "body": {"layer1": {"0": {"weight": jnp.arange(6.0).reshape(2, 3)}}},
        "head": {"bias": jnp.arange(4.0), "weight": jnp.ones((3, 4))},
    }
)
STATS = nnx.State({"body": {"bn1": {"running_mean": jnp.arange(3.0)}}})
META = {"classes": ["a", "b"], "size": [32, 48], "mean": None, "note": {"x": 1.5}}


@pytest.fixture(scope="session")
def trees():
    """Parameters and statistics that stand in for a network."""
    return {"params": PARAMS, "model_state": STATS}


@pytest.fixture
def path(tmp_path, trees):
    """A checkpoint of them."""
    return save_checkpoint(tmp_path / "deep" / "run", **trees, meta=META)


@pytest.fixture(scope="session")
def plain_flax():
    """The module that writes checkpoints without jaxtune."""
    spec = importlib.util.spec_from_file_location("plain_flax", HERE / "plain_flax.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory):
    """Runs a script where jaxtune is not installed: in an environment of its own.

    Everything else of this environment is linked into it.
    """
    root = tmp_path_factory.mktemp("elsewhere")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(root / "venv")
    (target,) = (root / "venv").glob("lib/python*/site-packages")
    for folder in map(Path, dict.fromkeys([*site.getsitepackages(), *sys.path])):
        if folder.name in ("site-packages", "dist-packages") and folder.is_dir():
            for entry in folder.iterdir():
                link = target / entry.name
                if "jaxtune" not in entry.name and not link.exists():
                    link.symlink_to(entry)

    def run(*arguments, cwd=root):
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
        done = subprocess.run(
            [root / "venv" / "bin" / "python", *map(str, arguments)],
            env={**kept, "JAX_PLATFORMS": "cpu"},
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def written_elsewhere(elsewhere, tmp_path_factory):
    """Checkpoints of plain Flax code, written where there is no jaxtune."""
    root = tmp_path_factory.mktemp("written") / "plain"
    elsewhere(HERE / "plain_flax.py", root)
    return root


@pytest.fixture(scope="session")
def plain_values(written_elsewhere):
    """The values in those checkpoints, by dotted name."""
    with np.load(written_elsewhere / "values.npz") as values:
        return dict(values)
