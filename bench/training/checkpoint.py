"""What a training needs to go on after the last finished epoch, should its process be killed.

Batches and augmentation depend on seed and epoch alone (see `bench.training.batches`), so that the
sampler has no state: the number of finished epochs says where it is.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import shown
from bench.storage.files import UNFINISHED, temporary

if TYPE_CHECKING:
    from bench.storage.mirror import Mirror

Note = Callable[[str], None]
FOLDER = "checkpoints"
DEFAULT_SECONDS = 60.0
SHARE = 20  # times that writing a state took, at least, between two of them
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
        self._written, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Return whether the last state was written long enough ago, by what writing took, too."""
        pause = self.seconds and max(self.seconds, SHARE * self._took)
        return time.monotonic() - self._written >= pause

    def write(self, state: dict[str, Any]) -> None:
        """Write a state of tensors and plain values, replacing the former one in one step."""
        started = time.monotonic()
        with temporary(self.path) as place, place.open("w+b") as file:
            file.write(bytes(CHECKSUM_BYTES))
            content: Any = _Content(file)
            torch.save({"made_by": self.made_by, "state": state}, content)
            checksum = _checksum(file)
            file.seek(0)
            file.write(checksum)
        self._at_mirror(lambda mirror: mirror.send(self.path, FOLDER))
        self._written = time.monotonic()
        self._took = self._written - started

    def bring(self) -> None:
        """Fetch the state that a process with another folder left, unless there is one here."""
        if not self.path.exists():
            self._at_mirror(lambda mirror: mirror.bring(FOLDER, self.path))

    def read(self) -> dict[str, Any] | None:
        """Return the last state, or None when there is none that can be used."""
        try:
            return self.load()
        except Exception as error:  # a damaged or foreign file may fail in any way
            self.refuse(error)
            return None

    def load(self) -> dict[str, Any] | None:
        """Return the last state, None when there is none; raises what a file that is unfit does.

        The state is read as it lies there: a copy of it in memory could be as large as the model.
        """
        if not self.path.exists():
            return None
        with self.path.open("rb") as file:
            if file.read(CHECKSUM_BYTES) != _checksum(file):
                raise ValueError("it is damaged")
            place: Any = _Content(file)
            content = torch.load(place, map_location="cpu", weights_only=True)
        if content["made_by"] != self.made_by:
            raise ValueError(f"it was made by {content['made_by']}, not {self.made_by}")
        state: dict[str, Any] = content["state"]
        return state

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


def _checksum(file: IO[bytes]) -> bytes:
    """Hash what follows the checksum in a file."""
    file.seek(CHECKSUM_BYTES)
    return hashlib.file_digest(file, "sha256").digest()  # type: ignore[arg-type]


class _Content(io.RawIOBase):
    """A file without its checksum: its positions are those of the content."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        file.seek(CHECKSUM_BYTES)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def write(self, content: Any) -> int:
        return self.file.write(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = CHECKSUM_BYTES if whence == io.SEEK_SET else 0
        return self.file.seek(begin + offset, whence) - CHECKSUM_BYTES

    def tell(self) -> int:
        return self.file.tell() - CHECKSUM_BYTES


class AsMade:
    """Non-persistent buffers of a module as they were made; those that stay so are in no state.

    Methods keep gigabytes of old embeddings in buffers that `prepare` makes anew: a state that held
    them would take longer to write than the steps that it saves. A buffer has changed when it is
    another tensor, was written to (torch counts that), or holds another sum.
    """

    def __init__(self, module: nn.Module) -> None:
        names = set(remade_buffers(module))
        self.made = {
            name: (buffer, buffer._version, _sum(buffer))
            for name, buffer in module.named_buffers()
            if name in names
        }

    def unchanged(self, module: nn.Module) -> dict[str, Tensor]:
        """Buffers that hold what they were made with."""
        return {
            name: buffer
            for name, buffer in module.named_buffers()
            if name in self.made and self._is_as_made(name, buffer)
        }

    def _is_as_made(self, name: str, buffer: Tensor) -> bool:
        made, version, total = self.made[name]
        return buffer is made and buffer._version == version and _sum(buffer) == total


def remade_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers that are no part of a saved model: whoever loads it makes them anew."""
    return [
        f"{owner}.{name}" if owner else name
        for owner, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    ]


def _sum(buffer: Tensor) -> float:
    return float(buffer.sum(dtype=torch.float64))


def module_state(module: nn.Module, as_made: AsMade | None = None) -> dict[str, Any]:
    """Everything that a module has learnt or counted, non-persistent buffers included.

    Methods keep queues and centres in buffers that are no part of a deployed model, and counters
    in plain numbers. Buffers that are as they were made are only named.
    """
    remade = {} if as_made is None else as_made.unchanged(module)
    buffers = dict(module.named_buffers())
    return {
        "parameters": dict(module.named_parameters()),
        "buffers": {name: buffer for name, buffer in buffers.items() if name not in remade},
        "remade": list(remade),
        "numbers": {name: dict(_numbers(part)) for name, part in module.named_modules()},
    }


def restore_module(module: nn.Module, state: dict[str, Any], as_made: AsMade | None = None) -> None:
    """Bring a module of the same structure back to a state; raises ValueError when it differs."""
    parameters, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    parts = dict(module.named_modules())
    made = {} if as_made is None else {name: kept[0] for name, kept in as_made.made.items()}
    if not set(state["remade"]) <= set(made):
        raise ValueError("it leaves out buffers that this model does not make")
    held = {**state["buffers"], **{name: made[name] for name in state["remade"]}}
    for kind, here, there in (
        ("parameters", parameters, state["parameters"]),
        ("buffers", buffers, held),
        ("numbers", parts, state["numbers"]),
    ):
        if set(here) != set(there):
            raise ValueError(f"it holds other {kind} than this model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != state["parameters"][name].shape:
                raise ValueError(f"it holds another shape of {name} than this model")
            parameter.copy_(state["parameters"][name])
        for name, buffer in buffers.items():
            owner, _, own_name = name.rpartition(".")
            # While training, a method may replace a buffer by one of another shape.
            setattr(parts[owner], own_name, held[name].to(buffer.device))
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


def random_state(device: torch.device) -> dict[str, Any]:
    """State of torch's generators: of the CPU's, and of a GPU's own where `device` is one.

    Ranks draw the same numbers, since each computes the loss of the whole batch: the state of one
    is that of all, however many there are when a training goes on.
    """
    own = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": torch.get_rng_state(), "device": own}


def restore_random(state: dict[str, Any], device: torch.device) -> None:
    """Bring torch's generators back to a state."""
    torch.set_rng_state(state["cpu"])
    if state["device"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)
