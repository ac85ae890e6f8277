#!/usr/bin/env bash
# All that is measured on a card, in 8 minutes at most: benchmarks/gpu.sh [--dry-run] [--out FILE] [--only PART ...]
# See "On a GPU" in benchmarks/README.md. Python is $PYTHON, else .venv's, else python3. If it lacks the package, it is
# installed first into .venv, beside the libraries that python3 has already; that time is not counted.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [ -z "$python" ]; then python=.venv/bin/python; [ -x "$python" ] || python=python3; fi
if ! "$python" -c "import pytest, resproto_fd.training" 2> /dev/null; then
  if [ -n "${PYTHON:-}" ]; then
    echo "gpu.sh: expected a Python with resproto_fd and pytest, got $PYTHON; install the package there or unset PYTHON" >&2
    exit 2
  fi
  echo "gpu.sh: the package is installed into .venv" >&2
  [ -x .venv/bin/python ] || python3 -m venv --system-site-packages .venv
  python=.venv/bin/python
  "$python" -m pip install -q -e . "pytest>=8" "pytest-timeout>=2.3" "pytest-xdist>=3.5" "hypothesis>=6.100" >&2
fi
exec "$python" -u benchmarks/gpu.py "$@"
