#!/usr/bin/env bash
# Run the tests, installing what they need first:  bash scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

setup dev,quickstart
run python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile "$@" # a process takes up to 7 GiB
