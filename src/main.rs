//! The binary: runs the command and returns its exit code.

#![warn(clippy::disallowed_methods)]

use std::process::ExitCode;

use atlas_ai_keys_exporter::commands::{self, CommandError};
use atlas_ai_keys_exporter::credentials::Environment;

fn main() -> ExitCode {
    match commands::run(std::env::args_os(), &Environment::Process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Usage(error)) => {
            // clap prints help to standard output and errors to standard error. A closed pipe is not an error.
            let _ = error.print();
            ExitCode::from(CommandError::Usage(error).exit_code())
        }
        Err(error) => {
            eprintln!("atlas-ai-keys-exporter: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
