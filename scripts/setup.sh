# Sourced, from the repository's root, by the scripts that need the package installed.

# Prints a command, then runs it.
run() {
    echo "+ $*"
    "$@"
}

require_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && return
    echo "Python 3.11 or newer is needed, but $1 is $("$1" --version 2>&1 || true)." >&2
    echo "Activate an environment that has it, or remove .venv and name one: PYTHON=python3.12 bash $0" >&2
    return 1
}

# setup EXTRAS: install the package with its extras ("dev,quickstart") where that is not done yet, and put its environment
# first in PATH. The environment is the active one, else .venv, which is made if missing. A stamp in it lists the extras
# installed for these very dependencies, so that the next call returns at once.
setup() {
    local extras=$1 environment=${VIRTUAL_ENV:-$PWD/.venv} python=${PYTHON:-python3} checksum stamp
    if [ -z "${VIRTUAL_ENV:-}" ] && [ ! -x "$environment/bin/pip" ]; then
        require_python "$python" || return
        run "$python" -m venv "$environment" || return
    fi
    require_python "$environment/bin/python" || return
    export VIRTUAL_ENV=$environment PATH=$environment/bin:$PATH

    stamp=$environment/ldm-train-extras
    checksum=$({ pwd && cat pyproject.toml constraints.txt; } | cksum) || return
    grep -qxF "$checksum $extras" "$stamp" 2>/dev/null && return
    run python -m pip install -c constraints.txt -e ".[$extras]" || return
    { grep -F "$checksum " "$stamp" 2>/dev/null || true; echo "$checksum $extras"; } >"$stamp.new"
    mv "$stamp.new" "$stamp"
}
