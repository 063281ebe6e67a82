//! Every crate that this one is built from has a licence that `deny.toml` allows. (Advisories and sources are
//! checked by cargo-deny in the nightly set.)

use serde_json::Value;
use std::fs;
use std::process::Command;

fn allowed() -> Vec<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml")).unwrap();
    let line =
        text.lines().find(|line| line.starts_with("allow = [")).expect("deny.toml allows some licences");
    line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether a licence expression can be met with what is allowed: alternatives of conjunctions, as crates write them.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    // A conjunction binds tighter, and parentheses around alternatives are parts of a conjunction.
    let mut parts = Vec::new();
    let (mut depth, mut part) = (0, String::new());
    for word in expression.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
        match word {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (word == "AND" || word == "OR") {
            parts.push(std::mem::take(&mut part));
            parts.push(word.to_owned());
        } else {
            part.push_str(word);
            part.push(' ');
        }
    }
    parts.push(part);
    let single = |text: &str| {
        let text = text.trim();
        match text.strip_prefix('(').and_then(|text| text.strip_suffix(')')) {
            Some(inner) => is_met(inner, allowed),
            None => allowed.iter().any(|licence| licence == text),
        }
    };
    parts
        .split(|part| part == "OR")
        .any(|all| all.iter().filter(|part| *part != "AND").all(|part| single(part)))
}

/// Crates that have a licence which others may not have.
fn exceptions() -> Vec<(String, String)> {
    let file = include_str!("../deny.toml").parse::<toml::Table>().unwrap();
    let listed = file["licenses"]["exceptions"].as_array().unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    listed.iter().map(|one| (text(&one["crate"]), text(&one["allow"][0]))).collect()
}

/// Whether a crate is needed by anything but tests.
fn is_shipped(metadata: &Value, name: &str) -> bool {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let edges = nodes.iter().flat_map(|node| node["deps"].as_array().unwrap());
    let mut kinds = edges
        .filter(|edge| edge["name"] == name)
        .flat_map(|edge| edge["dep_kinds"].as_array().unwrap())
        .map(|kind| &kind["kind"])
        .peekable();
    assert!(kinds.peek().is_some(), "nothing needs {name}");
    kinds.any(|kind| *kind != "dev")
}

#[test]
fn every_dependency_may_be_used() {
    let allowed = allowed();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--all-features", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 50, "{} packages", packages.len());
    let exceptions = exceptions();
    for (name, _) in &exceptions {
        assert!(
            !is_shipped(&metadata, name),
            "{name} has an exception in deny.toml, and is part of what is built"
        );
    }
    let met = |package: &Value| {
        let own = exceptions.iter().filter(|(name, _)| package["name"] == **name).map(|(_, licence)| licence);
        let all: Vec<String> = allowed.iter().chain(own).cloned().collect();
        package["license"].as_str().is_some_and(|licence| is_met(licence, &all))
    };
    let unmet: Vec<String> = packages
        .iter()
        .filter(|package| !met(package))
        .map(|package| format!("{}: {}", package["name"], package["license"]))
        .collect();
    assert!(unmet.is_empty(), "not allowed by deny.toml: {unmet:#?}");
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT".to_owned(), "Zlib".to_owned()];
    for met in
        ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "(MIT OR GPL-3.0) AND Zlib", "GPL-3.0 OR MIT AND Zlib"]
    {
        assert!(is_met(met, &allowed), "{met}");
    }
    for unmet in ["GPL-3.0", "MIT AND GPL-3.0", "(MIT OR Zlib) AND GPL-3.0", ""] {
        assert!(!is_met(unmet, &allowed), "{unmet}");
    }
}
