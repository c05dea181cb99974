"""Options that several commands share, spelled once each: what is run, and how."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from typer import Option

from bench.cli.help import option_of
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.execution.engine import Engine
    from bench.pipeline.tasks import RunSettings
    from bench.suites.schema import Suite


def folder(text: str | Path) -> Path:
    """Read the option `--results`, the same for every command.

    Raises BenchError for a URL, which is no folder to work in, and for a folder of another layout
    version, into which nothing is written.
    """
    if "://" in str(text):
        raise BenchError(
            f"--results {text} is a URL, expected a folder: give one on this machine with "
            f"--results, and share what is in it with --mirror {text}"
        )
    from bench.storage.store import refuse_other_version

    try:
        refuse_other_version(Path(text))
    except OSError as error:
        raise BenchError(
            f"the results folder {text} cannot be used: {error.strerror or error}; give a folder "
            "you may read and write with --results"
        ) from error
    return Path(text)


WHOLE = re.compile(r"-?[0-9]{1,30}")
SuiteName = Annotated[str, Option("--suite", help="Name of a suite, or a TOML file.")]
Results = Annotated[
    Path,
    Option(
        "--results", help="Folder for everything that is written.", parser=folder, metavar="PATH"
    ),
]
Assignments = Annotated[
    list[str] | None,
    Option("--set", help="A setting, such as `epochs=5` or `ract.weight=2`; may be repeated."),
]


@dataclass(frozen=True)
class SuiteOptions:
    """Which suite is meant, on which data, with which embedding models."""

    PANEL: ClassVar[str] = "Suite, data and model"

    suite: SuiteName = "default"
    dataset: Annotated[str | None, Option(help="Dataset to use instead of the suite's.")] = None
    skip_corrupt: Annotated[
        bool, Option("--skip-corrupt", help="Skip images that cannot be decoded; report how many.")
    ] = False
    backbone: Annotated[str | None, Option(help="A timm model, such as `timm:resnet50`.")] = None
    pretrained: Annotated[
        bool, Option("--pretrained", help="Initialise the backbone with timm's pretrained weights.")
    ] = False
    weights: Annotated[
        Path | None, Option(help="Initialise the backbone with the weights in this file.")
    ] = None
    embeddings: Annotated[
        Path | None, Option(help="File of fixed image vectors, in place of pixels and backbone.")
    ] = None
    assignments: Assignments = None

    def compose(self, settings: tuple[str, ...] = (), **chosen: Any) -> Suite:
        """Make the suite; `chosen` replaces what it says, `settings` come before the person's."""
        from bench.plugins import registry
        from bench.suites.loading import load_suite
        from bench.suites.variants import compose_variant

        content = load_suite(self.suite)
        dataset = self.dataset or str(content.get("dataset", ""))
        adapter = registry.dataset_class(dataset.partition(":")[0])
        own = {
            f"{dataset.partition(':')[0]}.skip_corrupt": self.skip_corrupt or None,
            "backbone": self.backbone and self.backbone.removeprefix("timm:"),
            "pretrained": self.pretrained or None,
            "weights": self.weights and str(self.weights.absolute()),
            "embeddings": self.embeddings and str(self.embeddings.absolute()),
        }
        spelled = [f"{key}={_toml(value)}" for key, value in own.items() if value]
        assignments = [*spelled, *(self.assignments or ())]
        return compose_variant(
            content, assignments, settings, adapter.unkeyed, dataset=self.dataset, **chosen
        )


Against = Annotated[
    str | None,
    Option("--against", help="Show differences to this method; by default to the best one."),
]
Scenarios = Annotated[str | None, Option(help="Scenarios, separated by commas.")]
Seeds = Annotated[str | None, Option(help="Seeds, separated by commas.")]


@dataclass(frozen=True)
class CellOptions(SuiteOptions):
    """Which runs of a suite are meant."""

    PANEL: ClassVar[str] = "Which runs"

    scenarios: Scenarios = None
    methods: Annotated[str | None, Option(help="Methods, separated by commas.")] = None
    seeds: Seeds = None
    orders: Annotated[str | None, Option(help="Backfill orders, separated by commas.")] = None
    smoke: Annotated[
        bool, Option("--smoke", help="The suite `smoke`: one scenario, one seed, small images.")
    ] = False

    def made(self) -> Suite:
        """Make the suite that is meant."""
        if self.smoke and self.suite not in ("default", "smoke"):
            raise BenchError(f"--smoke is the suite 'smoke'; leave it out, or --suite {self.suite}")
        subject = dataclasses.replace(self, suite="smoke") if self.smoke else self
        return subject.compose(
            scenarios=split(self.scenarios),
            methods=split(self.methods),
            seeds=numbers(self.seeds),
            orders=split(self.orders),
        )


@dataclass(frozen=True)
class RunOptions:
    """How one run is made, and where its results are kept."""

    PANEL: ClassVar[str] = "How it runs"

    results: Results = Path("results")
    threads: Annotated[
        int,
        Option(
            min=0,
            help="CPU threads per run. 0: 1 without a GPU, cores ÷ GPUs otherwise.",
        ),
    ] = 0
    cell_timeout: Annotated[
        float | None,
        Option(
            "--cell-timeout", min=0.001, max=1e8, help="Seconds that one model or one run may take."
        ),
    ] = None
    checkpoint_every: Annotated[
        float,
        Option("--checkpoint-every", min=0, help="Save a training checkpoint every N seconds."),
    ] = 60
    devices: Annotated[
        int, Option(min=1, help="Devices that train one model together, a process each.")
    ] = 1
    readers: Annotated[
        int | None,
        Option(
            min=0,
            help="Image-loading processes per device (default: the cores left over).",
        ),
    ] = None

    def settings(self) -> RunSettings:
        """State how one run is made on this machine, also one that failed before."""
        return dataclasses.replace(self._shared(), jobs=1, retry_failed=True)

    def settle_precision(self, suite: Suite) -> None:
        """Find out in which number format the machines compute that will do the work: this one."""

    def _shared(self) -> RunSettings:
        from bench.pipeline.tasks import RunSettings

        limits = {"--cell-timeout": self.cell_timeout, "--checkpoint-every": self.checkpoint_every}
        for option, seconds in limits.items():
            if not math.isfinite(seconds or 0):
                raise BenchError(f"{option} {seconds} is no number of seconds; give a finite one")
        return RunSettings(
            threads=self.threads,
            devices=self.devices,
            readers=self.readers,
            cell_timeout=self.cell_timeout,
            checkpoint_seconds=self.checkpoint_every,
        )


@dataclass(frozen=True)
class ParallelRunOptions(RunOptions):
    """How many runs are made at a time, and where."""

    PANEL: ClassVar[str] = "How it runs"

    jobs: Annotated[
        int,
        Option(
            min=0, help="Runs in parallel. 0: as many as cores and memory allow, or one per GPU."
        ),
    ] = 0
    retry_failed: Annotated[
        bool, Option("--retry-failed", help="Try runs again that failed before.")
    ] = False
    engine: Annotated[
        Literal["loky", "ray"],
        Option("--engine", help="Processes on this machine, or tasks on a Ray cluster."),
    ] = "loky"
    address: Annotated[
        str | None,
        Option("--address", help="The Ray cluster, HOST:PORT (default: start one here)."),
    ] = None
    mirror: Annotated[
        str | None,
        Option(
            help="URL (s3://bucket/prefix) by which nodes without a common folder share results."
        ),
    ] = None

    def settle_precision(self, suite: Suite) -> None:
        """Ask the nodes of a cluster, where they do the work: this machine may have no GPU."""
        from bench.suites.loading import load_scenarios
        from bench.suites.precision import native_bfloat16, settle_elsewhere

        known = load_scenarios()  # the plan refuses the others
        settings = [suite, *(known[name] for name in suite.scenarios if name in known)]
        if self.engine != "ray" or not any('"auto"' in each.model_dump_json() for each in settings):
            return
        from bench.execution.cluster import Cluster

        with Cluster(self.jobs, self.threads, self.devices, address=self.address) as cluster:
            settle_elsewhere(all(cluster.ask(native_bfloat16)))

    def settings(self) -> RunSettings:
        """State how runs share this machine or a cluster."""
        return dataclasses.replace(
            self._shared(),
            jobs=self.jobs,
            retry_failed=self.retry_failed,
            engine=self._engine(),
            mirror=self.mirror,
        )

    def _engine(self) -> Callable[[int, int, int, Callable[[], int]], Engine]:
        """Choose what makes the runs; Ray is imported only when asked for."""
        if self.engine == "ray":
            from bench.execution.cluster import Cluster

            return functools.partial(Cluster, address=self.address)
        if self.address:
            raise BenchError(f"--address {self.address} names a Ray cluster; add --engine ray")
        from bench.execution.workers import Workers

        return Workers


def split(text: str | None) -> tuple[str, ...] | None:
    """Split names at commas, but for those in parentheses: `M(n,o)` is one name."""
    if text is None:
        return None
    return tuple(part.strip() for part in re.split(r",(?![^()]*\))", text))


def numbers(text: str | None) -> tuple[int | str, ...] | None:
    """Split whole numbers at commas; what is none stays a text, which its setting refuses."""
    parts = split(text)
    return parts and tuple(int(part) if WHOLE.fullmatch(part) else part for part in parts)


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
    for owner in (each for each in group.__mro__ if "PANEL" in vars(each)):
        for name in set(owner.__annotations__) & {each.name for each in dataclasses.fields(group)}:
            option_of(hints[name]).rich_help_panel = owner.PANEL
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
