#!/usr/bin/env bash
# Makes the Docker sandbox usable: an engine that answers, and the sandbox's image.
# Installs Docker where it is missing (Debian, Ubuntu, as root); a second run changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
LOG=.cache/dockerd.log

say() { printf '\033[1m%s\033[0m\n' "docker: $*"; }
die() { printf '%s\n' "docker: $*" >&2; exit 1; }
answers() { docker version >/dev/null 2>&1; }

if ! command -v dockerd >/dev/null && ! answers; then
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
        die "Docker is missing: ask an administrator to install it and to put you into its group"
    say "installing docker.io"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true  # a stale list may still do
    log=$(apt-get install -y -qq --no-install-recommends docker.io iptables 2>&1) || die "$log"
fi
if ! answers; then
    [ "$(id -u)" = 0 ] || die "the Docker engine does not answer: start it, and join the group docker"
    say "starting dockerd (log: $LOG)"
    mkdir -p .cache
    setsid dockerd >"$LOG" 2>&1 </dev/null &
    for _ in $(seq 300); do
        answers && break
        sleep 0.2
    done
    answers || die "dockerd does not start: $(tail -n 3 "$LOG")"
fi
made=$("$PYTHON" -m environments.sandbox.image "$@" 2>&1) || die "$made"
say "$made"
