//! The binary: parse, call the library, exit code.

#![warn(clippy::disallowed_methods)]

use std::process::ExitCode;

use atlas_ai_keys_exporter::commands::{self, CommandError};
use atlas_ai_keys_exporter::credentials::Environment;

fn main() -> ExitCode {
    match commands::run(std::env::args_os(), &Environment::Process) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Usage(error)) => {
            // help goes to standard output, mistakes to standard error; a closed pipe is no matter
            let _ = error.print();
            ExitCode::from(CommandError::Usage(error).exit_code())
        }
        Err(failure) => {
            eprintln!("atlas-ai-keys-exporter: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
