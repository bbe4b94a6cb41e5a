"""Python in a process of its own, where JAX starts anew."""

import os
import subprocess
import sys
from pathlib import Path

import jaxtune

#: The package under test, installed or not, and the other modules of this folder.
PLACES = (Path(jaxtune.__file__).parents[1], Path(__file__).parent)

#: Warnings are errors; but a program that another process is still writing into the
#: cache is compiled anew.
WARNINGS = ("-W", "error", "-W", "ignore:Error reading persistent compilation cache")


def run_script(script: str, *arguments: object, devices: int = 1, **environment) -> str:
    """Returns what a script prints; warnings are errors in it.

    Args:
        script: Python; it may import jaxtune and this folder's modules.
        *arguments: Its `sys.argv[1:]`.
        devices: How many the processor passes for.
        **environment: Variables besides those of this process.
    """
    given = {
        "PYTHONPATH": os.pathsep.join(map(str, PLACES)),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, *WARNINGS, "-c", script, *map(str, arguments)],
        env=os.environ | given | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
