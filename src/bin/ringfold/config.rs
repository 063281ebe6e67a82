//! `ringfold config`: what is configured here, and who said so.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use ringfold::Result;
use ringfold::config::keys::{self, Origin};

/// How to tell it.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// All that can be configured, as the table of the documentation
    #[arg(long)]
    markdown: bool,
}

/// Prints it.
pub(crate) fn command(arguments: &ConfigArgs) -> Result<()> {
    if arguments.markdown {
        print!("{}", keys::markdown());
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["key", "environment", "value here", "said by", "meaning"]);
    for setting in keys::settings()? {
        let key = setting.key;
        let said_by = match setting.origin {
            Origin::Default => "nobody",
            Origin::File => "the file",
            Origin::Environment => "the environment",
            Origin::Launcher => "the launcher",
        };
        let value = setting.value.unwrap_or_else(|| format!("({})", key.default));
        table.add_row([key.name, key.environment, &value, said_by, key.meaning]);
    }
    println!("{table}");
    println!(
        "RINGFOLD_CONFIG names a file with these keys. The environment counts before it, a program before both."
    );
    Ok(())
}
