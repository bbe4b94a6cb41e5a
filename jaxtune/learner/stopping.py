"""Stopping in good order: a signal is heard at once and answered between two steps.

The one rule of the file: a handler only takes a note, so that what is saved is always
the state between two steps; the handlers that were there come back.
"""

import signal
import threading
from types import FrameType


class RunStopped(SystemExit):
    """A run was asked to stop, and has saved itself; its exit status is 0."""


class StopRequested(Exception):  # noqa: N818 - no error: someone asked
    """Raised between two steps of a run that was asked to stop.

    Attributes:
        signal: What asked.
    """

    def __init__(self, number: signal.Signals):
        """Takes the signal."""
        super().__init__(number.name)
        self.signal = number


class StopSignals:
    """Hears SIGTERM (a notice of preemption) and Ctrl-C while it is entered.

    The second Ctrl-C is no longer patient. In another thread than the main one signals
    can't be heard, and nothing is changed.
    """

    def __init__(self) -> None:
        """Hears nothing yet."""
        self._heard: signal.Signals | None = None
        self._before: dict = {}

    def __enter__(self) -> "StopSignals":
        """Begins to listen."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take_note)
        return self

    def __exit__(self, *exception) -> None:
        """Puts back who listened before."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """Raises `StopRequested` if a signal was heard."""
        if self._heard is not None:
            raise StopRequested(self._heard)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        again = self._heard is not None
        self._heard = signal.Signals(number)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
