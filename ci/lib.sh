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
    ((round == 1)) && apt_update
    sleep $((round * 2))
  done
  tail -n 15 "$HOTADD_CACHE/apt.log" >&2
  die "could not install ${want[*]}"
}
