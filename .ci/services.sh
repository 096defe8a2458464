#!/usr/bin/env bash
# What the tests of real components need besides Python: Java, a browser, the Docker engine, vLLM.
# Installs what is missing (as root, with apt) and starts what does not run; idempotent. Needs
# what `make setup` made.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
command -v chromium >/dev/null || missing+=(chromium)
command -v chromedriver >/dev/null || missing+=(chromium-driver)
/usr/bin/python3 -c 'import sqlite3' 2>/dev/null || missing+=(python3)
[ -x /usr/sbin/adduser ] || missing+=(adduser)  # the shell suite adds users
command -v ps >/dev/null || missing+=(procps)
if [ ${#missing[@]} -gt 0 ]; then
    echo "services: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq || true  # a stale list may still do
    log=$(apt-get install -y -qq --no-install-recommends "${missing[@]}" 2>&1) ||
        { printf '%s\n' "$log" >&2; exit 1; }
fi
bash .ci/docker.sh
bash .ci/vllm.sh
