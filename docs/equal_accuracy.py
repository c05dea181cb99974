"""Negative flips of two methods at equal final mAP, each trained with two settings.

    python docs/equal_accuracy.py RESULTS SUITE OTHER_SUITE METHOD OTHER_METHOD

A setting moves a method along a trade of flips (AUC NFR@1) for final mAP (M(n,n)), so that two
methods with one setting each are compared at different places of it. Here the two suites give each
method two places; the line through their means tells what a difference in M(n,n) costs, and every
seed's flips are moved along it to the M(n,n) in the middle of what both methods reach. What is left
is compared by seed. Random backfill order.
"""

import sys

import numpy as np
from scipy import stats

import bench
from bench.analysis.cells import arrays
from bench.evaluation.metrics import area, negative_flip_rate

HEAD = "| scenario | M(n,n) | AUC NFR@1 `{}` | `{}` | difference [95 % CI] | p |"


def places(rows, method):
    """Final mAP and area of NFR@1 of a method's seeds, [2, seeds], by scenario."""
    found = {}
    own = rows[rows["method"] == method]
    for (scenario, _), cell in own.groupby(["scenario", "seed"], sort=True):
        each = arrays(cell)
        flips = negative_flip_rate(each.old_success[1], each.success[1])
        found.setdefault(scenario, []).append((each.ap[-1].mean(), area(each.shares, flips)))
    return {scenario: np.array(values).T for scenario, values in found.items()}


def moved(one, other, target):
    """Flips of each seed, [seeds], at a final mAP, by the line through the means of two places."""
    (x, y), (x_other, y_other) = one.mean(1), other.mean(1)
    slope = (y_other - y) / (x_other - x)
    return np.mean([place[1] + slope * (target - place[0]) for place in (one, other)], axis=0)


def common(pairs):
    """Final mAP in the middle of what both methods reach, or of the gap between them."""
    ends = [sorted(place[0].mean() for place in pair) for pair in pairs]
    return (max(low for low, _ in ends) + min(high for _, high in ends)) / 2


def compared(pairs):
    """M(n,n), flips of both methods there [2, seeds], and a paired t-test of the difference."""
    target = common(pairs)
    flips = np.array([moved(*pair, target) for pair in pairs])
    return target, flips, stats.ttest_rel(*flips)


def table(suites, methods):
    """Compare two methods in each scenario, over the seeds that every suite has, as Markdown."""
    common_seeds = set.intersection(*(set(rows["seed"]) for rows in suites))
    suites = [rows[rows["seed"].isin(common_seeds)] for rows in suites]
    found = [[places(rows, method) for rows in suites] for method in methods]
    lines = [HEAD.format(*methods), "|---|---:|---:|---:|---:|---:|"]
    for scenario in [name for name in found[0][0] if name in found[0][1]]:
        target, flips, test = compared([[each[scenario] for each in pair] for pair in found])
        low, high = test.confidence_interval()
        lines.append(
            f"| {scenario} | {target:.3f} | {flips[0].mean():.3f} | {flips[1].mean():.3f} "
            f"| {(flips[0] - flips[1]).mean():+.3f} [{low:+.3f}, {high:+.3f}] | {test.pvalue:.2g} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    results, *suites, one, other = sys.argv[1:]
    read = [bench.read_records(suite, results, "random") for suite in suites]
    print(table(read, (one, other)))
