#!/usr/bin/env bash
# Install the lowest versions that pyproject.toml allows, then run the smoke suite and a part of the
# tests with them: optional, since it downloads another torch.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
# shellcheck disable=SC1091
source "$environment/bin/activate"
pip install --quiet uv
uv pip install --quiet --resolution lowest-direct -e ".[tune,cluster]"
uv pip install --quiet pytest pytest-benchmark hypothesis ir-measures
uv pip freeze
python -m bench all --smoke --results "$environment/results"
pytest -q tests/bench/evaluation tests/bench/analysis tests/bench/storage tests/bench/suites
