//! Bars on a real terminal, and what there is elsewhere.

use crate::command::{RINGFOLD, TASK, run};
use std::process::{Command, Stdio};

/// The terminal's width.
const COLUMNS: usize = 100;

/// What a terminal is shown.
fn on_a_terminal(options: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let line = format!(
        "stty cols {COLUMNS} rows 30; exec '{RINGFOLD}' run -n 2 {options} --env {TASK}=talk -- '{}' --exact rank --nocapture",
        own.display()
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    let said = command.env("TERM", "xterm").output().unwrap();
    assert!(said.status.success(), "{said:?}");
    String::from_utf8(said.stdout).unwrap()
}

/// The screen after all of this was written to it: the least of a terminal that bars and lines need.
fn screen(shown: &str) -> Vec<String> {
    let (mut lines, mut row, mut column) = (vec![Vec::new()], 0usize, 0usize);
    let mut characters = shown.chars();
    while let Some(character) = characters.next() {
        match character {
            '\r' => column = 0,
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(Vec::new());
                }
            }
            '\x1b' => {
                assert_eq!(characters.next(), Some('['), "a sequence of another kind");
                let mut number = String::new();
                let end = loop {
                    match characters.next().unwrap() {
                        end if end.is_ascii_alphabetic() => break end,
                        more => number.push(more),
                    }
                };
                match end {
                    'A' => row = row.saturating_sub(number.parse().unwrap_or(1)),
                    'B' => row = (row + number.parse().unwrap_or(1)).min(lines.len() - 1),
                    'K' if number == "2" => lines[row].clear(),
                    'K' => lines[row].truncate(column),
                    'J' => {
                        lines[row].truncate(column);
                        lines.truncate(row + 1);
                    }
                    // Colours, and whether the cursor is shown.
                    'm' | 'h' | 'l' => {}
                    other => panic!("a terminal is told {number}{other}"),
                }
            }
            character => {
                // What is written into the last column wraps when more follows.
                if column == COLUMNS {
                    (row, column) = (row + 1, 0);
                    lines.resize(lines.len().max(row + 1), Vec::new());
                }
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                column += 1;
            }
        }
    }
    lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn bars_stay_below_the_ranks_lines_which_are_whole() {
    let shown = on_a_terminal("--progress");
    let screen = screen(&shown);
    println!("{}", screen.join("\n"));
    for rank in [0, 1] {
        for step in 1..=40 {
            for what in ["line", "error"] {
                let line = format!("[{rank}] {what} {step} of rank {rank}");
                assert_eq!(screen.iter().filter(|other| **other == line).count(), 1, "{line}");
            }
        }
    }
    let last_line = screen.iter().rposition(|line| line.contains("error 40 of rank")).unwrap();
    let group = screen.iter().rposition(|line| line.contains("attempt 0: 100%, 2 of 2 succeeded")).unwrap();
    assert!(group > last_line, "the bars are below");
    for rank in [0, 1] {
        let bar = &screen[group + 1 + rank];
        assert!(bar.starts_with(&format!("[{rank}] [========================] 100% 40/40 rows")), "{bar}");
    }
    // While it ran there were bars that were not full.
    assert!(shown.contains("=> ") && shown.contains("2 of 2 running"), "{shown}");
}

#[test]
fn elsewhere_there_is_a_line_now_and_then() {
    let said = run(2, "talk", &["--progress"]).output().unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    let told: Vec<&str> = err.lines().filter(|line| line.starts_with("ringfold: ")).collect();
    assert!(told.last().unwrap().starts_with("ringfold: attempt 0: 100%, 2 of 2 succeeded"), "{err}");
    assert!(!err.contains('\x1b') && told.len() < 40, "{err}");
}
