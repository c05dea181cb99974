"""Makes README's table and figure of `results/reference/default`: `python docs/overview.py`."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
SCENARIO = "extended-class-on-icons"
FOLDER = ROOT / "results" / "reference" / "default"
COLUMNS = {"mean NFR@1": "AUC NFR@1", "mAP, 0 %": "M(n,o)", "mean mAP": "AUC mAP"}
COLUMNS["mAP, 100 %"] = "M(n,n)"


def rows():
    """Methods of the reference table, fewest negative flips first."""
    found = pd.read_csv(FOLDER / SCENARIO / f"{SCENARIO}.csv")
    return found.sort_values("AUC NFR@1")


def table():
    """README's table in Markdown."""
    lines = [f"| method | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for _, row in rows().iterrows():
        cells = [
            f"{row[name]:.3f} [{row[f'{name} low']:.3f}, {row[f'{name} high']:.3f}]"
            for name in COLUMNS.values()
        ]
        lines.append(f"| `{row['method']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(path):
    """Draw mean NFR@1 against final mAP, with 95 % intervals."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "overview", "svg.fonttype": "none"})
    from matplotlib import pyplot

    canvas, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for _, row in rows().iterrows():
        x, y = (
            (row[name], [[row[name] - row[f"{name} low"]], [row[f"{name} high"] - row[name]]])
            for name in ("AUC NFR@1", "M(n,n)")
        )
        points = axes.errorbar(x[0], y[0], xerr=x[1], yerr=y[1], fmt="o", elinewidth=1, alpha=0.8)
        color = points.lines[0].get_color()
        axes.annotate(row["method"], (x[0], y[0]), (5, 5), textcoords="offset points", color=color)
    axes.set_xlabel("mean NFR@1 over the backfill (fewer flips to the left)")
    axes.set_ylabel("mAP at 100 % backfilled")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    canvas.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    figure(ROOT / "docs" / "overview.svg")
    print(table())
