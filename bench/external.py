"""`python -m bench evaluate`: embeddings of an upgrade made elsewhere in, curve and verdict out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.errors import BenchError

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
        queries_new, gallery_old, gallery_new, relevance, queries_old, order, shares, metric, seed
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
    found = evaluate(upgrade, truth, rows, np.linspace(0, 1, shares), metric, generator)
    return {"order": order, "seed": seed, **found}


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
