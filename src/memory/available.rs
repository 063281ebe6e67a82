//! How much memory can be had without anybody being killed for it.

use std::fs;
use std::path::{Path, PathBuf};

/// How many bytes there are for this process: of the machine, and of every control group that it is in. `None` where the
/// system does not say.
///
/// The system itself refuses shared memory only when it is too late: a page too many ends in the killing of some process,
/// and not by rule that of who has asked for it.
pub(crate) fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_machine(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = Path::new("/sys/fs/cgroup");
    machine.into_iter().chain(of_groups(&groups, mounts)).min()
}

/// Whether so many bytes are more than is to be had, of which a little is left to everybody else.
// Miri takes no shared memory from the system.
#[cfg_attr(miri, allow(dead_code))]
pub(super) fn is_too_much(bytes: u64, available: Option<u64>) -> bool {
    available.is_some_and(|available| bytes > available - available / 16)
}

fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least that any of the groups has left.
fn of_groups(groups: &str, mounts: &Path) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (root, names) = if controllers.is_empty() {
            (mounts.to_owned(), ["memory.max", "memory.current", ""])
        } else if controllers.split(',').any(|name| name == "memory") {
            (mounts.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_"])
        } else {
            continue;
        };
        // In a container the path is the host's, and its own group is at the root of what it sees.
        let inside = root.join(path.trim_start_matches('/'));
        let mut at: PathBuf = if inside.is_dir() { inside } else { root.clone() };
        loop {
            least = least.into_iter().chain(of_group(&at, names)).min();
            if at == root || !at.pop() {
                break;
            }
        }
    }
    least
}

/// What a group has left: its limit without what it uses, but for what the system would take back first, whose names in the
/// statistics have a prefix.
fn of_group(at: &Path, [limit, usage, prefix]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(at.join(name)).ok()?.trim().parse::<u64>().ok();
    let stat = fs::read_to_string(at.join("memory.stat")).unwrap_or_default();
    let spare = stat.lines().filter_map(|line| {
        let (name, bytes) = line.strip_prefix(prefix)?.split_once(' ')?;
        let reclaimable = ["inactive_file", "active_file", "slab_reclaimable"].contains(&name);
        bytes.trim().parse::<u64>().ok().filter(|_| reclaimable)
    });
    let spare = spare.fold(0, u64::saturating_add);
    // "max" is no number, and no limit.
    Some(number(limit)?.saturating_sub(number(usage)?.saturating_sub(spare)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_some() {
        assert!(available().expect("a Linux machine says") > 1 << 20);
    }

    #[test]
    fn what_the_system_says_is_read() {
        assert_eq!(of_machine("MemTotal: 9 kB\nMemAvailable:     12 kB\n"), Some(12 << 10));
        assert_eq!(of_machine("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = std::env::temp_dir().join(format!("ringfold-groups-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "500\n");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 1\ninactive_file 70\nactive_file 20\nslab_reclaimable 10\n");
        assert_eq!(of_groups("0::/a/b\n", &root), Some(400));
        write("memory/c/memory.limit_in_bytes", "90\n");
        write("memory/c/memory.usage_in_bytes", "60\n");
        assert_eq!(of_groups("3:cpu:/c\n4:memory:/c\n0::/a/b\n", &root), Some(30));
        assert_eq!(of_groups("4:memory:/elsewhere\n", &root), None);
        // Of 90 bytes 60 are used, and of the rest one is left to others; a group that has more than it may has none.
        let left = of_groups("4:memory:/c\n", &root);
        assert!(!is_too_much(29, left) && is_too_much(30, left));
        write("memory/c/memory.usage_in_bytes", "95\n");
        let left = of_groups("4:memory:/c\n", &root);
        assert!(!is_too_much(0, left) && is_too_much(1, left));
        assert!(!is_too_much(u64::MAX, None));
        fs::remove_dir_all(&root).unwrap();
    }
}
