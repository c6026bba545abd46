//! `man` and `completions`: what is written about the command line, from the one table of flags.

use std::io::{self, Write as _};

use clap_complete::Shell;

use super::Failure;
use crate::cli;

/// Writes the manual page to standard output.
pub(super) fn man() -> Result<(), Failure> {
    page()
        .and_then(|page| io::stdout().lock().write_all(&page))
        .map_err(Failure::system("cannot write to standard output"))
}

/// One page for the program and all its commands.
fn page() -> io::Result<Vec<u8>> {
    let definition = cli::definition();
    let mut page = Vec::new();
    clap_mangen::Man::new(definition.clone()).render(&mut page)?;
    for command in definition.get_subcommands() {
        let mut options = Vec::new();
        clap_mangen::Man::new(command.clone()).render_options_section(&mut options)?;
        let options = String::from_utf8_lossy(&options);
        // its own are the last group; before them are those that every command has
        let own = options.rsplit_once("\n.SH ").map(|(_, own)| own);
        let Some(own) = own.filter(|own| !own.starts_with("OPTIONS")) else {
            continue;
        };
        let about = command.get_about().map(ToString::to_string);
        writeln!(page, ".SH COMMAND {}", command.get_name().to_uppercase())?;
        writeln!(page, "{}", about.unwrap_or_default())?;
        // what follows the title of the group
        if let Some((_, flags)) = own.split_once('\n') {
            page.write_all(flags.as_bytes())?;
        }
    }
    Ok(page)
}

/// Writes the completions of a shell to standard output.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut definition = cli::definition();
    let name = definition.get_name().to_owned();
    clap_complete::generate(shell, &mut definition, name, &mut script);
    io::stdout()
        .lock()
        .write_all(&script)
        .map_err(Failure::system("cannot write to standard output"))
}
