"""`python -m bench evaluate`: embeddings in, bridges and a verdict out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.activity import Activity
from bench.cli.console import console, errors
from bench.cli.help import in_groups
from bench.cli.outputs import check_outputs, write_output
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.upgrade.judge import Limits, Verdict

NO_GO = 3


@in_groups(
    {
        "Embeddings": ("queries_new", "gallery_old", "gallery_new", "queries_old", "id_column"),
        "Relevance and metric": ("relevance", "metric", "groups", "weights", "drop_self"),
        "Bridges": ("bridges", "pairs_old", "pairs_new", "pairs"),
        "Backfill": ("order", "centres", "shares"),
        "Serving and costs": ("index", "index_parameters", "items_per_second", "price_per_hour"),
        "Limits": (
            *("max_nfr", "min_gain", "min_metric", "min_recall", "max_p99_ms", "each_slice"),
        ),
        "Output": ("json_path", "html_path", "query_table", "item_table"),
    }
)
def command(
    queries_new: Annotated[Path, typer.Option(help="New embeddings of the queries.")],
    gallery_old: Annotated[Path, typer.Option(help="Old embeddings of the gallery.")],
    gallery_new: Annotated[Path, typer.Option(help="New embeddings of the gallery.")],
    relevance: Annotated[
        Path | None,
        typer.Option(help="TREC qrels, CSV or JSON lines; without it: agreement, not quality."),
    ] = None,
    queries_old: Annotated[
        Path | None,
        typer.Option(
            help="Old embeddings of the queries; needed for negative flips, mAP gain and bridges "
            "that search twice."
        ),
    ] = None,
    pairs_old: Annotated[
        Path | None, typer.Option(help="Old embeddings of items to fit bridges on.")
    ] = None,
    pairs_new: Annotated[
        Path | None, typer.Option(help="New embeddings of the same items.")
    ] = None,
    pairs: Annotated[
        int, typer.Option(help="Gallery items to fit bridges on, if no pairs are given.")
    ] = 2000,
    bridges: Annotated[str | None, typer.Option(help="Bridges, separated by commas.")] = None,
    order: Annotated[
        str, typer.Option(help="Backfill order: a name, a list of ids, or a CSV item,count.")
    ] = "random",
    centres: Annotated[
        Path | None, typer.Option(help="Class centres in the old space, for orders by prototypes.")
    ] = None,
    shares: Annotated[
        int,
        typer.Option(
            min=2, max=1001, help="Number of backfill shares to evaluate, 0 % and 100 % included."
        ),
    ] = 11,
    metric: Annotated[
        str, typer.Option(help="AP, AP@k, AP-trapezoidal, nDCG@k, Recall@k, MRR@k or P@k.")
    ] = "AP",
    groups: Annotated[
        Path | None, typer.Option(help="CSV query,group: slices, and the unit of sampling.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="CSV query,weight: traffic.")] = None,
    drop_self: Annotated[
        bool, typer.Option("--drop-self", help="Drop each query from its own results.")
    ] = False,
    query_table: Annotated[
        Path | None, typer.Option(help="CSV id,text or id,picture of queries, for the page.")
    ] = None,
    item_table: Annotated[
        Path | None, typer.Option(help="CSV id,text or id,picture of items, for the page.")
    ] = None,
    id_column: Annotated[str, typer.Option(help="Column of ids in Parquet files.")] = "id",
    index: Annotated[
        str | None, typer.Option(help="FAISS index that serves the gallery; limits apply to it.")
    ] = None,
    index_parameters: Annotated[
        str, typer.Option(help="Its search parameters, such as nprobe=16.")
    ] = "",
    items_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Items the new model embeds per second.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of an hour of embedding.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file.")
    ] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write a page to this file.")
    ] = None,
    max_nfr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Maximum acceptable NFR@1 at any backfill share (the upper 95 % bound must not "
            "exceed it).",
        ),
    ] = None,
    min_gain: Annotated[
        float | None, typer.Option(help="Minimum required M(n,n) − M(o,o) (lower 95 % bound).")
    ] = None,
    min_metric: Annotated[
        list[str] | None,
        typer.Option(help="Minimum mean at every share, such as nDCG@10=0.4; may be repeated."),
    ] = None,
    min_recall: Annotated[float | None, typer.Option(help="Minimum recall of the index.")] = None,
    max_p99_ms: Annotated[
        float | None, typer.Option(help="Maximum latency at p99, in milliseconds.")
    ] = None,
    each_slice: Annotated[
        bool, typer.Option("--each-slice", help="Apply the limits to every group, too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every random choice.")] = 0,
) -> None:
    """Decide an upgrade from files of embeddings, without training.

    Files are .npy, .npz, .parquet (or a folder of them) or .safetensors; the two models may differ
    in dimension. With limits, exit status 0 = go; 3 = no-go or undecided.
    """
    from bench.upgrade.inputs import evaluate_upgrade
    from bench.upgrade.judge import Limits

    inputs = [queries_new, gallery_old, gallery_new, relevance, queries_old, pairs_old, pairs_new]
    more = [groups, weights, centres, query_table, item_table]
    check_outputs((json_path, html_path), [*inputs, *more, Path(order)])
    least = _named_limits(min_metric or [])
    limits = Limits(max_nfr, min_gain, least, min_recall, max_p99_ms, each_slice)
    with Activity(errors) as activity:
        result = evaluate_upgrade(
            queries_new,
            gallery_old,
            gallery_new,
            relevance,
            queries_old,
            pairs_old=pairs_old,
            pairs_new=pairs_new,
            pairs=pairs,
            bridges=None if bridges is None else [name.strip() for name in bridges.split(",")],
            order=order,
            centres=centres,
            shares=shares,
            metric=metric,
            further=tuple(least),
            groups=groups,
            weights=weights,
            drop_self=drop_self,
            query_table=query_table,
            item_table=item_table,
            id_column=id_column,
            index=index,
            index_parameters=index_parameters,
            items_per_second=items_per_second,
            price_per_hour=price_per_hour,
            seed=seed,
            report=activity.report,
        )
    verdict = result.verdict(limits) if limits else None
    if json_path is not None:
        write_output(json_path, json.dumps(result.json(limits), indent=1, allow_nan=False))
    if html_path is not None:
        write_output(html_path, result.page(limits))
    console.print(result.table(limits).rich())
    if verdict is not None:
        console.print(verdict_words(verdict, limits), markup=False, soft_wrap=True)
        if not verdict.go:
            raise typer.Exit(NO_GO)


def verdict_words(verdict: Verdict, limits: Limits) -> str:
    """State which bridges keep the limits, cheapest first, and why."""
    from bench.analysis.limits import UNDECIDED

    lines = [
        f"go: {verdict.cheapest}"
        if verdict.go
        else f"no-go as served, go after retraining: {verdict.after_retraining}"
        if verdict.after_retraining
        else "no-go"
    ]
    undecided = False
    for each in verdict.bridges:
        lines.append(f"  {each.bridge}: {'go' if each.go else 'no-go'}")
        lines += [f"    {check.words}: {check.state}" for check in each.checks]
        undecided |= any(check.state == "undecided" for check in each.checks)
        if each.retrained is not None:
            lines.append(f"    after retraining: {'go' if each.retrained.go else 'no-go'}")
            lines += [f"      {check.words}: {check.state}" for check in each.retrained.checks]
    if undecided:
        lines.append(f"undecided: {UNDECIDED}")
    return "\n".join(lines)


def _named_limits(texts: list[str]) -> dict[str, float]:
    least = dict(map(_named_limit, texts))
    if len(least) < len(texts):
        raise BenchError(f"--min-metric {', '.join(texts)}; expected one limit of each metric")
    return least


def _named_limit(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name, float(number)
    except ValueError as error:
        raise BenchError(f"--min-metric {text}; expected one such as nDCG@10=0.4") from error
