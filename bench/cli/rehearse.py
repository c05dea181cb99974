"""`python -m bench rehearse`: what to run first on a machine with GPUs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.activity import Activity
from bench.cli.console import console, errors
from bench.cli.options import split
from bench.cli.outputs import check_outputs, write_output
from bench.output.texts import told

if TYPE_CHECKING:
    from bench.rehearsal.verdict import Verdict

NOT_READY = 3


def command(
    steps: Annotated[
        str | None, typer.Option(help="Steps, separated by commas: sweep, indexes, check …")
    ] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="As small as can be, also where there is a GPU.")
    ] = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all findings to this file.")
    ] = None,
) -> None:
    """Try everything that meets a GPU, on this machine's or a pretended one, with a verdict each.

    Exit status 0 = no step failed; 3 = one did.
    """
    from bench.rehearsal import rehearse as rehearsal
    from bench.rehearsal.verdict import failed

    check_outputs((json_path,), [])
    chosen = rehearsal.choose("step", split(steps), tuple(rehearsal.STEPS))
    tried = rehearsal.choose("method", split(methods), rehearsal.known_methods())
    where = _where()
    console.print(where["words"], markup=False, soft_wrap=True)
    verdicts: list[Verdict] = []
    with Activity(errors) as activity:
        for verdict in rehearsal.rehearse(chosen, tried, quick, activity.report):
            verdicts.append(verdict)
            console.print(_line(verdict), soft_wrap=True)
    if json_path is not None:
        content = {
            **where,
            "quick": quick,
            "methods": tried,
            "steps": [each.json() for each in verdicts],
            "failed": failed(verdicts),
        }
        write_output(json_path, json.dumps(content, indent=1, allow_nan=False))
    if failed(verdicts):
        console.print(f"failed: {', '.join(failed(verdicts))}")
        raise typer.Exit(NOT_READY)
    console.print("no step failed")


def _where() -> dict[str, Any]:
    """On what the rehearsal takes place, in words for a person and in figures."""
    import torch

    from bench.execution.resources import gpu_count
    from bench.storage.provenance import environment

    gpus = [torch.cuda.get_device_name(number) for number in range(gpu_count())]
    words = (
        f"{len(gpus)} × {gpus[0]}"
        if gpus
        else "there is no GPU here: on a PRETENDED one, which keeps CUDA's rules about devices and "
        "says nothing about a GPU's speed, memory or rounding"
    )
    return {"words": words, "pretended": not gpus, "gpus": gpus, "environment": environment()}


def _line(verdict: Verdict) -> str:
    from bench.rehearsal.verdict import COLOURS, MARKS

    found = verdict.finding
    mark = f"[{COLOURS[found.state]}]{MARKS[found.state]}[/]"
    return f"{mark} {verdict.step:9} {verdict.seconds:6.1f} s  {told(found.words)}"
