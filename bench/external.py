"""`python -m bench evaluate`: embeddings of an upgrade made elsewhere in, curve and verdict out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.relevance import Relevance
    from bench.upgrade import Upgrade

NO_GO = 3


def command(
    queries_new: Annotated[Path, typer.Option(help="New embeddings of the queries.")],
    gallery_old: Annotated[Path, typer.Option(help="Old embeddings of the gallery.")],
    gallery_new: Annotated[Path, typer.Option(help="New embeddings of the gallery.")],
    relevance: Annotated[Path, typer.Option(help="TREC qrels, or CSV query,item[,relevance].")],
    queries_old: Annotated[
        Path | None, typer.Option(help="Old embeddings of the queries, for flips and gains.")
    ] = None,
    order: Annotated[str, typer.Option(help="Backfill order: a file, or a name.")] = "random",
    shares: Annotated[int, typer.Option(min=2, help="Points of the curve.")] = 11,
    metric: Annotated[str, typer.Option(help="AP, AP@k or AP-trapezoidal.")] = "AP",
    index: Annotated[
        str | None, typer.Option(help="Also serve from this FAISS index: HNSW32, IVF1024,Flat, …")
    ] = None,
    index_parameters: Annotated[
        str, typer.Option(help="Its search parameters, such as nprobe=16.")
    ] = "",
    json_path: Annotated[Path | None, typer.Option("--json", help="Write all numbers.")] = None,
    html_path: Annotated[Path | None, typer.Option("--html", help="Write a page.")] = None,
    max_nfr: Annotated[
        float | None, typer.Option(min=0, max=1, help="Largest NFR@1 that is acceptable.")
    ] = None,
    min_gain: Annotated[float | None, typer.Option(help="Least gain that is worth it.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random order and of the bootstrap.")] = 0,
) -> None:
    """Evaluate an upgrade from files of embeddings, without training.

    Files are .npy, .parquet or .safetensors. With limits, the exit status is 0 for go and 3 for
    no-go.
    """
    found = run(
        queries_new,
        gallery_old,
        gallery_new,
        relevance,
        queries_old,
        order,
        shares,
        metric,
        seed,
        index,
        index_parameters,
    )
    from bench.upgrade import judge

    verdict = judge(found, max_nfr, min_gain)
    if verdict is not None:
        found["verdict"] = {"go": verdict.go, "reasons": list(verdict.reasons)}
    if json_path is not None:
        _write(json_path, json.dumps(found, indent=1, allow_nan=False))
    if html_path is not None:
        from bench.upgrade_page import page

        _write(html_path, page(found))
    typer.echo(summary(found))
    if verdict is not None and not verdict.go:
        raise typer.Exit(NO_GO)


def run(
    queries_new: Path,
    gallery_old: Path,
    gallery_new: Path,
    relevance: Path,
    queries_old: Path | None = None,
    order: str = "random",
    shares: int = 11,
    metric: str = "AP",
    seed: int = 0,
    index: str | None = None,
    index_parameters: str = "",
) -> dict[str, Any]:
    """Read the files and evaluate the upgrade; returns what goes into the JSON.

    Raises BenchError for files that cannot be read, rows without a direction, and widths, ids or
    numbers of rows that do not fit, naming both files.
    """
    import numpy as np

    from bench.metrics import cutoff
    from bench.upgrade import Upgrade, evaluate
    from bench.vectors import aligned, read_relevance, read_vectors

    cutoff(metric)
    old, new = read_vectors(gallery_old), read_vectors(gallery_new)
    queries = read_vectors(queries_new)
    before = None if queries_old is None else aligned(read_vectors(queries_old), queries, "queries")
    upgrade = Upgrade(queries, aligned(new, old, "gallery items"), old, before)
    truth = read_relevance(relevance, queries, old)
    generator = np.random.default_rng(seed)
    rows = _order(order, old, truth, generator)
    points = np.linspace(0, 1, shares)
    found = evaluate(upgrade, truth, rows, points, metric, generator)
    if index is not None:
        found["served"] = _served(index, index_parameters, upgrade, truth, rows, points)
    return {"order": order, "seed": seed, **found}


def _served(
    factory: str, parameters: str, upgrade: Upgrade, truth: Relevance, order: Any, shares: Any
) -> dict[str, Any]:
    """Walk the same backfill through a FAISS index that is updated in place."""
    from bench.served import served_curve

    curve = served_curve(
        factory,
        upgrade.queries_new.rows,
        upgrade.gallery_new.rows,
        upgrade.gallery_old.rows,
        truth,
        order,
        shares,
        parameters=parameters,
    )
    evaluated = truth.relevant.counts() > 0
    p50, p99 = curve.latency_ms
    return {
        "index": factory,
        "parameters": parameters,
        "metric": f"AP@{curve.depth}",
        "mAP": curve.ap[:, evaluated].mean(1).tolist(),
        **{
            f"success_at_{k}": curve.success[:, position][:, evaluated].mean(1).tolist()
            for position, k in enumerate(curve.success_at)
        },
        "recall": curve.recall.tolist(),
        "searches_per_s": curve.searches_per_s,
        "latency_ms_p50": p50,
        "latency_ms_p99": p99,
        "updates_per_s": curve.updates_per_s,
        "bytes_per_item": curve.bytes_per_item,
        "rebuilds": curve.rebuilds,
        "on_gpu": curve.on_gpu,
    }


def _order(name: str, gallery: Any, relevance: Any, generator: Any) -> Any:
    from bench import orders
    from bench.vectors import read_order

    if name in orders.ORDERS:
        known = orders.Knowledge(len(gallery), gallery_old=gallery.rows, relevance=relevance)
        return orders.order(name, known, generator)
    if not Path(name).is_file():
        raise BenchError(
            f"--order '{name}' is neither a file nor a backfill order; expected one of "
            f"{', '.join(orders.ORDERS)}, or a file with one id or row number per line"
        )
    return read_order(Path(name), gallery)


def summary(found: dict[str, Any]) -> str:
    """Say the most important numbers in a few lines."""
    evaluated, queries = found["queries_evaluated"], found["queries"]
    lines = [f"{found['metric']} of {evaluated} of {queries} queries, {found['gallery']} items"]
    cells = [("old", "old"), ("new", "old"), ("old", "new"), ("new", "new")]
    for query, gallery in cells:
        value = found[f"M_{query}_{gallery}"]
        shown = "not known: needs --queries-old" if value is None else f"{value:.4f}"
        if value is None and found["M_old_old"] is not None:
            shown = "not comparable: the widths differ"
        lines.append(f"  {query} queries, {gallery} gallery  {shown}")
    names = ["AUC_mAP", "worst_share_mAP", "first_share_above_old", "AUC_NFR_at_1", "AUC_NFR_at_5"]
    known = [name for name in names if found.get(name) is not None]
    lines += [f"  {name}  {found[name]:.4f}" for name in known]
    if "flipped_queries" in found:
        lines.append(f"  {len(found['flipped_queries'])} queries flip at some share")
    if "served" in found:
        served = found["served"]
        lines.append(
            f"  served from {served['index']}: recall {min(served['recall']):.3f} or more, "
            f"{served['searches_per_s']:,.0f} searches/s, p50 {served['latency_ms_p50']:.2f} ms, "
            f"p99 {served['latency_ms_p99']:.2f} ms, {served['updates_per_s']:,.0f} updates/s, "
            f"{served['bytes_per_item']:,.0f} bytes per item"
        )
    if "verdict" in found:
        lines.append("go" if found["verdict"]["go"] else "no-go")
        lines += [f"  {reason}" for reason in found["verdict"]["reasons"]]
    return "\n".join(lines)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror})") from error
