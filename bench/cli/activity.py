"""What a person sees while one long computation runs: what is in hand, and since when."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape

EVERY = 10.0  # seconds between lines in a pipe: nothing is silent for longer


class Activity:
    """Shows the step in hand: a spinner with seconds in a terminal, a line every ten in a pipe."""

    def __init__(self, console: Console, every: float = EVERY) -> None:
        self.console, self.every = console, every
        self.step, self.began = "", time.monotonic()
        self.started = time.monotonic()
        self._ended = threading.Event()
        self._status = console.status("") if console.is_terminal else None
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> Activity:
        if self._status is not None:
            self._status.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._status is not None:
            self._status.stop()

    def report(self, step: str) -> None:
        """Receive the step that begins."""
        self.step, self.began = step, time.monotonic()
        if self._status is not None:
            self._show()

    def _tell(self) -> None:
        """Renew the line while the step lasts."""
        while not self._ended.wait(1.0 if self._status is not None else self.every):
            if self.step:
                self._show()

    def _show(self) -> None:
        now = time.monotonic()
        line = f"{self.step}, {now - self.began:.0f} s ({now - self.started:.0f} s in all)"
        if self._status is not None:
            self._status.update(escape(line))
        else:
            self.console.print(escape(line), highlight=False, soft_wrap=True)
