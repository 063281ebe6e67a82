#!/usr/bin/env bash
# A real Slurm: its controller and two nodes, which are daemons on this machine, and ranks that srun starts there. Debian's packages are
# unpacked in the user's cache when they are first needed, and not installed.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v dpkg >/dev/null; then
    echo "NOT RUN: Slurm, whose packages are Debian's and cannot be unpacked here" >&2
    exit 0
fi
cargo build --bin ringfold
ringfold="$PWD/target/debug/ringfold"

cached="${XDG_CACHE_HOME:-$HOME/.cache}/ringfold-slurm"
if [ ! -e "$cached/usr/bin/srun" ]; then
    unpacked="$(mktemp -d)"
    # Whoever fetches packages may be another user.
    chmod 755 "$unpacked"
    (cd "$unpacked" && apt-get download -qq slurmctld slurmd slurm-client slurm-wlm-basic-plugins libmunge2)
    mkdir -p "$cached"
    for package in "$unpacked"/*.deb; do dpkg -x "$package" "$cached"; done
    rm -r "$unpacked"
fi
plugins="$(dirname "$(find "$cached" -name auth_none.so | head -n 1)")"
export LD_LIBRARY_PATH="$plugins:$(dirname "$plugins")"
missing="$(ldd "$cached"/usr/sbin/slurm* "$cached/usr/bin/srun" | grep 'not found' | sort -u || true)"
if [ -n "$missing" ]; then
    printf 'error: Slurm does not find its libraries; install them:\n%s\n' "$missing" >&2
    exit 1
fi

# Two names of this machine, which both lead to it.
host="$(hostname)"
work="$(mktemp -d)"
port=$((20000 + RANDOM % 10000))
export SLURM_CONF="$work/slurm.conf"
cat >"$SLURM_CONF" <<END
ClusterName=ringfold
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/none
CredType=cred/none
PluginDir=$plugins
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmctldPort=$port
SlurmctldPidFile=$work/controller.pid
SlurmdPidFile=$work/%n.pid
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
NodeName=$host NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2
NodeName=localhost NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
END
mkdir "$work/state" "$work/spool.$host" "$work/spool.localhost"
daemons=()
finish() {
    for daemon in "${daemons[@]}"; do kill "$daemon" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT
"$cached/usr/sbin/slurmctld-wlm" -D >"$work/log" 2>&1 &
daemons+=($!)
for node in "$host" localhost; do
    "$cached/usr/sbin/slurmd-wlm" -D -N "$node" -d "$cached/usr/sbin/slurmstepd-wlm" >>"$work/log" 2>&1 &
    daemons+=($!)
done
srun() { timeout 120 "$cached/usr/bin/srun" "$@"; }
for _ in $(seq 60); do
    [ "$("$cached/usr/bin/sinfo" -h -N -t idle 2>/dev/null | wc -l)" = 2 ] && break
    sleep 1
done

expect() { # expect WORDS: in what was said
    grep -q -- "$1" "$work/said" && return
    echo "error: nobody said \"$1\"" >&2
    cat "$work/said" "$work/log" >&2
    exit 1
}
perf=("$ringfold" perf all_reduce -b 8 -e 64K -f 64 --iters 20)

echo "ranks on one node"
srun -N 1 -n 2 "${perf[@]}" >"$work/said" 2>&1 || true
expect "among 2 ranks" && expect "all results right"

echo "ranks on two nodes, which meet at the first"
srun -N 2 -n 4 "${perf[@]}" >"$work/said" 2>&1 || true
expect "among 4 ranks" && expect "all results right"

echo "two steps of a batch at once, and its script, which is no rank"
cat >"$work/job" <<END
#!/bin/bash
${perf[*]}
for _ in 1 2; do "$cached/usr/bin/srun" --exact -n 2 ${perf[*]} & done
wait
echo ended
END
"$cached/usr/bin/sbatch" -W -N 2 -n 4 -o "$work/said" "$work/job" >/dev/null || true
expect ended && expect "among 1 rank "
if [ "$(grep -c "among 2 ranks" "$work/said")" != 2 ] || [ "$(grep -c "all results right" "$work/said")" != 3 ]; then
    cat "$work/said" >&2
    exit 1
fi

echo "a rank that dies is named"
cat >"$work/dies" <<END
#!/bin/bash
[ "\$SLURM_PROCID" != 1 ] || (sleep 2; kill -9 \$\$) &
exec "$ringfold" perf all_reduce -b 8 -e 8 --iters 1000000000
END
chmod +x "$work/dies"
srun -N 2 -n 3 --kill-on-bad-exit=0 "$work/dies" >"$work/said" 2>&1 || true
expect "peer dead: rank 1"

echo "all is well under Slurm"
