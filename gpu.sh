#!/usr/bin/env bash
# Everything that needs a GPU, in at most eight minutes: bash gpu.sh OUT (--help says more).
# PYTHON names the Python to take; unless told, that of .venv where there is one, else python3.
set -eu
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$root/.venv/bin/python" ]; then PYTHON=$root/.venv/bin/python; else PYTHON=python3; fi
fi
# Triton and matplotlib write into a home; who has none, or one that cannot be written, gets one.
if [ -z "${HOME:-}" ] || [ ! -w "$HOME" ]; then HOME=$(mktemp -d); export HOME; fi
export PYTHONUTF8=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m benchmarks "$@"
