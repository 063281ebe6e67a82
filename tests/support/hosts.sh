#!/bin/sh
# Runs a program on the first of several hosts, which network namespaces stand for, joined by a bridge:
#   unshare --net --uts sh hosts.sh NUMBER PROGRAM ARGUMENTS...
# It finds the first host's address in RINGFOLD_TEST_HOSTS, and behind it a process of each other host.
set -e
number=$1
shift
ip link set lo up
ip link add cable type bridge
ip address add 10.77.0.1/24 dev cable
ip link set cable up
pids=
trap 'kill $pids' EXIT
host=1
while [ $host -lt "$number" ]; do
    unshare --net --uts sh -c "hostname host$host; exec sleep 600" &
    pid=$!
    pids="$pids $pid"
    there() { nsenter --target "$pid" --net --uts "$@"; }
    until [ "$(there hostname)" = host$host ]; do sleep 0.01; done
    ip link add left$host type veth peer name right netns "$pid"
    ip link set left$host master cable up
    there ip address add 10.77.0.$((host + 1))/24 dev right
    there ip link set right up
    there ip link set lo up
    host=$((host + 1))
done
export RINGFOLD_TEST_HOSTS="10.77.0.1$pids"
"$@"
