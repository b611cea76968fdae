# shellcheck shell=bash
# Shared functions of the scripts below ci/ and tests/lab/guest/: logging, folders, packages. To be sourced, does nothing by itself.
# Everything that is installed or downloaded lands in the system's package database or below $HOTADD_CACHE, nowhere else.

HOTADD_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HOTADD_ROOT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$HOTADD_ROOT/target}
export HOTADD_CACHE=${HOTADD_CACHE:-$HOTADD_ROOT/target/lab}
mkdir -p "$HOTADD_CACHE"

# Logging goes to stderr, so that functions may answer on stdout. Times are seconds since the script began.
log() { printf '[%4ds] %s\n' "$SECONDS" "$*" >&2; }
die() { log "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# under_lock NAME cmd... : run cmd while holding a lock of that name, so that parallel jobs don't build the same thing twice.
under_lock() {
  local lock=$HOTADD_CACHE/.$1.lock; shift
  ( exec 9>"$lock"
    flock -w 1800 9 || die "lock $lock was not free within 1800 s"
    "$@" 9>&- )
}

apt_get() {
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 \
    -o Dpkg::Use-Pty=0 -o APT::Sandbox::User=root "$@"
}

# apt_update: refresh the package lists, at most once an hour for all scripts together. A third-party source that is
# unreachable or has an expired key makes apt fail although Debian's own lists are fresh: that failure is not ours.
apt_update() {
  local stamp=$HOTADD_CACHE/.apt-updated
  [[ -z $(find "$stamp" -mmin -60 2>/dev/null) ]] || return 0
  log "refreshing package lists"
  apt_get update >/dev/null 2>&1 || log "some package sources could not be refreshed; going on with the others"
  touch "$stamp"
}

installed() { [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# missing PKG... : those that are not installed, one a line.
missing() { local p; for p; do installed "$p" || printf '%s\n' "$p"; done; }

# need PKG... : install what is missing. Another apt on the same machine may clean the download folder
# under us (container images do that after every update), so a failed round is tried again.
need() {
  local -a want; local round
  mapfile -t want < <(missing "$@")
  ((${#want[@]})) || return 0
  ((EUID == 0)) || die "missing packages: ${want[*]} (run as root, or install them)"
  [[ -n $(find /var/lib/apt/lists -name '*_Packages*' -print -quit 2>/dev/null) ]] || apt_update
  log "installing ${want[*]}"
  for round in 1 2 3; do
    if apt_get install -y --no-install-recommends "${want[@]}" >"$HOTADD_CACHE/apt.log" 2>&1; then return 0; fi
    ((round > 1)) || apt_update
  done
  tail -n 15 "$HOTADD_CACHE/apt.log" >&2
  die "could not install ${want[*]}"
}

# apt_sources SUITE: package sources of this machine, Debian's own only; a foreign source must not decide what an image is made of.
apt_sources() {
  # shellcheck disable=SC2016  # apt's own placeholders
  apt-get indextargets --format '$(ORIGIN)|deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    awk -F'|' -v suite="$1" '$1 ~ /^Debian/ && $2 ~ suite {print $2}' | sort -u
}

# Counting, for the parts of ci/test. A part calls `check`, `skip` or `counted_nextest` and ends with `finish`.
PASSED=0 FAILED=0 SKIPPED=0

# check WHAT cmd... : one check; its output is shown only when it fails.
check() {
  local what=$1 out; shift
  if out=$("$@" 2>&1); then
    PASSED=$((PASSED + 1)); printf 'ok      %s\n' "$what"
  else
    FAILED=$((FAILED + 1)); printf 'FAILED  %s\n%s\n' "$what" "$out"
  fi
}

# streamed WHAT cmd... : one check whose output is shown as it comes.
streamed() {
  local what=$1; shift
  if "$@"; then PASSED=$((PASSED + 1)); printf 'ok      %s\n' "$what"; else FAILED=$((FAILED + 1)); printf 'FAILED  %s\n' "$what"; fi
}

# skip WHAT WHY: WHY names what is missing.
skip() { SKIPPED=$((SKIPPED + 1)); printf 'SKIPPED %s: %s\n' "$1" "$2"; }

# tally FILE: takes the counts from a last line "N passed, N failed, N skipped" of another program's output; no such line is a failure.
tally() {
  local line; line=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$1" | tail -n 1) || true
  [[ -n $line ]] || { FAILED=$((FAILED + 1)); printf 'FAILED  no count in the output\n'; return; }
  local -a counts; mapfile -t counts < <(grep -oE '[0-9]+' <<<"$line")
  PASSED=$((PASSED + counts[0])) FAILED=$((FAILED + counts[1])) SKIPPED=$((SKIPPED + counts[2]))
}

# counted_nextest FILTER [more arguments]: runs the workspace's tests that FILTER selects and adds its counts.
# A test that lacks something on this machine appends "name: what is missing" to $HOTADD_SKIPS and returns; it counts as skipped.
# Ignored tests are counted from the list: nextest's own "skipped" also holds what FILTER leaves out.
counted_nextest() {
  local filter=$1 out rc=0 text passed ran failed skips ignored; shift
  out=$(mktemp) skips=$(mktemp)
  HOTADD_SKIPS=$skips cargo nextest run --cargo-profile ci --workspace --no-fail-fast --color never -E "$filter" "$@" 2>&1 | tee "$out" || rc=$?
  text=$(grep -E '^ +Summary ' "$out" | tail -n 1)
  ran=$(grep -oE '[0-9]+(/[0-9]+)? tests? run' <<<"$text" | grep -oE '^[0-9]+' || echo 0)
  passed=$(grep -oE '[0-9]+ passed' <<<"$text" | grep -oE '^[0-9]+' || echo 0)
  failed=$((ran - passed))
  ((rc == 0 || failed > 0)) || { failed=1; printf 'FAILED  nextest ended with %d\n' "$rc"; }
  ignored=$(cargo nextest list --cargo-profile ci --workspace --run-ignored only -T json -E "$filter" 2>/dev/null |
    grep -o '"filter-match":{"status":"matches"}' | wc -l) || ignored=0
  if [[ -s $skips ]]; then sed 's/^/SKIPPED /' "$skips"; fi
  local self; self=$(wc -l <"$skips")
  PASSED=$((PASSED + passed - self)) FAILED=$((FAILED + failed)) SKIPPED=$((SKIPPED + ignored + self))
  rm -f "$out" "$skips"
}

# finish: hands the counts to ci/test and ends the part.
finish() {
  printf '%d %d %d\n' "$PASSED" "$FAILED" "$SKIPPED" >"${HOTADD_COUNTS:-/dev/null}"
  printf '%d passed, %d failed, %d skipped\n' "$PASSED" "$FAILED" "$SKIPPED"
  ((FAILED == 0)) || exit 1
  exit 0
}
