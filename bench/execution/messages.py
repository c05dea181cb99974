"""Messages from tasks to the process that started them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Send = Callable[[Any], None]


@contextmanager
def listening(channel: Any, hear: Send) -> Iterator[None]:
    """Receive what is put into a queue, in a thread, while the block runs."""

    def listen() -> None:
        while (message := channel.get()) is not None:
            hear(message)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        channel.put(None)
        listener.join()
