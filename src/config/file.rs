//! The configuration file: TOML without tables, whose keys are those of [`keys`](super::keys).

use super::keys::{self, Key};
use super::{Config, configuration};
use crate::error::Result;
use std::fs;
use std::path::Path;
use toml::{Table, Value};

/// Sets what the file says.
pub(super) fn read(path: &Path, config: &mut Config) -> Result<()> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        configuration(format!("the configuration file {file} cannot be read: {error}"))
            .remedy(format!("mend the path, or unset {}", super::environment::CONFIG))
    })?;
    parse(&text, &file, config)
}

/// Sets what a text says that is called `file`.
pub(super) fn parse(text: &str, file: &str, config: &mut Config) -> Result<()> {
    let table: Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        configuration(format!("{file}, line {line}: {}", error.message()))
            .remedy("write lines such as deadline = \"30s\"")
    })?;
    for (name, value) in &table {
        let key = Key::named(name).ok_or_else(|| keys::unknown(name, file))?;
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            other => {
                let text = format!("{file}: {name} is a value of type {}", other.type_str());
                return Err(configuration(text).remedy("give it a text in quotes, or a number"));
            }
        };
        key.set(config, &format!("{name} in {file}"), &text)?;
    }
    Ok(())
}
