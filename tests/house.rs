//! The house plan, held to: a module uses only modules on lower floors, plans are pure, one module reads the
//! environment, unsafe code lives where ARCHITECTURE.md says, and that page lists the modules that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Floors from the bottom. A module may use its own floor's other modules only where this says so.
const FLOORS: &[&[&str]] = &[
    &["error", "config", "observe"],
    &["memory", "tensor", "reduce", "device", "cuda"],
    &["collective"],
    &["plan"],
    &["transport"],
    &["backend"],
    &["bootstrap", "launch"],
    &["communicator"],
    &["arrow", "task"],
];

/// Uses within a floor: (who, whom).
const WITHIN: &[(&str, &str)] = &[
    ("config", "error"),
    ("observe", "error"),
    ("reduce", "tensor"),
    ("device", "memory"),
    ("memory", "tensor"),
    ("cuda", "tensor"),
    ("cuda", "memory"),
    ("launch", "bootstrap"),
];

/// The modules that hold unsafe code, as ARCHITECTURE.md argues.
const UNSAFE: &[&str] = &[
    "memory",
    "tensor",
    "reduce",
    "transport",
    "backend",
    "bootstrap",
    "communicator",
    "launch",
    "arrow",
    "cuda",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(below).unwrap_or_else(|error| panic!("{}: {error}", below.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The module of the library that a file belongs to; none for the crate's root and the command.
fn module(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let first = inside.components().next()?.as_os_str().to_str()?.trim_end_matches(".rs").to_owned();
    (first != "lib" && first != "bin").then_some(first)
}

fn modules() -> BTreeSet<String> {
    sources(&root().join("src")).iter().filter_map(|path| module(path)).collect()
}

/// The code of a file: without comments, doc examples and unit tests, which may look up.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that code names: `crate::x`, and the `x`s of `use crate::{x, y::z}`.
fn uses(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.extend(first_name(&std::mem::take(&mut name))),
                    _ if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.extend(first_name(&name));
        } else {
            found.extend(first_name(rest));
        }
    }
    found
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Why a use breaks the house, if it does.
fn breaks(user: &str, used: &str) -> Option<String> {
    let below =
        floor(user).unwrap_or_else(|| panic!("{user} has no floor: add it to FLOORS and to ARCHITECTURE.md"));
    // Re-exports at the root stand for the lowest floors' types, or for the communicator's.
    let Some(other) = floor(used) else {
        return ["Communicator", "AbortHandle", "Options", "With"]
            .contains(&used)
            .then(|| format!("{user} uses {used}, which is the communicator's"));
    };
    let fine = user == used || other < below || WITHIN.contains(&(user, used));
    (!fine).then(|| format!("{user} (floor {below}) uses {used} (floor {other})"))
}

#[test]
fn modules_use_lower_floors_only() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for path in sources(&root().join("src")) {
        let Some(user) = module(&path) else { continue };
        for used in uses(&code(&path)) {
            seen += 1;
            wrong.extend(breaks(&user, &used).map(|why| format!("{}: {why}", path.display())));
        }
    }
    assert!(seen > 50, "only {seen} uses were found: does this test still read the code?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_import_upwards_would_be_seen() {
    let upwards = uses("use crate::error::Result;\nuse crate::{plan::{Plan, Step}, transport::Transport};");
    assert_eq!(upwards, ["error", "plan", "transport"].map(str::to_owned).into());
    assert!(breaks("plan", "transport").is_some());
    assert!(breaks("tensor", "reduce").is_some());
    assert!(breaks("transport", "plan").is_none());
    assert!(breaks("backend", "Communicator").is_some());
}

/// What a pure module must not name: unsafe code, sockets, files, processes, threads, clocks, the environment.
const IMPURE: &[&str] = &[
    "unsafe ",
    "unsafe{",
    "std::net",
    "std::fs",
    "std::io",
    "std::time",
    "std::process",
    "std::thread",
    "std::env",
    "Instant",
    "SystemTime",
    "println!",
    "nix::",
    "socket2::",
    "libc::",
];

fn impurities(code: &str) -> Vec<&'static str> {
    IMPURE.iter().copied().filter(|word| code.contains(word)).collect()
}

#[test]
fn plans_are_pure() {
    let files = sources(&root().join("src/plan"));
    assert!(files.len() > 10);
    for path in files {
        let found = impurities(&code(&path));
        assert!(found.is_empty(), "{} names {found:?}", path.display());
    }
    let root_of_plans = fs::read_to_string(root().join("src/plan/mod.rs")).unwrap();
    assert!(root_of_plans.contains("#![forbid(unsafe_code)]"));
    assert_eq!(impurities("let now = std::time::Instant::now();"), ["std::time", "Instant"]);
}

#[test]
fn plain_data_about_devices_can_grow() {
    let mut seen = 0;
    for path in sources(&root().join("src/device")) {
        let code = code(&path);
        for (at, _) in code.match_indices("\npub struct ") {
            let body = code[at..].split("\n}").next().unwrap();
            let lines = body.lines().skip(2).map(str::trim);
            let mut fields = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).peekable();
            // Where a field is private nobody outside makes one.
            if fields.peek().is_none() || !fields.all(|field| field.starts_with("pub ")) {
                continue;
            }
            seen += 1;
            let attributes = code[..at].rsplit("}\n").next().unwrap();
            let name = body.trim().lines().next().unwrap();
            assert!(attributes.contains("#[non_exhaustive]"), "{}: {name} could not grow", path.display());
        }
    }
    assert!(seen > 7, "only {seen} structures were found: does this test still read the code?");
}

#[test]
fn one_module_reads_the_environment() {
    for path in sources(&root().join("src")) {
        let reads = code(&path).contains("env::var");
        let may = path.ends_with("config/environment.rs");
        assert!(!reads || may, "{} reads the environment", path.display());
    }
}

/// Where code ends the process that it runs in.
fn exits(code: &str) -> bool {
    ["process::exit", "process::abort", "libc::_exit", "libc::exit", "libc::abort"]
        .iter()
        .any(|word| code.contains(word))
}

#[test]
fn the_library_never_ends_its_process() {
    let library = sources(&root().join("src")).into_iter().filter(|path| module(path).is_some());
    for path in library.chain(sources(&root().join("ffi/c/src"))) {
        // What is forked and cannot become the program is no process of anybody's.
        let may = path.ends_with("src/launch/newborn.rs");
        assert!(!exits(&code(&path)) || may, "{} ends the process", path.display());
    }
    assert!(exits("std::process::exit(1)") && !exits("it.exited()"));
}

#[test]
fn unsafe_code_lives_where_the_architecture_says() {
    let mut found = BTreeSet::new();
    for path in sources(&root().join("src")) {
        let code = code(&path);
        if code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn") {
            let module = module(&path).unwrap_or_else(|| panic!("{} holds unsafe code", path.display()));
            assert!(UNSAFE.contains(&module.as_str()), "{} holds unsafe code", path.display());
            found.insert(module);
        }
    }
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let chapter = page.split("## Where unsafe lives").nth(1).expect("the chapter is there");
    for module in found {
        assert!(
            chapter.contains(&format!("`src/{module}")),
            "ARCHITECTURE.md does not argue the unsafe code of {module}"
        );
    }
}

#[test]
fn the_architecture_page_lists_the_modules() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for module in modules() {
        assert!(page.contains(&format!("`{module}`")), "ARCHITECTURE.md does not mention `{module}`");
    }
    for floor in FLOORS.iter().flat_map(|floor| floor.iter()) {
        assert!(modules().contains(*floor), "FLOORS names {floor}, which is not there");
    }
}
