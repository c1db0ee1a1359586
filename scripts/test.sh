#!/usr/bin/env bash
# Run the tests, installing what they need first:  bash scripts/test.sh [--all] [pytest arguments]
# Without --all those marked `slow` are left out: what starts processes, trains, or takes more than two seconds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

select="not slow"
if [ "${1:-}" = --all ]; then
    select=""
    shift
fi
setup dev,quickstart
run python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile -m "$select" "$@"
