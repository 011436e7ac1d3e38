#!/usr/bin/env bash
# Measure everything that needs a GPU, in one command and a limited time: the GPU tests, and the device's benchmark with
# each optimization, profile and memory plan, with the device's power and clocks. Needs the environment with the extras
# `test` and `benchmark`, and no network. Whatever ends it, the JSON has what was measured until then.
#
# usage: scripts/gpu_day.sh [--minutes 12] [--json gpu-day.json]
#        scripts/gpu_day.sh --device cpu --architecture tiny    rehearse it without a GPU
#        .venv/bin/python -m tools.gpu_table gpu-day.json       turn the JSON into the tables of docs/performance.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-.venv/bin/python}" -m tools.gpu_day "$@"
