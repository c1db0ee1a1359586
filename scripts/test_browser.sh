#!/usr/bin/env bash
# Open reports and the playground in a real headless browser, and do with them what people do:  bash scripts/test_browser.sh [pytest arguments]
# Screenshots go to the folder SCREENSHOTS, which is reports/browser unless it is set. Chromium must be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh

if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
    echo "Chromium is needed, and is not there. On Debian or Ubuntu: apt-get install chromium" >&2
    exit 1
fi
setup dev,quickstart
export SCREENSHOTS=${SCREENSHOTS:-reports/browser}
run python -m pytest tests/browser/reports.py tests/browser/playground.py "$@"
echo "screenshots in $SCREENSHOTS"
