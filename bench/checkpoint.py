"""What a training needs to go on after the last finished epoch, should its process be killed.

Batches and augmentation depend on seed and epoch alone (see `bench.batches`), so that the sampler
has no state: the number of finished epochs says where it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from bench.errors import shown
from bench.store import UNFINISHED, temporary

if TYPE_CHECKING:
    from bench.remote import Mirror

Note = Callable[[str], None]
FOLDER = "checkpoints"
DEFAULT_SECONDS = 60.0
PLAIN = (bool, int, float)
CHECKSUM_BYTES = 32


class Checkpoint:
    """A file with the state of one training, written whole, at most every `seconds`.

    `key` names the training; a file of another training, of another torch, or a damaged one is
    set aside with a note. What is read is tensors and plain values, never code. A mirror gets a
    copy of each state, with which a training that was cut off goes on in another folder.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        seconds: float = DEFAULT_SECONDS,
        note: Note = print,
        mirror: Mirror | None = None,
    ) -> None:
        self.path, self.seconds, self.note, self.mirror = path, seconds, note, mirror
        self.made_by = {"key": key, "torch": str(torch.__version__)}
        self._written = time.monotonic()

    def due(self) -> bool:
        """Tell whether the last state was written long enough ago."""
        return time.monotonic() - self._written >= self.seconds

    def write(self, state: dict[str, Any]) -> None:
        """Write a state of tensors and plain values, replacing the former one in one step."""
        content = io.BytesIO()
        torch.save({"made_by": self.made_by, "state": state}, content)
        with temporary(self.path) as file:
            file.write_bytes(_checksum(content.getvalue()) + content.getvalue())
        self._at_mirror(lambda mirror: mirror.send(self.path, FOLDER))
        self._written = time.monotonic()

    def bring(self) -> None:
        """Fetch the state that a process with another folder left, unless there is one here."""
        if not self.path.exists():
            self._at_mirror(lambda mirror: mirror.bring(FOLDER, self.path))

    def read(self) -> dict[str, Any] | None:
        """Return the last state, or None when there is none that can be used."""
        if not self.path.exists():
            return None
        try:
            whole = self.path.read_bytes()
            if whole[:CHECKSUM_BYTES] != _checksum(whole[CHECKSUM_BYTES:]):
                raise ValueError("it is damaged")
            file = io.BytesIO(whole[CHECKSUM_BYTES:])
            content = torch.load(file, map_location="cpu", weights_only=True)
            if content["made_by"] != self.made_by:
                raise ValueError(f"it was made by {content['made_by']}, not {self.made_by}")
            state: dict[str, Any] = content["state"]
            return state
        except Exception as error:  # a damaged or foreign file may fail in any way
            self.refuse(error)
            return None

    def refuse(self, error: Exception) -> None:
        """Set a file aside that cannot be used, and say so."""
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.note(f"checkpoint set aside as {aside}, training from its start: {reason}")

    def remove(self) -> None:
        """Forget the state, and what a killed process left of it: the training has ended."""
        if self.path.exists():
            self._at_mirror(lambda mirror: mirror.drop(FOLDER, self.path.name))
        self.path.unlink(missing_ok=True)
        for unfinished in self.path.parent.glob(f".{self.path.name}.*{UNFINISHED}"):
            unfinished.unlink(missing_ok=True)

    def _at_mirror(self, action: Callable[[Mirror], None]) -> None:
        """Do something at the mirror, if there is one; a failure costs a note, not the training."""
        if self.mirror is None:
            return
        try:
            action(self.mirror)
        except Exception as error:  # each store has errors of its own
            self.note(
                f"the state of a training cannot be shared over {self.mirror.url}, a lost node "
                f"costs the whole training: {type(error).__name__}: {shown(str(error))}"
            )
            self.mirror = None


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def module_state(module: nn.Module) -> dict[str, Any]:
    """Everything that a module has learnt or counted, non-persistent buffers included.

    Methods keep queues and centres in buffers that are no part of a deployed model, and counters
    in plain numbers.
    """
    return {
        "parameters": dict(module.named_parameters()),
        "buffers": dict(module.named_buffers()),
        "numbers": {name: dict(_numbers(part)) for name, part in module.named_modules()},
    }


def restore_module(module: nn.Module, state: dict[str, Any]) -> None:
    """Bring a module of the same structure back to a state; raises ValueError when it differs."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    parts = dict(module.named_modules())
    for kind, here in (("parameters", parameters), ("buffers", buffers), ("numbers", parts)):
        if set(here) != set(state[kind]):
            raise ValueError(f"it holds other {kind} than this model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != state["parameters"][name].shape:
                raise ValueError(f"it holds another shape of {name} than this model")
            parameter.copy_(state["parameters"][name])
        for name, buffer in buffers.items():
            owner, _, own_name = name.rpartition(".")
            # While training, a method may replace a buffer by one of another shape.
            setattr(parts[owner], own_name, state["buffers"][name].to(buffer.device))
    for name, part in parts.items():
        for attribute, value in state["numbers"][name].items():
            if not isinstance(getattr(part, attribute, 0), PLAIN) or not isinstance(value, PLAIN):
                raise ValueError(f"'{attribute}' of {name} is no plain number")
            setattr(part, attribute, value)


def _numbers(part: nn.Module) -> Iterator[tuple[str, bool | int | float]]:
    return (
        (name, value)
        for name, value in vars(part).items()
        if isinstance(value, PLAIN) and name != "training"
    )


def random_state() -> dict[str, Any]:
    """State of torch's generators on every device that is in use."""
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": on_gpus}


def restore_random(state: dict[str, Any]) -> None:
    """Bring torch's generators back to a state."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
