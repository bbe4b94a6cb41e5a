"""Several processes of `jax.distributed`: which one speaks, and how all of them end.

Each process runs the same program on its own devices; XLA's collectives join them. So a
process that ends alone would leave the others waiting for ever.
"""

import atexit
import contextlib
import hashlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

#: Seconds between two looks at the other processes, and how long one that ended leaves
#: the others to end by themselves, as all of them do at the same NaN.
LOOK_EVERY, GRACE = 1.0, 5.0

#: Training steps between two looks of several processes at what may be due: by number,
#: since their clocks differ.
STEPS_BETWEEN_LOOKS = 10

#: Numbers of the calls that are made together, the same in each process.
_calls = itertools.count()

#: Whether this process failed, and has done nothing with the others since.
_failed = threading.Event()


class RunStopped(SystemExit):
    """Raised after a run received SIGTERM and was saved; the exit status is 0.

    Of several processes all raise it, after the same step.
    """


def join_processes(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process with the others, before JAX has looked for devices.

    Without arguments JAX takes them from what SLURM, Open MPI, Cloud TPU or Kubernetes
    says.

    Args:
        coordinator: "host:port" of the first process, which listens there.
        num_processes: Number of all processes.
        process_id: This one's number, from 0.

    Raises:
        ValueError: If they are neither given nor found.
        RuntimeError: If JAX has begun to compute, or the others aren't found in time.

    References:
        JAX 0.10, `jax.distributed.initialize`.
    """
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise ValueError(
            f"the other processes are not known: {error} Start the program by srun, "
            "mpirun or on every worker of a TPU slice, or give all of coordinator "
            "(host:port of the first process), num_processes and process_id."
        ) from error


def several_processes() -> bool:
    """Returns whether `jax.distributed` has joined several processes."""
    return jax.process_count() > 1


def is_first_process() -> bool:
    """Returns whether this process is the one that prints, plots and writes files."""
    return jax.process_index() == 0


def as_the_first_says(flag: bool) -> bool:
    """Returns the first process's flag; all must call it."""
    if not several_processes():
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def check_same_everywhere(values: Mapping[str, Callable[[], str]]) -> None:
    """Raises if a value differs between processes; all must call it.

    Args:
        values: What each is, for the message, and a function that returns it as text;
            a single process calls none.

    Raises:
        ValueError: If one differs.
    """
    if not several_processes():
        return
    digests = [hashlib.sha256(value().encode()).digest() for value in values.values()]
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    found = np.asarray(multihost_utils.process_allgather(own))
    differs = (found != found[0]).any(axis=2)
    if differs.any():
        number, which = np.argwhere(differs)[0]
        raise ValueError(
            f"{list(values)[which]} of process {number} and of process 0 differ. Each "
            "process must run the same program, with the same seed and arguments, and "
            "see the same files under the same paths."
        )


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends all processes with a reason if one of them fails inside.

    The one that fails raises its error as ever. The others, which would wait for it in
    a collective, say which one failed and why, and end at most `LOOK_EVERY` + `GRACE`
    seconds later, unless they have failed themselves. `RunStopped` is no failure: each
    process comes to it by itself, however long it takes to leave, since programs that
    are being compiled ahead have to end first.

    Of a process that was killed JAX itself tells the others: at once on CPUs, where the
    connection breaks, elsewhere after its heartbeat's timeout
    (`jax.distributed.initialize` has an argument for it). A process that failed leaves
    at its end without waiting for the others, as JAX would for minutes.
    """
    if not several_processes():
        yield
        return
    from orbax.checkpoint import multihost

    others = _Others(multihost.get_jax_distributed_client(), next(_calls))
    others.start()
    try:
        yield
    except RunStopped:
        raise
    except BaseException as error:
        others.tell(f"{type(error).__name__}: {error}")
        if isinstance(error, jax.errors.JaxRuntimeError):
            # How the end of another process shows in the next collective.
            error.add_note(
                others.ended()
                or "If another process has ended, this is how it shows in process "
                f"{jax.process_index()} of {jax.process_count()}: look at what the "
                "others printed last."
            )
        if not isinstance(error, SystemExit):
            atexit.register(_leave)
            _failed.set()
        raise
    else:
        _failed.clear()
    finally:
        others.inside = False


def _leave() -> None:
    """Ends a process that failed; JAX's own exit handler was registered before."""
    if _failed.is_set():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        # So long the others can still ask for the reason; JAX's service, which the
        # first process runs, would end them without one.
        time.sleep(2 * LOOK_EVERY + (GRACE if is_first_process() else 0))
        os._exit(1)


class _Others(threading.Thread):
    """Watches, while this process works with the others, whether one of them ended."""

    def __init__(self, client: Any, call: int):
        super().__init__(name="jaxtune-processes", daemon=True)
        self._client, self._mine = client, str(jax.process_index())
        # An error that all have caught says nothing of what they do next.
        self._place = f"jaxtune/ended/{call}"
        self._reasons: dict[str, str] = {}
        self.inside = True

    def tell(self, reason: str) -> None:
        """Tells the others why this process ends."""
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"{self._place}/{self._mine}", reason[:2000])

    def ended(self) -> str:
        """Returns which other process ended and why; "" if none is known to have."""
        with contextlib.suppress(Exception):  # The service may be gone.
            for name, reason in self._client.key_value_dir_get(f"{self._place}/"):
                self._reasons[name.rpartition("/")[2]] = reason
        for number, reason in sorted(self._reasons.items()):
            if number != self._mine:
                return f"process {number} of {jax.process_count()} ended: {reason}"
        return ""

    def run(self) -> None:
        """Ends this process some time after another one, unless it ends by itself."""
        while self.inside and not self.ended():
            time.sleep(LOOK_EVERY)
        end = time.monotonic() + GRACE
        while self.inside and time.monotonic() < end:
            time.sleep(LOOK_EVERY)
        if self.inside:
            print(
                f"jaxtune: {self.ended()}\njaxtune: process {self._mine} can't go on "
                "without it, and ends too.",
                file=sys.stderr,
                flush=True,
            )
            os._exit(1)
