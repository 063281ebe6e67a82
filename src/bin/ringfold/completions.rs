//! `ringfold completions` and `ringfold man`: what shells and `man` know of the command, made from its arguments.

use crate::Arguments;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use ringfold::{Error, Result};
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ringfold completions bash > ~/.local/share/bash-completion/completions/ringfold
  ringfold completions zsh > ~/.zfunc/_ringfold        with ~/.zfunc in fpath
  ringfold completions fish > ~/.config/fish/completions/ringfold.fish";

/// For which shell.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// A directory that exists, such as ~/.local/share/man/man1
    directory: PathBuf,
}

/// Writes the completions. They are made first: whoever closes the other end gets an error, and no panic.
pub(crate) fn complete(arguments: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "ringfold", &mut script);
    std::io::stdout().write_all(&script).map_err(|error| Error::io("writing the completions", error))
}

/// Writes a page for the command and one for each of its commands.
pub(crate) fn manual(arguments: &ManArgs) -> Result<()> {
    clap_mangen::generate_to(Arguments::command(), &arguments.directory).map_err(|error| {
        Error::io(format!("writing manual pages to {}", arguments.directory.display()), error)
            .remedy("give a directory that exists and that you may write to")
    })
}
