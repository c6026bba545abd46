//! The manual page and the completions, generated from the table of flags.

use std::fmt::Write as _;
use std::io::Write as _;

use clap_complete::Shell;

use super::CommandError;
use super::terminal::write_stdout;
use crate::cli::{self, FLAGS, Flag};
use crate::credentials::FIELDS;

/// Writes the manual page to standard output.
pub(super) fn print_man_page() -> Result<(), CommandError> {
    write_stdout(|out| out.write_all(render_man_page().as_bytes()))
}

/// Writes the completions of a shell to standard output.
pub(super) fn print_completions(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    let mut command = cli::clap_command();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    write_stdout(|out| out.write_all(&script))
}

/// Manual page with placeholders for the generated parts.
const MAN_TEMPLATE: &str = include_str!("man.roff");

/// Renders one manual page for the program and all its commands.
fn render_man_page() -> String {
    let about = cli::clap_command().get_about().map(ToString::to_string);
    let credential_files = FIELDS.each_ref().map(|field| field.file_name).join(", ");
    MAN_TEMPLATE
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@ABOUT@", &escape_roff(&about.unwrap_or_default()))
        .replace("@COMMANDS@", render_commands().trim_end())
        .replace("@OPTIONS@", render_options().trim_end())
        .replace("@CREDENTIALS@", render_credentials().trim_end())
        .replace("@CREDENTIAL_FILES@", &escape_roff(&credential_files))
        .replace("@VARIABLES@", render_variables().trim_end())
}

fn render_commands() -> String {
    let mut page = String::new();
    for command in cli::clap_command().get_subcommands() {
        let argument = command.get_positionals().next();
        let argument = argument.map(|argument| argument.get_id().as_str().to_uppercase());
        let usage = match argument {
            Some(argument) => format!("{} {argument}", command.get_name()),
            None => command.get_name().to_owned(),
        };
        let about = command.get_about().map(ToString::to_string);
        let about = escape_roff(&about.unwrap_or_default());
        let _ = writeln!(page, ".SS {}\n{about}", escape_roff(&usage));
        let flags = command.get_arguments().filter_map(cli::command_flag);
        flags.for_each(|flag| page.push_str(&render_flag(flag)));
    }
    page
}

fn render_options() -> String {
    let mut page = String::new();
    let mut heading = "";
    for flag in FLAGS {
        if flag.help_heading != heading {
            heading = flag.help_heading;
            let _ = writeln!(page, ".SS {}", escape_roff(heading));
        }
        page.push_str(&render_flag(flag));
    }
    page
}

fn render_flag(flag: &Flag) -> String {
    let mut tag = format!(r"\fB{}\fR", escape_roff(&format!("--{}", flag.name)));
    if !flag.value_name.is_empty() {
        let _ = write!(tag, r" \fI{}\fR", escape_roff(flag.value_name));
    }
    let default = flag.default.map(|default| {
        let default = escape_roff(&format!("Default: {default}"));
        format!("{default}\n.br\n")
    });
    format!(
        ".TP\n{tag}\n{}\n.br\n{}{}\n",
        with_full_stop(flag.help),
        default.unwrap_or_default(),
        escape_roff(&format!("Environment: {}", flag.env))
    )
}

fn render_credentials() -> String {
    let mut page = String::new();
    for field in &FIELDS {
        let names = escape_roff(&format!("{0}, {0}_FILE", field.env));
        let description = with_full_stop(field.description);
        let _ = writeln!(page, ".TP\n\\fB{names}\\fR\n{description}");
    }
    page
}

/// Renders the environment variable of each flag.
fn render_variables() -> String {
    let commands = cli::clap_command();
    let of_commands = commands.get_subcommands().flat_map(|command| {
        let flags = command.get_arguments().filter_map(cli::command_flag);
        flags.map(|flag| (flag, format!("--{} of {}", flag.name, command.get_name())))
    });
    let shared = FLAGS.iter().map(|flag| (flag, format!("--{}", flag.name)));
    let mut page = String::new();
    let mut seen = Vec::new();
    for (flag, same_as) in shared.chain(of_commands) {
        // `demo` and `sim` share flags.
        if !seen.contains(&flag.env) {
            seen.push(flag.env);
            let [env, same_as] = [flag.env, &same_as].map(escape_roff);
            let _ = writeln!(page, ".TP\n\\fB{env}\\fR\nSame as {same_as}.");
        }
    }
    page
}

fn with_full_stop(text: &str) -> String {
    escape_roff(&format!("{}.", text.trim_end_matches('.')))
}

/// Escapes a text so that it contains no roff request and no roff escape.
fn escape_roff(text: &str) -> String {
    let escaped = text
        .replace('\\', r"\e")
        .replace('-', r"\-")
        .replace('\'', r"\(aq");
    if escaped.starts_with('.') {
        format!(r"\&{escaped}")
    } else {
        escaped
    }
}
