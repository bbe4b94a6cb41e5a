"""Python in a process of its own, where JAX starts anew."""

import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
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


@dataclasses.dataclass
class Ended:
    """What a process left: its exit status, and all that it wrote."""

    status: int
    said: str
    failed: str


class Together:
    """Processes of `jax.distributed` on this machine, with real collectives (Gloo).

    A script's first three arguments are those of `jax.distributed.initialize`: the
    coordinator, the number of processes and the process's own.
    """

    def __init__(self, script: str, count: int, *arguments: object, devices: int = 1):
        """Starts them.

        Args:
            script: Python; it may import jaxtune and this folder's modules.
            count: How many processes.
            *arguments: `sys.argv[4:]`.
            devices: How many each processor passes for.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, PLACES)),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
        }
        self.processes, self._files = [], []
        for number in range(count):
            # Files, since a full pipe would hold one of them up, and so all.
            files = [tempfile.TemporaryFile("w+") for _ in range(2)]
            given = map(str, (place, count, number, *arguments))
            process = subprocess.Popen(
                [sys.executable, "-u", "-c", script, *given],
                env=environment,
                stdout=files[0],
                stderr=files[1],
            )
            self.processes.append(process)
            self._files.append(files)

    def __enter__(self) -> "Together":
        """Returns itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Kills those that are left."""
        for process, files in zip(self.processes, self._files, strict=True):
            process.kill()
            process.wait()
            for file in files:
                file.close()

    def said(self, number: int) -> str:
        """Returns what a process has printed so far."""
        file = self._files[number][0]
        return os.pread(file.fileno(), 1_000_000, 0).decode()

    def ends(self, *, seconds: float = 200) -> list[Ended]:
        """Waits for all of them.

        Raises:
            subprocess.TimeoutExpired: If one of them goes on for longer.
        """
        ended = []
        for process, files in zip(self.processes, self._files, strict=True):
            process.wait(seconds)
            texts = [os.pread(f.fileno(), 1_000_000, 0).decode() for f in files]
            ended.append(Ended(process.returncode, *texts))
        return ended
