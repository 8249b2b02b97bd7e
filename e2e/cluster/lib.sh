# What the scripts of the end-to-end cluster share; sourced, never run.
# shellcheck shell=bash disable=SC2034

cluster=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SLUICE_E2E_CACHE:-$HOME/.cache/sluice-e2e}
# Keys, kubeconfigs, logs, pids. `down` removes it.
state=${SLUICE_E2E_STATE:-/run/sluice-e2e}
# Only inside the namespaces: a tmpfs with everything that the parts store, gone with the namespaces.
data=$state/data
export SLUICE_E2E_CACHE=$cache SLUICE_E2E_STATE=$state

# Where e2e/images/build puts its archives.
images=${CARGO_TARGET_DIR:-$(cd "$cluster/../.." && pwd)/target}/e2e/images

# All pods' cgroups are below this name, in each hierarchy.
cgroup=$(basename "$state")

# The node's address, where every part listens; none of these networks is reachable from the machine.
NODE_IP=10.77.0.1
POD_CIDR=10.66.0.0/16
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1

PATH=$cache/bin:$PATH:/usr/sbin:/sbin
export KUBECONFIG=$state/kubeconfig
export SLUICE_E2E_GATEWAY_URL=http://$NODE_IP:8080
export SLUICE_E2E_PROMETHEUS_URL=http://$NODE_IP:9090
# What lies in $state/artifacts, while the addon `flux` runs.
export SLUICE_E2E_ARTIFACTS_URL=http://$NODE_IP:8090

die() { echo "error: $*" >&2; exit 1; }

# The roots of the cgroup hierarchies: one with cgroup v2, one for each controller with v1.
cgroup_roots() { awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts; }

# The pid of the `unshare` that holds the namespaces, if it is alive and the one that `up` started.
holder_pid() {
  local pid
  pid=$(cat "$state/holder" 2>/dev/null) && grep --quiet --null-data 'cluster/init$' "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

# Ends the script when the cluster is somebody else's: an e2e/run's that is alive, or, for an e2e/run, one that was
# started by hand.
respect_owner() {
  local owner
  owner=$(cat "$state/owner" 2>/dev/null) || return 0
  [[ $owner != "${SLUICE_E2E_OWNER:-}" ]] || return 0
  if [[ $owner == manual ]]; then
    [[ -z ${SLUICE_E2E_OWNER:-} ]] || ! holder_pid >/dev/null || die "the cluster was started by hand; e2e/cluster/down ends it"
  elif grep --quiet --null-data 'e2e/run$' "/proc/$owner/cmdline" 2>/dev/null; then
    die "a run of the scenarios is using the cluster (pid $owner)"
  fi
}

# Whether this script itself runs in the namespaces.
is_inside() { mountpoint --quiet "$data"; }

elapsed() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }'; }

# await TEXT SECONDS PART CMD...: waits until CMD succeeds. Ends the run with the tail of PART's log
# when that part has died, or when the time is over.
await() {
  local text=$1 limit=$2 part=$3 start=$EPOCHREALTIME deadline=$((SECONDS + $2))
  shift 3
  printf '  %-44s ' "$text"
  until "$@" >"$state/await.log" 2>&1; do
    if ! part_alive "$part"; then echo "failed"; part_failed "$part" "it has ended"; fi
    if ((SECONDS >= deadline)); then
      echo "failed"
      tail -n 3 "$state/await.log" >&2
      part_failed "$part" "\"$text\" was not true within $limit s"
    fi
    sleep 0.1
  done
  elapsed "$start"; echo
}

part_alive() { [[ -e $state/parts/$1.pid ]] && kill -0 "$(<"$state/parts/$1.pid")" 2>/dev/null; }

part_failed() {
  echo "--- the end of $state/logs/$1.log" >&2
  tail -n 25 "$state/logs/$1.log" >&2
  die "$1: $2"
}

# define NAME CMD...: how a part is started, now and by `part start NAME`.
define() {
  local name=$1
  shift
  printf '#!/bin/sh\nexec%s\n' "$(printf ' %q' "$@")" >"$state/parts/$name"
  chmod 0755 "$state/parts/$name"
}

start_part() {
  setsid "$state/parts/$1" >>"$state/logs/$1.log" 2>&1 </dev/null &
  echo $! >"$state/parts/$1.pid"
}
