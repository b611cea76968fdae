#!/bin/bash
# Contract tests with VMware's pyvmomi: the whole job against vcenter-sim, then every message of it against pyvmomi's type table.
# Usage: tests/contract/run.sh [PATH-OF-vcenter-sim] [FOLDER-WITH-MORE-DUMPS …]. The venv lives in $HOTADD_CACHE or target/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=${HOTADD_CACHE:-$root/target}/venv
sim=${1:-$target/ci/vcenter-sim}
shift || true
if [ ! -x "$sim" ]; then echo "run.sh: $sim is missing: cargo build --profile ci -p vcenter-sim" >&2; exit 2; fi
if ! "$venv/bin/python" -c 'import pyVmomi' 2>/dev/null; then
  mkdir -p "$(dirname "$venv")"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet 'pyvmomi>=8,<10'
fi
dump=$(mktemp -d)
trap 'rm -rf "$dump"' EXIT
"$venv/bin/python" "$here/pyvmomi_job.py" --sim "$sim" --dump "$dump"
"$venv/bin/python" "$here/check_types.py" "$dump" "$@"
"$venv/bin/python" "$here/check_privileges.py"
