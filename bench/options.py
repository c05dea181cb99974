"""Options that several commands share, spelled once each: what is run, and how."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from typer import Option

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.runner import Conduct
    from bench.suite import Suite
    from bench.workers import Engine


def folder(text: str | Path) -> Path:
    """Read the option `--results`; raises BenchError for a URL, which is no folder to work in."""
    if "://" in str(text):
        raise BenchError(
            f"--results {text} is a URL, expected a folder: give one on this machine with "
            f"--results, and share what is in it with --mirror {text}"
        )
    return Path(text)


SuiteName = Annotated[str, Option("--suite", help="A suite's name or TOML file.")]
Results = Annotated[
    Path,
    Option("--results", help="Folder for everything a run writes.", parser=folder, metavar="PATH"),
]
Assignments = Annotated[
    list[str] | None,
    Option("--set", help="A setting, `epochs=5`, `ract.weight=2`; may be repeated."),
]


@dataclass(frozen=True)
class Subject:
    """Which suite is meant, on which data, with which embedding models."""

    suite: SuiteName = "default"
    dataset: Annotated[str | None, Option(help="Dataset instead of the suite's.")] = None
    skip_corrupt: Annotated[
        bool, Option("--skip-corrupt", help="Leave out and count images that cannot be decoded.")
    ] = False
    backbone: Annotated[str | None, Option(help="A timm model, `timm:resnet50`.")] = None
    pretrained: Annotated[
        bool, Option("--pretrained", help="Begin with timm's weights of the backbone.")
    ] = False
    weights: Annotated[
        Path | None, Option(help="Begin with the backbone's weights in this file.")
    ] = None
    embeddings: Annotated[
        Path | None, Option(help="Fixed vectors of the images, in place of pixels and backbone.")
    ] = None
    assignments: Assignments = None

    def compose(self, settings: tuple[str, ...] = (), **chosen: Any) -> Suite:
        """Make the suite; `chosen` replaces what it says, `settings` come before the person's."""
        from bench.suite import compose, load_suite

        content = load_suite(self.suite)
        dataset = self.dataset or str(content["dataset"])
        own = {
            f"{dataset.partition(':')[0]}.skip_corrupt": self.skip_corrupt or None,
            "backbone": self.backbone and self.backbone.removeprefix("timm:"),
            "pretrained": self.pretrained or None,
            "weights": self.weights and str(self.weights.absolute()),
            "features": self.embeddings and str(self.embeddings.absolute()),
        }
        spelled = [f"{key}={_toml(value)}" for key, value in own.items() if value]
        assignments = [*settings, *spelled, *(self.assignments or ())]
        return compose(content, assignments, dataset=self.dataset, **chosen)


Scenarios = Annotated[str | None, Option(help="Scenarios, separated by commas.")]
Seeds = Annotated[str | None, Option(help="Seeds, separated by commas.")]


@dataclass(frozen=True)
class Choice(Subject):
    """Which cells of a suite are meant."""

    scenarios: Scenarios = None
    methods: Annotated[str | None, Option(help="Methods, separated by commas.")] = None
    seeds: Seeds = None
    orders: Annotated[str | None, Option(help="Backfill orders, separated by commas.")] = None
    smoke: Annotated[bool, Option("--smoke", help="The suite `smoke`: a minute at most.")] = False

    def made(self) -> Suite:
        """Make the suite that is meant."""
        subject = dataclasses.replace(self, suite="smoke") if self.smoke else self
        return subject.compose(
            scenarios=split(self.scenarios),
            methods=split(self.methods),
            seeds=split(self.seeds),
            orders=split(self.orders),
        )


@dataclass(frozen=True)
class Manner:
    """How a cell is run, and where its results lie."""

    results: Results = Path("results")
    threads: Annotated[
        int,
        Option(
            min=0,
            help="Threads of each cell; 0 is one, or a share of the cores beside GPUs.",
        ),
    ] = 0
    cell_timeout: Annotated[
        float | None,
        Option("--cell-timeout", min=0.001, help="Seconds one model or one cell may take."),
    ] = None
    checkpoint_every: Annotated[
        float, Option("--checkpoint-every", min=0, help="Seconds between states of a training.")
    ] = 60
    devices: Annotated[
        int, Option(min=1, help="Devices that train one model together, each in its process.")
    ] = 1
    readers: Annotated[
        int | None,
        Option(
            min=0,
            help="Processes that decode ahead of each device; as many as a GPU leaves idle.",
        ),
    ] = None

    def conduct(self) -> Conduct:
        """Say how one cell runs on this machine, also one that failed before."""
        return dataclasses.replace(self._shared(), jobs=1, retry_failed=True)

    def _shared(self) -> Conduct:
        from bench.runner import Conduct

        return Conduct(
            threads=self.threads,
            devices=self.devices,
            readers=self.readers,
            cell_timeout=self.cell_timeout,
            checkpoint_seconds=self.checkpoint_every,
        )


@dataclass(frozen=True)
class TeamManner(Manner):
    """How many cells are run, several at a time, and where."""

    jobs: Annotated[
        int,
        Option(min=0, help="Cells at a time; 0 is what cores and memory bear, or one on each GPU."),
    ] = 0
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Try cells again that failed in a former run.")
    ] = False
    engine: Annotated[
        Literal["loky", "ray"],
        Option("--engine", help="Processes of this machine, or tasks on a Ray cluster."),
    ] = "loky"
    address: Annotated[
        str | None, Option("--address", help="The Ray cluster, HOST:PORT; none: start one here.")
    ] = None
    mirror: Annotated[
        str | None,
        Option(help="URL, s3://…, over which nodes with folders of their own share results."),
    ] = None

    def conduct(self) -> Conduct:
        """Say how cells share this machine or a cluster."""
        return dataclasses.replace(
            self._shared(),
            jobs=self.jobs,
            retry_failed=self.retry_failed,
            engine=self._engine(),
            mirror=self.mirror,
        )

    def _engine(self) -> Callable[[int, int, int, Callable[[], int]], Engine]:
        """Choose what runs the cells; Ray is imported only when asked for."""
        if self.engine == "ray":
            from bench.cluster import Cluster

            return functools.partial(Cluster, address=self.address)
        if self.address:
            raise BenchError(f"--address {self.address} names a Ray cluster; add --engine ray")
        from bench.workers import Workers

        return Workers


def split(text: str | None) -> tuple[str, ...] | None:
    """Split names at commas."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spell the fields of a command's dataclass parameters out as options of the command.

    Typer reads options off a signature: this one has a parameter per field, and the command gets
    the dataclasses made of them.
    """
    hints = get_type_hints(command, include_extras=True)
    parameters, groups = [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            groups[name] = hints[name]
            parameters += _spelled(hints[name])
        else:
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )

    @functools.wraps(command)
    def spelled(**given: Any) -> None:
        made = {
            name: group(**{each.name: given.pop(each.name) for each in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**given, **made)

    spelled.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled.__annotations__ = {each.name: each.annotation for each in parameters}
    return spelled


def _spelled(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
