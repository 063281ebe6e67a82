//! The header is what the sources say, and the library has what the header says.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The sources in the order in which the header has them.
const SOURCES: &[&str] = &[
    "version",
    "types",
    "error",
    "config",
    "exchange",
    "comm",
    "options",
    "collective",
    "dlpack",
    "arrow",
    "request",
    "prepared",
    "memory",
    "reduction",
];

/// The parts that no Rust item stands for.
const HEAD: &str = include_str!("../header/head.h");
const TAIL: &str = include_str!("../header/tail.h");
const ARROW: &str = include_str!("../header/arrow.h");

fn generated() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(here.join("cbindgen.toml")).unwrap();
    config.header = Some(HEAD.trim_end().to_owned());
    let includes = config.after_includes.take().unwrap_or_default();
    config.after_includes = Some(format!("{}\n{}", includes.trim_end(), ARROW.trim_end()));
    config.trailer = Some(TAIL.trim_end().to_owned());
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(here.join("src").join(source).with_extension("rs"));
    }
    let mut text = Vec::new();
    builder.generate().unwrap().write(&mut text);
    for_c(&String::from_utf8(text).unwrap())
}

/// What a C programmer does not need: the Rust reader's heading over what a caller has to see to.
fn for_c(text: &str) -> String {
    text.replace(" * # Safety\n", " * What the caller sees to:\n")
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = root().join("include/ringfold.h");
    let text = generated();
    if std::env::var_os("RINGFOLD_TEST_WRITE_HEADER").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let line = there.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        there == text,
        "include/ringfold.h differs from the sources (at line {}): make it anew by \
         RINGFOLD_TEST_WRITE_HEADER=1 cargo test -p ringfold-capi --test header",
        line.unwrap_or(0) + 1
    );
}

#[test]
fn every_source_with_exports_is_in_the_header() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(here).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        let is_for_c = text.contains("#[unsafe(no_mangle)]") || text.contains("#[repr(C)]");
        assert_eq!(is_for_c, SOURCES.contains(&name), "{name}");
    }
}

/// The functions that a text declares or defines.
fn functions(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("rf_") {
        let name: String =
            text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let before = text[..at].chars().next_back();
        if text[at + name.len()..].starts_with('(') && before.is_some_and(|c| c == ' ' || c == '*') {
            found.insert(name);
        }
    }
    found
}

#[test]
fn nothing_in_the_header_is_missing_in_the_sources() {
    let header = fs::read_to_string(root().join("include/ringfold.h")).unwrap();
    let without_comments: String = header.split("/*").map(|part| part.split("*/").last().unwrap()).collect();
    let declared = functions(&without_comments);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let exported: BTreeSet<String> = SOURCES
        .iter()
        .flat_map(|source| {
            let text = fs::read_to_string(here.join(source).with_extension("rs")).unwrap();
            let parts = text.split("#[unsafe(no_mangle)]").skip(1).map(|part| {
                let name = part.split("fn ").nth(1).unwrap();
                name.split('(').next().unwrap().to_owned()
            });
            parts.collect::<Vec<_>>()
        })
        .collect();
    assert!(exported.len() > 50, "{exported:?}");
    assert_eq!(declared, exported);
}
