//! `man` and `completions`: what is written about the command line, from the one table of flags.

use std::io::{self, Write as _};

use clap_complete::Shell;

use super::Failure;
use crate::cli;

/// Writes the manual page to standard output.
pub(super) fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(cli::definition())
        .render(&mut page)
        .and_then(|()| io::stdout().lock().write_all(&page))
        .map_err(Failure::system("cannot write to standard output"))
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
