#!/usr/bin/env bash
# The Rust tests under the sanitizers of addresses and of threads, and under miri what works on heap memory:
#
#     bash tests/sanitize.sh [address|threads|miri]...
#
# It takes a nightly toolchain with miri and the sources of std, which rustup installs. What cannot be run is said, and is a failure
# unless RINGFOLD_TEST_SANITIZE_LESS=1. Each part has a directory of its own below target/.
#
# The sanitizer of threads sees one process: of ranks that are processes, each by itself. So in its build (--cfg ringfold_tsan)
# ranks that are threads of one process have one mapping of their segment, read each other's memory without the kernel,
# and write nothing past the caches: all of that would be out of its sight.
set -euo pipefail
cd "$(dirname "$0")/.."
root="$PWD"
nightly="${RINGFOLD_TEST_NIGHTLY:-nightly}"
host="$(rustc -vV | sed -n 's/^host: //p')"
export CARGO_INCREMENTAL=0

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# Sees to it that the nightly toolchain has a component.
has() { # has COMPONENT FOR_WHAT
    local there
    there="$(rustup component list --installed --toolchain "$nightly" 2>/dev/null || true)"
    grep -q "^$1" <<<"$there" && return
    rustup toolchain install "$nightly" --profile minimal --component "$1" && return
    echo "NOT RUN: $2, for want of a toolchain $nightly with $1" >&2
    [ "${RINGFOLD_TEST_SANITIZE_LESS:-0}" = 1 ] || exit 1
    exit 0
}

# Runs a command; fails, too, where a sanitizer has written something, of its processes or any that they have started.
watched() { # watched COMMAND...
    local status=0 found
    rm -rf "$reports"
    mkdir -p "$reports"
    "$@" || status=$?
    found="$(find "$reports" -type f -size +0)"
    [ -z "$found" ] && return "$status"
    # shellcheck disable=SC2086
    head -n 150 $found
    echo "error: reports of the sanitizer in $reports: $(wc -w <<<"$found")" >&2
    return 1
}

# Lets cargo build the library again, with its tests: it takes what a copy of the tree has left in the same directory for its own.
anew() { find "$CARGO_TARGET_DIR" -type d -path '*/.fingerprint/ringfold-*' -prune -exec rm -rf {} +; }

address() {
    step "addresses"
    has rust-std "the sanitizer of addresses"
    reports="$root/target/asan/reports"
    export CARGO_TARGET_DIR="$root/target/asan" RUSTFLAGS=-Zsanitizer=address
    export ASAN_OPTIONS="log_path=$reports/asan"
    # The test that is left out ends a thread by a system call, which leaks what the thread had.
    watched cargo "+$nightly" test -p ringfold --target "$host" --no-default-features --features cli --lib \
        --test one_segment --test transport --test shared_tensors -- --skip whoever_ends_as_the_owner_is_told_of
}

threads() {
    step "threads"
    has rust-src "the sanitizer of threads"
    reports="$root/target/tsan/reports"
    export CARGO_TARGET_DIR="$root/target/tsan" RUSTFLAGS="-Zsanitizer=thread --cfg ringfold_tsan"
    export TSAN_OPTIONS="log_path=$reports/tsan die_after_fork=0"
    local test=(cargo "+$nightly" test -Zbuild-std --target "$host" -p ringfold --no-default-features)
    mkdir -p "$CARGO_TARGET_DIR"
    anew
    # With rings of 16 bytes a stream takes longer than what counts as a hang, and so it does among strangers who come as fast as they can;
    # simulated networks have one thread.
    watched "${test[@]}" --test one_segment --test transport -- \
        --skip it_does_with_tiny_rings --skip scans_silence_and_noise_do_not_disturb --skip sim::
    # Communicators of threads of this process: among threads, over shared memory and over sockets, with the store, the watch threads and the
    # progress thread.
    watched "${test[@]}" --lib -- backend:: bootstrap:: communicator:: observe:: task:: transport::channel transport::control \
        transport::tcp transport::verdict
    watched "${test[@]}" --test hand_over --test started --test split --test reductions --test repeated
    watched "${test[@]}" --test control -- --skip process
    watched "${test[@]}" --test stress -- among_threads

    step "threads, with faults that have to be found"
    faulty
    for protocol in "${protocols[@]}"; do
        found "$protocol" "data race\|test result: FAILED" watched "${test[@]}" --test one_segment -- --exact "$protocol"
    done
    # All that two threads of a rank share besides is the memory of operations, which no other code than drivers of plans touches by its address,
    # and what safe code keeps, where the compiler allows no race. So these faults are a wait that does not wait, in each kind of group, and a
    # word of the control plane that is read as if nobody else wrote it.
    copy
    spoil src/communicator/completion.rs "while state.left > 0 {" "while state.left > usize::MAX / 2 {"
    for group in among_threads over_shared_memory over_sockets; do
        found "waiting, $group" "data race" watched "${test[@]}" --test hand_over -- --exact "$group"
    done
    spoil src/observe/poison.rs "self.word.load(Ordering::Acquire)" "unsafe { self.word.as_ptr().read() }"
    found "the control plane" "data race" watched "${test[@]}" --test control -- --exact \
        all_ranks_hear_the_same_verdict_whoever_reports_what
    cd "$root"
}

# Runs a command with several of miri's schedules, as long as it is content: what orders threads in one may hide a race in it.
schedules() { # schedules COMMAND...
    for seed in 1 2 3 4 5 6; do
        MIRIFLAGS="$MIRIFLAGS -Zmiri-seed=$seed" "$@" || return
    done
}

miri() {
    step "miri"
    has miri miri
    has rust-src miri
    export CARGO_TARGET_DIR="$root/target/miri"
    export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance"
    unset RUSTFLAGS
    local test=(cargo "+$nightly" miri test -p ringfold --no-default-features)
    mkdir -p "$CARGO_TARGET_DIR"
    anew
    # Left out: what asks the system for more than threads, time and futexes, and what takes minutes (drawn and exhaustive tests,
    # whole groups).
    "${test[@]}" --lib -- transport::shm::tests transport::shm::layout memory::stream collective:: backend::pieces \
        backend::choose transport::channel transport::verdict transport::control::buffer error:: reduce::custom reduce::op \
        reduce::oracle reduce::nulls tensor:: plan::lower
    schedules "${test[@]}" --test one_segment -- "${protocols[@]}"

    step "miri, with faults that have to be found"
    faulty
    for protocol in "${protocols[@]}"; do
        found "$protocol" "Data race detected\|test result: FAILED" schedules "${test[@]}" --test one_segment -- --exact "$protocol"
    done
    cd "$root"
}

# Each has a test of its name, and a fault below.
protocols=(rings slots_in_line slots_and_their_flags)

# Goes to a copy of the tree.
copy() {
    local copy="$CARGO_TARGET_DIR/faulty"
    cd "$root"
    anew
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -r Cargo.toml Cargo.lock README.md src tests benches examples ffi include "$copy"
    cd "$copy"
}

# Goes to one in which no protocol has a release any more.
faulty() {
    local shm=src/transport/shm
    copy
    weaken "$shm/ring.rs" "head.store(self.written, Ordering::Release)"
    weaken "$shm/flag.rs" "word.store(tag(stamp), Ordering::Release)"
    weaken "$shm/host_memory.rs" "store(flag::raised(stamp, value), Ordering::Release)"
}

weaken() { # weaken FILE STORE
    spoil "$1" "$2" "${2/Ordering::Release/Ordering::Relaxed}"
}

# Puts other text in the place of one that a file has once.
spoil() { # spoil FILE TEXT OTHER
    [ "$(grep -cF "$2" "$1")" = 1 ] || { echo "error: $1 has not one $2" >&2; exit 1; }
    local text
    text="$(cat "$1"; printf x)"
    text="${text/"$2"/"$3"}"
    printf '%s' "${text%x}" >"$1"
}

# Where protocols are at fault it is found where their tests fail, too, which pass without it: miri may show a rank what another had written
# before, which makes it a failure instead of a race.
found() { # found PROTOCOL WORDS COMMAND...
    local said="$CARGO_TARGET_DIR/said"
    if "${@:3}" >"$said" 2>&1 || ! grep -q -e "$2" "$said"; then
        tail -n 50 "$said"
        echo "error: the fault in $1 is not found" >&2
        exit 1
    fi
    echo "found: the fault in $1"
}

[ $# -gt 0 ] || set -- address threads miri
for part in "$@"; do
    case "$part" in
        address | threads | miri) ("$part") ;;
        *) echo "error: there is no part $part" >&2 && exit 2 ;;
    esac
done
