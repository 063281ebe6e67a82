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
    let unmet: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(|licence| is_met(licence, &allowed)))
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
