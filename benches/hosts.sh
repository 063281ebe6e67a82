#!/bin/sh
# Two hosts that network namespaces stand for, joined by a bridge, each with PER_HOST ranks: a collective by the backend hierarchical
# and by tcp in turn, as lines of JSON. It says before each which one:
#   cargo build --release
#   unshare --net --uts sh tests/support/hosts.sh 2 sh benches/hosts.sh PER_HOST all_reduce -b 8 -e 64M -f 8 > hosts.jsonl
# TURNS says how often (2), WAYS by what: words of a backend and an algorithm, of which - is the table's choice.
set -e
per=$1
shift
other=${RINGFOLD_TEST_HOSTS#* }
ringfold=${RINGFOLD:-target/release/ringfold}
export RINGFOLD_WORLD_SIZE=$((2 * per)) RINGFOLD_STORE=10.77.0.1:29500 RINGFOLD_INIT_DEADLINE=60s
turn=0
while [ $turn -lt "${TURNS:-2}" ]; do
    for way in ${WAYS:-hierarchical:- tcp:- tcp:ring}; do
        export RINGFOLD_BACKEND="${way%:*}" RINGFOLD_ALGORITHM="${way#*:}"
        [ "$RINGFOLD_ALGORITHM" != - ] || unset RINGFOLD_ALGORITHM
        echo "way $way"
        rank=0
        pids=
        while [ $rank -lt "$RINGFOLD_WORLD_SIZE" ]; do
            export RINGFOLD_RANK=$rank
            if [ $rank -lt "$per" ]; then
                "$ringfold" perf "$@" --fresh --json &
            else
                nsenter --target "$other" --net --uts "$ringfold" perf "$@" --fresh --json &
            fi
            pids="$pids $!"
            rank=$((rank + 1))
        done
        for pid in $pids; do wait "$pid"; done
    done
    turn=$((turn + 1))
done
