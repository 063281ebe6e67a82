//! Tasks on several hosts, which network namespaces stand for, in an order that is not that of the hosts.

use crate::programs::Place;

/// Two hosts that a cable connects; ranks 0 and 2 on the one, 1 and 3 on the other. `$@` is the program.
const SCRIPT: &str = r#"
set -e
ip link set lo up
unshare --net --uts sh -c 'hostname other; exec sleep 120' &
other=$!
trap 'kill $other' EXIT
there() { nsenter --target "$other" --net --uts "$@"; }
until [ "$(there hostname)" = other ]; do sleep 0.01; done
ip link add left type veth peer name right
ip link set right netns "$other"
ip address add 10.77.0.1/24 dev left
ip link set left up
there ip address add 10.77.0.2/24 dev right
there ip link set right up
there ip link set lo up
export RINGFOLD_WORLD_SIZE=4 RINGFOLD_STORE=10.77.0.1:29500 RINGFOLD_INIT_DEADLINE=60s
pids=
for rank in 0 1 2 3; do
    if [ $((rank % 2)) = 0 ]; then RINGFOLD_RANK=$rank "$@" & else RINGFOLD_RANK=$rank there "$@" & fi
    pids="$pids $!"
done
for pid in $pids; do wait "$pid"; done
"#;

#[test]
fn rings_go_from_host_to_host_whatever_the_partitions() {
    let place = Place::new("hosts");
    // Namespaces of one's own are root's to make, or anybody's who is root in one of users.
    let root = nix::unistd::geteuid().is_root();
    let mine = ["--net", "--uts"].into_iter().chain((!root).then_some("--map-root-user"));
    let launcher: Vec<&str> =
        ["unshare"].into_iter().chain(mine).chain(["sh", "-c", SCRIPT, "hosts"]).collect();
    let output = place.command(&launcher, "hosts").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let notes = place.notes();
    assert_eq!(notes.len(), 4, "{notes:?}");
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    for (task, note) in notes.iter().enumerate() {
        let host = if task % 2 == 0 { own.trim() } else { "other" };
        let expected = format!("{task} on {host} of 2 hosts: hierarchical, hierarchical_ring, true");
        assert_eq!(*note, expected);
    }
}
