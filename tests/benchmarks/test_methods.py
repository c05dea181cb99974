"""What each method's training step costs; `-m slow --benchmark-enable` prints a ratio each."""

from __future__ import annotations

import pytest

from bench.costs.step import step_cost
from bench.plugins import registry

METHODS = [name for name in registry.discover("methods") if registry.method_class(name).trains]
ALLOWED = 1.35  # × (plain classifier's step + old forward)
EXCEPTIONS: dict[str, str] = {}  # the reason of each method that may cost more


@pytest.mark.slow
@pytest.mark.benchmark(group="training")
@pytest.mark.parametrize("name", METHODS)
def test_training_step(benchmark, name, capsys):
    repeats = 2 if benchmark.disabled else 21
    cost = benchmark.pedantic(step_cost, args=(registry.method_class(name), repeats), rounds=1)
    if not benchmark.disabled:
        benchmark.extra_info["ratio"] = cost.ratio
        with capsys.disabled():
            print(f"\n{name}: {cost}, {cost.of_plain:.2f} × plain step")
        assert cost.ratio <= ALLOWED or name in EXCEPTIONS
