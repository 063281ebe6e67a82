//! What ranks find in their environment, read and write.

use crate::{RINGFOLD, finish, run, said, start};
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn ranks_know_who_they_are() {
    let script = "echo $RINGFOLD_RANK $RINGFOLD_WORLD_SIZE $RINGFOLD_LOCAL_RANK $RINGFOLD_LOCAL_WORLD_SIZE \
                  $RINGFOLD_STORE_HOST $RINGFOLD_GENERATION $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE \
                  $MASTER_ADDR $EXTRA";
    let said = said(&mut run(&["-n", "3", "--env", "EXTRA=a=b"], script));
    assert_eq!(said.code, Some(0), "{said:?}");
    let expected: Vec<String> =
        (0..3).map(|r| format!("[{r}] {r} 3 {r} 3 launcher 0 {r} 3 {r} 3 127.0.0.1 a=b")).collect();
    assert_eq!(said.lines(), expected);
}

#[test]
fn ranks_know_where_to_meet() {
    let said = said(&mut run(&["-n", "2"], "echo $RINGFOLD_STORE $RINGFOLD_WORLD_ID $MASTER_PORT"));
    let lines = said.lines();
    let of = |line: &str| line.split_once("] ").unwrap().1.to_owned();
    assert_eq!(of(&lines[0]), of(&lines[1]), "the same for all");
    let line = of(&lines[0]);
    let [store, id, torch] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let store = store.strip_prefix("127.0.0.1:").unwrap();
    assert_ne!(store, torch, "torch's own store needs a port of its own");
    assert!(store.parse::<u16>().unwrap() > 0 && torch.parse::<u16>().unwrap() > 0);
    assert_ne!(u64::from_str_radix(id.strip_prefix("0x").unwrap(), 16).unwrap(), 0);
}

#[test]
fn streams_stay_apart_and_lines_begin_with_the_rank() {
    let said = said(&mut run(&["-n", "2"], "echo out $RANK; echo err $RANK >&2; printf unfinished"));
    assert_eq!(said.code, Some(0));
    assert_eq!(said.lines(), ["[0] out 0", "[0] unfinished", "[1] out 1", "[1] unfinished"]);
    let mut errors: Vec<&str> = said.err.lines().collect();
    errors.sort_unstable();
    assert_eq!(errors, ["[0] err 0", "[1] err 1"]);
}

#[test]
fn without_prefixes_bytes_are_as_they_were() {
    let said = said(&mut run(&["-n", "1", "--no-prefix"], r"printf 'a\rb\377'"));
    assert_eq!((said.code, said.out.as_slice()), (Some(0), &b"a\rb\xff"[..]));
}

#[test]
fn bytes_that_are_no_text_and_progress_bars_pass() {
    let said = said(&mut run(&["-n", "1"], r"printf '\377\000\n10%%\r20%%\r30%%\n'"));
    assert_eq!(said.out, b"[0] \xff\0\n[0] 10%\n[0] 30%\n");
}

#[test]
fn one_rank_and_many_ranks() {
    assert_eq!(said(&mut run(&["-n", "1"], "echo $RANK")).out, b"[0] 0\n");
    let said = said(&mut run(&["-n", "64"], "echo $RANK"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let expected: Vec<String> = (0..64).map(|rank| format!("[{rank:>2}] {rank}")).collect();
    let mut lines: Vec<String> = said.text().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, expected);
}

#[test]
fn rank_0_reads_the_input_and_the_others_nothing() {
    let mut command = run(&["-n", "3"], "cat; echo end");
    let mut child = start(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let said = finish(child);
    assert_eq!(said.lines(), ["[0] end", "[0] hello", "[1] end", "[2] end"]);
}

#[test]
fn floods_on_both_streams_come_through_whole() {
    // 4 x 100,000 lines on each stream. A reader that is late makes nobody hang and loses nothing.
    let script = r#"awk 'BEGIN { for (i = 0; i < 100000; i++) { print "line " i " of the flood";
                    print "line " i " of the flood" > "/dev/stderr" } }'"#;
    let child = start(&mut run(&["-n", "4"], script));
    std::thread::sleep(std::time::Duration::from_millis(200));
    let said = finish(child);
    assert_eq!(said.code, Some(0));
    for stream in [&said.text(), &said.err] {
        let mut next = [0; 4];
        for line in stream.lines() {
            let rank: usize = line[1..2].parse().unwrap();
            assert_eq!(line, format!("[{rank}] line {} of the flood", next[rank]));
            next[rank] += 1;
        }
        assert_eq!(next, [100_000; 4]);
    }
}

#[test]
fn ranks_whose_output_nobody_reads_are_told_as_without_a_launcher() {
    let mut child = start(&mut run(&["-n", "2"], "exec yes"));
    drop(child.stdout.take());
    let said = finish(child);
    assert_eq!(said.code, Some(128 + 13), "{said:?}");
    assert!(said.err.contains("was killed by signal 13 (SIGPIPE)"), "{}", said.err);
}

#[test]
fn options_after_the_program_are_the_programs() {
    let echo = |arguments: &[&str]| said(Command::new(RINGFOLD).arg("run").args(arguments)).text();
    assert_eq!(echo(&["-n", "1", "echo", "-n", "2", "--env", "x"]), "[0] 2 --env x\n");
    assert_eq!(echo(&["-n", "1", "--", "echo", "--", "-x"]), "[0] -- -x\n");
}

#[test]
fn help_teaches() {
    let said = said(Command::new(RINGFOLD).args(["run", "--help"]));
    assert_eq!(said.code, Some(0));
    for word in ["Examples:", "ringfold run -n 4 -- ./train", "RINGFOLD_RANK", "SIGTERM", "127"] {
        assert!(said.text().contains(word), "{word}");
    }
}
