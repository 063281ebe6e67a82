//! What is installed: what it exports, what it needs, how large it is, and that build systems find it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::Language::C99;
use support::{compile_against, here, installed, installed_without_arrow, library, room, root, run, succeed};

fn shared() -> std::path::PathBuf {
    library().join("libringfold.so").canonicalize().unwrap()
}

fn shared_without_arrow() -> std::path::PathBuf {
    installed_without_arrow().join("usr/lib/libringfold.so").canonicalize().unwrap()
}

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = fs::read_to_string(installed().join("usr/include/ringfold.h")).unwrap();
    let code: String = header.split("/*").map(|part| part.split("*/").last().unwrap()).collect();
    let names = code.split(';').filter_map(|statement| {
        let before = statement.split('(').next()?;
        let name = before.rsplit([' ', '*', '\n']).next()?;
        (name.starts_with("rf_") && !statement.contains("typedef") && statement.contains('('))
            .then(|| name.to_owned())
    });
    names.collect()
}

#[test]
fn the_library_exports_what_the_header_declares_and_nothing_else() {
    assert!(declared().len() > 50, "{:?}", declared());
    for library in [shared(), shared_without_arrow()] {
        assert_eq!(exported(&library), declared(), "{}", library.display());
    }
}

fn exported(library: &Path) -> BTreeSet<String> {
    let listing = succeed(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let mut exported = BTreeSet::new();
    for line in listing.lines() {
        let symbol = line.split_whitespace().last().unwrap();
        if symbol == "RINGFOLD_0" {
            continue; // the version itself
        }
        let name = symbol.strip_suffix("@@RINGFOLD_0");
        exported.insert(name.unwrap_or_else(|| panic!("{symbol} has no version")).to_owned());
    }
    exported
}

#[test]
fn the_library_needs_the_system_only_and_stays_where_it_is() {
    let dynamic = succeed(Command::new("readelf").args(["-d", "-W"]).arg(shared()));
    let of = |tag: &str| -> Vec<&str> {
        let lines = dynamic.lines().filter(|line| line.contains(tag));
        lines.map(|line| line.split('[').nth(1).unwrap().trim_end_matches(']')).collect()
    };
    for needed in of("(NEEDED)") {
        let known =
            ["libc.so", "libgcc_s.so", "libm.so", "ld-linux"].iter().any(|name| needed.starts_with(name));
        assert!(known, "it needs {needed}");
    }
    assert_eq!(of("(SONAME)"), ["libringfold.so.0.1"]);
    let flags = dynamic.lines().find(|line| line.contains("(FLAGS_1)")).unwrap();
    assert!(flags.contains("NODELETE"), "{flags}");
}

/// What Arrow adds was measured at 3.2 MB; ffi/README.md says of what.
#[test]
fn the_library_is_small() {
    for (library, most) in [(shared_without_arrow(), 3_000_000), (shared(), 6_500_000)] {
        let bytes = fs::metadata(&library).unwrap().len();
        println!("{} is {bytes} bytes", library.display());
        assert!(bytes < most, "{}: {bytes} bytes", library.display());
    }
}

#[test]
fn a_library_without_arrow_says_so() {
    let room = room("without-arrow");
    let source = here().join("tests/programs/without_arrow.c");
    let program = compile_against(installed_without_arrow(), &source, C99, &[], &room);
    assert_eq!(run(&program, 1, &room, &[], &[]), ["without Arrow\n"]);
}

const SOURCE: &str = "examples/c/all_reduce.c";

fn says_what_it_should(program: &Path, room: &Path) {
    let said = run(program, 2, room, &[], &[("LD_LIBRARY_PATH", library().to_str().unwrap())]);
    assert_eq!(said, ["rank 0 of 2: 3\n", "rank 1 of 2: 3\n"]);
}

#[test]
fn pkg_config_finds_it_shared_and_static() {
    let room = room("pkg-config");
    for (name, flags) in
        [("shared", &["--cflags", "--libs"][..]), ("static", &["--cflags", "--libs", "--static"])]
    {
        let mut ask = Command::new("pkg-config");
        ask.args(flags).arg("ringfold").env("PKG_CONFIG_PATH", library().join("pkgconfig"));
        let told = succeed(ask.env("PKG_CONFIG_SYSROOT_DIR", installed()));
        let program = room.join(name);
        let mut compiler = Command::new("cc");
        compiler.arg(root().join(SOURCE)).arg("-o").arg(&program);
        let told = match name {
            // The archive itself, since the linker prefers the shared one.
            "static" => told.replace("-lringfold", "-l:libringfold.a"),
            _ => told,
        };
        succeed(compiler.args(told.split_whitespace()));
        let needs = succeed(Command::new("readelf").arg("-d").arg(&program));
        assert_eq!(needs.contains("libringfold.so.0.1"), name == "shared");
        says_what_it_should(&program, &room);
    }
    let mut ask = Command::new("pkg-config");
    ask.args(["--modversion", "ringfold"]).env("PKG_CONFIG_PATH", library().join("pkgconfig"));
    assert_eq!(succeed(&mut ask).trim(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn cmake_finds_it_shared_and_static() {
    let room = room("cmake");
    let project = format!(
        "cmake_minimum_required(VERSION 3.16)\nproject(user C)\nfind_package(ringfold 0.1 REQUIRED)\n\
         add_executable(shared {source})\ntarget_link_libraries(shared ringfold::ringfold)\n\
         add_executable(static {source})\ntarget_link_libraries(static ringfold::static)\n",
        source = root().join(SOURCE).display()
    );
    fs::write(room.join("CMakeLists.txt"), project).unwrap();
    let build = room.join("build");
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&room).arg("-B").arg(&build);
    succeed(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", installed().join("usr").display())));
    succeed(Command::new("cmake").arg("--build").arg(&build));
    says_what_it_should(&build.join("shared"), &room);
    says_what_it_should(&build.join("static"), &room);
    // A version that is not this one is not found.
    let other =
        fs::read_to_string(room.join("CMakeLists.txt")).unwrap().replace("ringfold 0.1", "ringfold 0.2");
    fs::write(room.join("CMakeLists.txt"), other).unwrap();
    let mut configure = Command::new("cmake");
    configure.arg("-S").arg(&room).arg("-B").arg(room.join("other"));
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", installed().join("usr").display()));
    assert!(!configure.output().unwrap().status.success());
}
