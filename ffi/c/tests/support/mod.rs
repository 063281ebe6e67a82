//! Building the library that is shipped, compiling programs against it, and running them as ranks.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub(crate) fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn root() -> PathBuf {
    here().join("../..").canonicalize().unwrap()
}

/// Where the library is installed, below a directory of the tests' own: `usr/lib` and `usr/include`. Built when it is first asked
/// for; several test binaries may ask at once.
pub(crate) fn installed() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| install("capi-installed", &target(), "--features arrow"))
}

/// The same of the library without Arrow, which is built in a directory of its own.
pub(crate) fn installed_without_arrow() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| install("capi-without-arrow", &target().join("without-arrow"), ""))
}

fn install(name: &str, target: &Path, flags: &str) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&place).unwrap();
    let lock = fs::File::create(place.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut make = Command::new("make");
    make.arg("-C").arg(here()).args(["install", "PREFIX=/usr"]);
    make.arg(format!("DESTDIR={}", place.display())).arg(format!("TARGET={}", target.display()));
    make.arg(format!("CARGOFLAGS={flags}"));
    make.env("CARGO", env!("CARGO"));
    // Of a make that cargo runs in, and of the cargo that runs the tests.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CARGO_MAKEFLAGS"] {
        make.env_remove(name);
    }
    succeed(&mut make);
    place
}

/// The command `ringfold`, built when it is first asked for.
pub(crate) fn launcher() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "-p", "ringfold", "--bin", "ringfold", "--manifest-path"]);
    cargo.arg(root().join("Cargo.toml")).arg("--target-dir").arg(target());
    succeed(&mut cargo);
    target().join("debug/ringfold")
}

pub(crate) fn library() -> PathBuf {
    installed().join("usr/lib")
}

/// The directory that cargo builds in.
pub(crate) fn target() -> PathBuf {
    // Of a file in target/debug/deps.
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(3).unwrap().to_owned()
}

/// A directory of one test's, made anew.
pub(crate) fn room(name: &str) -> PathBuf {
    let room = Path::new(env!("CARGO_TARGET_TMPDIR")).join("capi").join(name);
    let _ = fs::remove_dir_all(&room);
    fs::create_dir_all(&room).unwrap();
    room
}

/// Runs a command that has to succeed; what it printed.
pub(crate) fn succeed(command: &mut Command) -> String {
    ship(command);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    check(&format!("{command:?}"), &output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Has a command find the library that is shipped, and not the one that cargo made for the tests and says where.
fn ship(command: &mut Command) {
    command.env_remove("LD_LIBRARY_PATH");
}

fn check(what: &str, output: &Output) {
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{what}: {}\n{}\n{}",
        output.status,
        said(&output.stdout),
        said(&output.stderr)
    );
}

/// How a program is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    C99,
    Cpp17,
}

/// A program against the library in `library()`, with every warning an error.
pub(crate) fn compile(source: &Path, language: Language, extra: &[&str], into: &Path) -> PathBuf {
    compile_against(installed(), source, language, extra, into)
}

/// A program against a library that is installed there.
pub(crate) fn compile_against(
    installed: &Path,
    source: &Path,
    language: Language,
    extra: &[&str],
    into: &Path,
) -> PathBuf {
    let program = into.join(source.file_stem().unwrap());
    let mut compiler = match language {
        Language::C99 => Command::new("cc"),
        Language::Cpp17 => Command::new("c++"),
    };
    match language {
        Language::C99 => compiler.arg("-std=c99"),
        Language::Cpp17 => compiler.args(["-x", "c++", "-std=c++17"]),
    };
    compiler.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-g"]).args(extra);
    compiler.arg("-I").arg(installed.join("usr/include")).arg(source).arg("-o").arg(&program);
    let library = installed.join("usr/lib");
    compiler.arg("-L").arg(&library).args(["-lringfold", "-lpthread", "-ldl"]);
    compiler.arg(format!("-Wl,-rpath,{}", library.display()));
    succeed(&mut compiler);
    program
}

/// How long a program may take: only to notice that it hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a program as so many ranks, which meet in `room`; what each printed. `wrap` goes before the program.
pub(crate) fn run(
    program: &Path,
    ranks: usize,
    room: &Path,
    wrap: &[&str],
    settings: &[(&str, &str)],
) -> Vec<String> {
    let mut children: Vec<Child> = (0..ranks)
        .map(|rank| {
            let mut command = match wrap {
                [] => Command::new(program),
                [first, rest @ ..] => {
                    let mut command = Command::new(first);
                    command.args(rest).arg(program);
                    command
                }
            };
            ship(&mut command);
            command.env("RINGFOLD_RANK", rank.to_string()).env("RINGFOLD_WORLD_SIZE", ranks.to_string());
            command.env("RINGFOLD_STORE", format!("file://{}", room.display()));
            command.env("RINGFOLD_HEARTBEAT", "60").envs(settings.iter().copied());
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
        })
        .collect();
    let until = Instant::now() + PATIENCE;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        if Instant::now() > until {
            for child in &mut children {
                let _ = child.kill();
            }
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>();
    // The one that says most is the one to look at.
    if let Some(worst) =
        outputs.iter().filter(|output| !output.status.success()).max_by_key(|output| output.stderr.len())
    {
        check(&format!("{} as {ranks} ranks", program.display()), worst);
    }
    outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).collect()
}
