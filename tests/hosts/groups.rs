//! How groups of hosts are founded, within others too, and what they fall back to.

use crate::calls::group::on_hosts;
use crate::calls::hosts::communicators_on;
use ringfold::config::BackendChoice;
use ringfold::plan::select::Table;
use ringfold::{Communicator, Config, ErrorKind, ReduceOp};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Runs a function on every rank.
fn on_ranks<T: Send>(ranks: Vec<Communicator>, body: impl Fn(Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.into_iter().map(|comm| scope.spawn(move || body(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn config(_: usize) -> Config {
    Config::default().with_init_deadline(Duration::from_secs(20))
}

#[test]
fn groups_go_by_whatever_their_ranks_have_in_common() {
    on_ranks(on_hosts(6, |rank| rank % 2), |comm| {
        assert_eq!(comm.backend(), "hierarchical");
        assert_eq!(comm.table(), *Table::of_levels());
        let rank = comm.rank();
        let sum = |group: &Communicator| {
            for len in [1, 200_000] {
                let mut data = vec![rank as u64; len];
                group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                let all: u64 = (0..group.world_size()).map(|of| group.world_rank_of(of) as u64).sum();
                assert!(data.iter().all(|one| *one == all));
            }
        };
        // Those of this host; one of each host; two of one and one of the other; the same again, in another order.
        let here = comm.split(Some(rank as u32 % 2), 0).unwrap().unwrap();
        let pair = comm.split(Some(rank as u32 / 2), 0).unwrap().unwrap();
        let three = comm.split(Some(rank as u32 / 3), -(rank as i64)).unwrap().unwrap();
        let again = comm.duplicate().unwrap();
        let backends = [&here, &pair, &three, &again].map(Communicator::backend);
        assert_eq!(backends, ["shm", "tcp", "hierarchical", "hierarchical"]);
        for group in [&here, &pair, &three, &again, &comm] {
            sum(group);
        }
        let of_three = three.split(Some(rank as u32 % 2), 0).unwrap().unwrap();
        assert_eq!(of_three.backend(), if of_three.world_size() == 2 { "shm" } else { "tcp" });
        sum(&of_three);
    });
}

#[test]
fn tensors_are_shared_within_hosts() {
    on_ranks(on_hosts(4, |rank| rank / 2), |comm| {
        for len in [100, 1 << 20] {
            let mut tensor = comm.allocate::<f32>(len).unwrap();
            assert!(tensor.is_shared());
            for turn in 0..3 {
                tensor.fill((comm.rank() + turn) as f32);
                comm.all_reduce(&mut tensor, ReduceOp::Sum).unwrap();
                assert!(tensor.iter().all(|one| *one == (6 + 4 * turn) as f32));
            }
        }
    });
}

#[test]
fn what_is_counted_is_what_all_levels_move() {
    on_ranks(on_hosts(4, |rank| rank / 2), |comm| {
        comm.barrier().unwrap();
        let before = comm.counters();
        let mut data = vec![1.0f32; 1 << 20];
        comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        let after = comm.counters();
        let sent = |to: usize| after.peers[to].sent - before.peers[to].sent;
        let across = (comm.rank() + 2) % 4;
        let other = 3 - across;
        // Half of the message is this rank's share, of which each sends half and then the other half; and a fingerprint.
        assert_eq!(sent(across), (2 << 20) + 64);
        assert_eq!(sent(other), 0, "that one has nothing to do with this rank's share");
        let done = after.of(ringfold::Collective::AllReduce);
        assert_eq!((done.completed, done.bytes), (1, 4 << 20));
    });
}

#[test]
fn what_is_asked_for_and_cannot_be_is_an_error_that_says_why() {
    for (hosts, why) in [(&[0, 0][..], "all ranks are on one host"), (&[0, 1], "no host has several ranks")] {
        for comm in communicators_on(hosts, BackendChoice::Hierarchical, config) {
            let error = comm.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(why), "{error}");
        }
    }
    for comm in communicators_on(&[0, 0, 1], BackendChoice::Shm, config) {
        assert!(comm.unwrap_err().to_string().contains("rank 2 is on host-1 and rank 0 on host-0"));
    }
    for (backend, hosts, taken) in [
        (BackendChoice::Auto, &[0, 1][..], "tcp"),
        (BackendChoice::Auto, &[0, 0], "shm"),
        (BackendChoice::Tcp, &[0, 0, 1], "tcp"),
        (BackendChoice::Hierarchical, &[0, 1, 1], "hierarchical"),
    ] {
        on_ranks(
            communicators_on(hosts, backend, config).into_iter().map(Result::unwrap).collect(),
            |comm| {
                assert_eq!(comm.backend(), taken, "{backend} on {hosts:?}");
                comm.barrier().unwrap();
            },
        );
    }
}

#[test]
fn a_table_of_ones_own_is_taken_at_its_word() {
    let own = |_| config(0).with_table("all_reduce: .. ring");
    let ranks = communicators_on(&[0, 0, 1, 1], BackendChoice::Auto, own);
    on_ranks(ranks.into_iter().map(Result::unwrap).collect(), |comm| {
        assert!(comm.table().to_string().contains("all_reduce: .. ring;"));
        let mut data = [1u32; 9];
        comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [4; 9]);
    });
}

/// Two ranks on each of two hosts; `$1` is what those of the second one do first, the rest is the program.
const RANKS: &str = r#"
first=$1
shift
other=${RINGFOLD_TEST_HOSTS#* }
export RINGFOLD_WORLD_SIZE=4 RINGFOLD_STORE=10.77.0.1:29500 RINGFOLD_INIT_DEADLINE=60s RINGFOLD_LOG=info
pids=
for rank in 0 1 2 3; do
    export RINGFOLD_RANK=$rank
    if [ $rank -lt 2 ]; then "$@" & else (eval "$first"; exec nsenter --target "$other" --net --uts "$@") & fi
    pids="$pids $!"
done
for pid in $pids; do wait "$pid"; done
"#;

/// What such ranks say when they are processes on hosts that network namespaces stand for: on standard output, and in their logs.
fn on_namespaces(first: &str, arguments: &[&str]) -> (String, String) {
    on_namespaces_under("", first, arguments)
}

/// The same where all ranks do something first.
fn on_namespaces_under(all: &str, first: &str, arguments: &[&str]) -> (String, String) {
    let ranks = format!("{all}\n{RANKS}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/hosts.sh");
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.args(["--net", "--uts"].into_iter().chain((!root).then_some("--map-root-user")));
    command.args([
        "sh",
        script,
        "2",
        "sh",
        "-e",
        "-c",
        &ranks,
        "ranks",
        first,
        env!("CARGO_BIN_EXE_ringfold"),
    ]);
    let out = command.args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}", text(&out.stderr));
    (text(&out.stdout), text(&out.stderr))
}

#[test]
fn a_host_whose_ranks_cannot_share_memory_goes_alone() {
    let (_, log) = on_namespaces("ulimit -f 1024", &["info", "--group"]);
    let told: Vec<&str> = log.lines().filter(|line| line.contains("each goes alone")).collect();
    assert!(told.len() == 4 && told.iter().all(|line| line.contains("on rank 2: ")), "{log}");
    let chosen = log.lines().filter(|line| line.contains("the backend has been chosen"));
    assert_eq!(chosen.filter(|line| line.contains("hierarchical")).count(), 4, "{log}");
    // It is right, too: the command looks at every result.
    let measured = ["all_reduce", "reduce", "broadcast", "all_gather"];
    for collective in measured {
        let arguments = ["perf", collective, "-b", "8", "-e", "8M", "-f", "64", "--iters", "3", "--json"];
        let (out, log) = on_namespaces("ulimit -f 1024", &arguments);
        assert!(out.lines().count() == 8 && out.contains("\"backend\":\"hierarchical\""), "{out}{log}");
        assert!(out.lines().all(|line| line.contains("\"wrong\":0")), "{out}");
    }
}

#[test]
fn where_no_host_can_all_ranks_go_by_tcp_and_say_why() {
    let (_, log) = on_namespaces("", &["info", "--group", "--json"]);
    assert!(log.lines().any(|line| line.contains("backend=\"hierarchical\"")), "{log}");
    let (_, log) = on_namespaces_under("ulimit -f 1024", "", &["info", "--group"]);
    let chosen: Vec<&str> = log.lines().filter(|line| line.contains("the backend has been chosen")).collect();
    assert!(chosen.len() == 4 && chosen.iter().all(|line| line.contains("backend=\"tcp\"")), "{log}");
    assert!(chosen.iter().all(|line| line.contains("hierarchical: on rank 0: ")), "{log}");
}

#[test]
fn batches_are_laid_together_for_the_way() {
    for placement in [|rank: usize| rank / 2, |rank: usize| rank % 2] {
        on_ranks(on_hosts(4, placement), |comm| {
            for len in [3, 5000, 300_000] {
                let (mut a, mut b, mut c) = (vec![1u32; len], vec![comm.rank() as u32; 7], [0u32; 1]);
                let (mut mean, mut none) = (vec![comm.rank() as f32; len + 1], [0.0f32; 0]);
                comm.scope(|s| {
                    s.all_reduce(&mut a[..], ReduceOp::Sum);
                    s.all_reduce(&mut mean[..], ReduceOp::Mean);
                    s.all_reduce(&mut b[..], ReduceOp::Sum);
                    s.all_reduce(&mut c[..], ReduceOp::Sum);
                    s.all_reduce(&mut none[..], ReduceOp::Mean);
                })
                .unwrap();
                assert!(a.iter().all(|one| *one == 4) && b == [6; 7] && mean.iter().all(|one| *one == 1.5));
            }
        });
    }
}
