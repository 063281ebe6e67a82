//! Who sits where on a machine that is described in a file, as a picture.
//!
//!     cargo run --example devices                                     # a machine with 8 GPUs, each way of placing 4 tasks
//!     cargo run --example devices -- 6 0.5 linked [machine.json]      # tasks, GPUs each, placement, and another machine

use anstyle::{AnsiColor, Style};
use ringfold::device::{Assignment, Device, Inventory, Placement, Policy, TaskRequest, assign};
use ringfold::{Error, Result};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Green,
    AnsiColor::Yellow,
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::Red,
];

/// So wide is a device, without its frame.
const WIDTH: usize = 13;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Colours are left out where nobody would see them.
    anstream::print!("{}", show(&arguments)?);
    Ok(())
}

fn show(arguments: &[String]) -> Result<String> {
    let word = |at: usize| arguments.get(at).map(String::as_str);
    let number = |text: &str| text.parse().map_err(|_| Error::invalid(format!("{text:?} is no number")));
    let tasks = number(word(0).unwrap_or("4"))? as usize;
    let amount: f64 = number(word(1).unwrap_or("1"))?;
    let placements = match word(2) {
        Some(name) => vec![name.parse()?],
        None => Placement::ALL.to_vec(),
    };
    let described = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/dgx.json");
    let machine = Inventory::read(&word(3).map_or_else(described, PathBuf::from))?;
    let requests = vec![TaskRequest::new().cpus(2.0).amount("gpu", amount); tasks];
    let mut text = String::new();
    for placement in placements {
        let bold = Style::new().bold();
        let _ = writeln!(text, "{bold}{placement}{bold:#}: {tasks} tasks, {amount} gpu each");
        match assign(&machine, &requests, &Policy::new(placement).pinned(true)) {
            Ok(assignment) => text += &picture(&machine, &assignment),
            Err(misfit) => {
                let _ = writeln!(text, "  {misfit}\n");
            }
        }
    }
    Ok(text)
}

fn picture(machine: &Inventory, assignment: &Assignment) -> String {
    let mut text = String::new();
    for host in machine.hosts() {
        let _ = writeln!(text, "  {}: {} devices, {} CPUs", host.name, host.devices.len(), host.cpus().len());
        let mut nodes: Vec<Option<usize>> = host.devices.iter().map(|device| device.numa).collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            let devices = host.devices.iter().filter(|device| device.numa == node);
            let name = node.map_or_else(String::new, |node| format!("node {node}"));
            text += &row(&name, &devices.collect::<Vec<_>>(), assignment);
        }
    }
    for (task, of) in assignment.tasks.iter().enumerate() {
        let cpus: Vec<String> = of.cpus.iter().map(usize::to_string).collect();
        let visible = of.visible(None).unwrap_or_default();
        let _ =
            writeln!(text, "  {} on CPUs {:<8} CUDA_VISIBLE_DEVICES={visible}", named(task), cpus.join(","));
    }
    let mut ring: Vec<String> = assignment.ring().into_iter().map(|task| format!("{task}")).collect();
    ring.extend(ring.first().cloned());
    let _ = writeln!(text, "  ring {}, its links cost {}\n", ring.join(" → "), assignment.cost());
    text
}

/// The devices of a node side by side, each with the tasks that sit on it.
fn row(name: &str, devices: &[&Device], assignment: &Assignment) -> String {
    let sitting: Vec<Vec<(usize, f64)>> = devices.iter().map(|device| on(device, assignment)).collect();
    let height = sitting.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let mut lines = vec![format!("  {name:<8}")];
    lines.resize(height + 2, " ".repeat(10));
    for (device, tasks) in devices.iter().zip(sitting) {
        let title = format!(" {} {} ", device.resource, device.address);
        lines[0] += &format!("┌{title:─<WIDTH$}┐ ");
        for (line, text) in lines[1..=height].iter_mut().enumerate() {
            let inside = match tasks.get(line) {
                Some(&(task, share)) if share < 1.0 => format!(" {} {:<3} ", named(task), share_of(share)),
                Some(&(task, _)) => format!(" {}{:pad$}", named(task), "", pad = WIDTH - 8),
                None => " ".repeat(WIDTH),
            };
            *text += &format!("│{inside}│ ");
        }
        lines[height + 1] += &format!("└{:─<WIDTH$}┘ ", "");
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn on(device: &Device, assignment: &Assignment) -> Vec<(usize, f64)> {
    let tasks = assignment.tasks.iter().enumerate();
    let of = |(task, has): (usize, &ringfold::device::Assigned)| {
        has.devices.iter().find(|(one, _)| one.key() == device.key()).map(|&(_, share)| (task, share))
    };
    tasks.filter_map(of).collect()
}

/// Seven characters in the colour of the task.
fn named(task: usize) -> String {
    let style = Style::new().fg_color(Some(COLOURS[task % COLOURS.len()].into()));
    format!("{style}{:<7}{style:#}", format!("task {task}"))
}

/// Three characters.
fn share_of(share: f64) -> String {
    format!("{share:.2}").trim_start_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The picture without its colours.
    fn plain(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        anstream::adapter::strip_str(&show(&arguments).unwrap()).to_string()
    }

    #[test]
    fn everybody_is_in_the_picture() {
        let all = plain(&[]);
        for placement in Placement::ALL {
            assert!(all.contains(&format!("{placement}: 4 tasks")));
        }
        let shared = plain(&["5", "0.5", "pack"]);
        let frames = shared.lines().filter(|line| line.contains(['┌', '│', '└']));
        let widths: Vec<usize> = frames.map(|line| line.chars().count()).collect();
        assert_eq!(widths, [73; 7], "two lines of tasks on the one node, one on the other: {shared}");
        assert!(shared.contains("│ task 0  .50 │ │ task 2  .50 │ │ task 4  .50 │"));
        assert!(shared.contains("ring 0 → 1 → 2 → 3 → 4 → 0"));
        let machine = Inventory::read(Path::new("examples/data/dgx.json")).unwrap();
        assert!(machine.devices().take(3).all(|device| shared.contains(device.uuid.as_ref().unwrap())));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        assert!(plain(&["9"]).contains("8 tasks would fit"));
        assert!(show(&["x".to_owned()]).is_err());
    }
}
