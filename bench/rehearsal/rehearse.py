"""All steps of a rehearsal, each in a process of its own, which may break its GPU or die."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.errors import BenchError, shown, unknown
from bench.execution.limits import end_with_parent
from bench.execution.resources import gpu_count
from bench.plugins import registry
from bench.rehearsal import parts, runs
from bench.rehearsal.stand import Report, Stand
from bench.rehearsal.verdict import Finding, Verdict

START = "spawn"  # CUDA does not survive a fork
Step = Callable[[Stand, Report], Finding]
STEPS: dict[str, Step] = {
    step.__name__: step
    for step in (
        parts.sweep,
        parts.indexes,
        parts.check,
        runs.methods,
        runs.wider,
        runs.poisoned,
        runs.resume,
        runs.devices,
        parts.readers,
        parts.memory,
    )
}


def choose(kind: str, wanted: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return those that are wanted, all by default; raises BenchError for an unknown name."""
    for name in wanted or ():
        if name not in known:
            raise unknown(kind, name, known)
    return tuple(known if wanted is None else wanted)


def known_methods() -> tuple[str, ...]:
    """Names of all methods."""
    return tuple(sorted(registry.discover("methods")))


def rehearse(
    steps: Sequence[str], methods: Sequence[str], quick: bool, report: Report
) -> Iterator[Verdict]:
    """Do each step, here on GPUs or a pretended one, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-rehearsal-") as place:
        for name in steps:
            stand = Stand(Path(place) / name, tuple(methods), gpu_count(), quick)
            yield _verdict(name, stand, report)


def _verdict(name: str, stand: Stand, report: Report) -> Verdict:
    """Do one step in a process of its own."""
    started = time.monotonic()
    report(f"{name}: starting")
    stand.folder.mkdir(parents=True)
    context: Any = multiprocessing.get_context(START)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_alone, args=(name, stand, there))
    child.start()
    there.close()
    finding, peak = None, 0
    try:
        while finding is None:
            told = here.recv()
            if isinstance(told, str):
                report(f"{name}: {told}")
            else:
                finding, peak = told
    except EOFError:  # nobody is left to tell anything
        child.join()
        finding = Finding("failed", f"its process ended with {child.exitcode}")
    finally:
        if finding is None:
            child.kill()  # what it started ends with it
        child.join()
    return Verdict(name, finding, time.monotonic() - started, peak)


def _alone(name: str, stand: Stand, channel: Connection) -> None:
    """Do a step in this process; whatever it raises is a finding."""
    end_with_parent()
    details = {}
    try:
        finding = STEPS[name](stand, channel.send)
    except Exception as error:  # which step breaks how is what is to be found
        plain = isinstance(error, BenchError)
        details = {"traceback": shown(traceback.format_exc())}
        sentence = shown(str(error) if plain else f"{type(error).__name__}: {error}")
        finding = Finding("failed", sentence, details)
    channel.send((finding, _peak()))


def _peak() -> int:
    """Bytes that the largest of this process and those it waited for held in memory."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return 1024 * max(resource.getrusage(kind).ru_maxrss for kind in kinds)
