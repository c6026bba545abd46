//! `print_man_page` and `print_completions`: written from the one table of flags.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap_complete::Shell;

use super::{CommandError, ignore_broken_pipe};
use crate::cli::{self, FLAGS, Flag};
use crate::credentials::FIELDS;

/// Writes the manual page to standard output.
pub(super) fn print_man_page() -> Result<(), CommandError> {
    write_text(render_man_page().as_bytes())
}

/// Writes the completions of a shell to standard output.
pub(super) fn print_completions(shell: Shell) -> Result<(), CommandError> {
    let mut script = Vec::new();
    let mut definition = cli::clap_command();
    let name = definition.get_name().to_owned();
    clap_complete::generate(shell, &mut definition, name, &mut script);
    write_text(&script)
}

fn write_text(text: &[u8]) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .or_else(ignore_broken_pipe)
        .map_err(CommandError::io("cannot write to standard output"))
}

/// Variables that are read beside those of flags and credentials.
const OTHER_VARIABLES: [(&str, &str); 8] = [
    (
        "CREDENTIALS_DIRECTORY",
        "Directory with the files client-id, client-secret, public-api-key, private-api-key and access-token, \
         which come before the variables above. Set by systemd (LoadCredential=).",
    ),
    (
        "STATE_DIRECTORY",
        "Default of --storage.path. Set by systemd (StateDirectory=).",
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "Proxy for requests to Atlas, and hosts that are reached without it.",
    ),
    (
        "SSL_CERT_FILE, SSL_CERT_DIR",
        "Certificate authorities to trust instead of the system's.",
    ),
    ("NO_COLOR", "Switches colors off if set."),
    (
        "HOSTNAME",
        "Host name from which --atlas.shard auto/N takes its number; the system's if not set.",
    ),
    (
        "LISTEN_FDS, LISTEN_PID",
        "Sockets to serve on with --web.systemd-socket. Set by systemd.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        "Where and how often to report that the service is alive. Set by systemd.",
    ),
];

/// Files of the packages, and those that they look for.
const FILES: [(&str, &str); 7] = [
    (
        "/etc/default/atlas-ai-keys-exporter",
        "Environment variables of the service.",
    ),
    (
        "/etc/atlas-ai-keys-exporter/config.yml",
        "Configuration file; used if --config.file names it.",
    ),
    (
        "/etc/credstore/atlas-ai-keys-exporter.client-id, /etc/credstore/atlas-ai-keys-exporter.client-secret",
        "Credential of the service, readable for root only.",
    ),
    (
        "/var/lib/atlas-ai-keys-exporter",
        "State of the service: the last inventory of each organization and the live access token.",
    ),
    (
        "/usr/share/atlas-ai-keys-exporter/rules",
        "Alerting rules for Prometheus.",
    ),
    (
        "/usr/share/atlas-ai-keys-exporter/dashboards",
        "Dashboards for Grafana.",
    ),
    (
        "/usr/share/doc/atlas-ai-keys-exporter",
        "Documentation: every metric, the configuration file, TLS and passwords, failure modes, runbooks.",
    ),
];

const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Success."),
    (
        "1",
        "The work failed: an organization could not be read, an address is in use, check found an error.",
    ),
    (
        "2",
        "The call or the configuration is invalid: an unknown flag, an invalid value, a missing credential, a filter that \
         names an unknown project or status.",
    ),
];

const EXAMPLES: [(&str, &str); 6] = [
    (
        "Try it without an account, on http://127.0.0.1:10064:",
        "atlas-ai-keys-exporter demo",
    ),
    (
        "Check configuration, credential and access, then serve /metrics:",
        "export MONGODB_ATLAS_ORG_ID=32b6e34b3d91647abb20e7b8\n\
         export MONGODB_ATLAS_CLIENT_ID=mdb_sa_id_0123456789abcdef01234567\n\
         export MONGODB_ATLAS_CLIENT_SECRET_FILE=/run/secrets/client-secret\n\
         atlas-ai-keys-exporter check && atlas-ai-keys-exporter",
    ),
    (
        "List the keys that were not used for 90 days, for a spreadsheet:",
        "atlas-ai-keys-exporter keys --idle 90d --output csv > keys.csv",
    ),
    (
        "List the keys of one project that were never used:",
        "atlas-ai-keys-exporter keys --project search --never-used",
    ),
    (
        "Write the metrics for node_exporter's textfile collector, from cron:",
        "atlas-ai-keys-exporter once --output /var/lib/prometheus/node-exporter/atlas-ai-keys.prom",
    ),
    (
        "Write the completions for bash:",
        "atlas-ai-keys-exporter completions bash > /etc/bash_completion.d/atlas-ai-keys-exporter",
    ),
];

/// Renders one page for the program and all its commands, in the man macros.
fn render_man_page() -> String {
    let command = cli::clap_command();
    let about = |command: &clap::Command| command.get_about().map(ToString::to_string);
    let mut page = ManPage::new(command.get_name());
    page.section("NAME");
    let summary = about(&command).unwrap_or_default();
    page.text(&format!("{} - {summary}", command.get_name()));
    page.section("SYNOPSIS");
    page.line(r"\fBatlas\-ai\-keys\-exporter\fR [\fIFLAG\fR]... [\fICOMMAND\fR [\fIFLAG\fR]...]");
    page.section("DESCRIPTION");
    page.text(
        "Polls the AI model API keys of MongoDB Atlas organizations and serves their number, status, age and idle time as \
         metrics for Prometheus. Without a command it serves until it is stopped. If Atlas is unavailable, /metrics keeps \
         serving the last complete poll together with its time.",
    );
    page.section("COMMANDS");
    for command in command.get_subcommands() {
        let usage = match command.get_positionals().next() {
            Some(argument) => {
                format!(
                    "{} {}",
                    command.get_name(),
                    argument.get_id().as_str().to_uppercase()
                )
            }
            None => command.get_name().to_owned(),
        };
        page.subsection(&usage);
        page.text(&about(command).unwrap_or_default());
        let own = command.get_arguments().filter_map(cli::command_flag);
        own.for_each(|flag| page.flag(flag));
    }
    page.section("OPTIONS");
    page.text(
        "Each flag has an environment variable; a flag comes before its variable, and that before the configuration file.",
    );
    let mut group = "";
    for flag in FLAGS {
        if flag.help_heading != group {
            group = flag.help_heading;
            page.subsection(group);
        }
        page.flag(flag);
    }
    page.subsection("Help");
    page.item(
        &bold("-h"),
        "Shows the flags of a command and how to give a credential.",
    );
    page.item(
        &bold("--help"),
        "Shows all flags with their environment variables.",
    );
    page.item(&bold("-V, --version"), "Shows the version.");
    page.section("ENVIRONMENT");
    page.text("Beside the variable of each flag; one that is empty counts as not set.");
    page.subsection("Credentials");
    page.text(
        "A service account (recommended), a programmatic API key, or an access token. Secrets are never taken from flags. \
         Each variable with _FILE appended names a file that holds the value, which comes before the variable itself.",
    );
    for part in &FIELDS {
        let names = format!("{0}, {0}_FILE", part.env);
        page.item(&bold(&names), &with_full_stop(part.description));
    }
    page.subsection("Others");
    for (names, text) in OTHER_VARIABLES {
        page.item(&bold(names), text);
    }
    page.section("FILES");
    for (names, text) in FILES {
        page.item(&italic(names), text);
    }
    page.section("EXIT STATUS");
    for (code, text) in EXIT_STATUS {
        page.item(&bold(code), text);
    }
    page.section("EXAMPLES");
    for (text, lines) in EXAMPLES {
        page.example(text, lines);
    }
    page.finish()
}

fn with_full_stop(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// A text in which nothing is a request or an escape of roff.
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

fn bold(text: &str) -> String {
    format!(r"\fB{}\fR", escape_roff(text))
}

fn italic(text: &str) -> String {
    format!(r"\fI{}\fR", escape_roff(text))
}

/// A manual page under construction.
struct ManPage(String);

impl ManPage {
    fn new(name: &str) -> Self {
        let title = escape_roff(&name.to_uppercase());
        let version = escape_roff(env!("CARGO_PKG_VERSION"));
        // left-aligned, and no name of a variable is hyphenated
        Self(format!(
            ".TH {title} 1 \"\" \"{} {version}\" \"User Commands\"\n.nh\n.ad l\n",
            escape_roff(name)
        ))
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn text(&mut self, text: &str) {
        self.line(&escape_roff(text));
    }

    fn section(&mut self, title: &str) {
        self.line(&format!(".SH {title}"));
    }

    fn subsection(&mut self, title: &str) {
        self.line(&format!(".SS {}", escape_roff(title)));
    }

    /// A paragraph below `tag`, which is escaped already.
    fn item(&mut self, tag: &str, text: &str) {
        self.line(&format!(".TP\n{tag}"));
        self.text(text);
    }

    fn flag(&mut self, flag: &Flag) {
        let mut tag = bold(&format!("--{}", flag.name));
        if !flag.value_name.is_empty() {
            let _ = write!(tag, " {}", italic(flag.value_name));
        }
        self.item(&tag, &with_full_stop(flag.help));
        self.line(".br");
        if let Some(default) = flag.default {
            self.text(&format!("Default: {default}"));
            self.line(".br");
        }
        self.text(&format!("Environment: {}", flag.env));
    }

    fn example(&mut self, text: &str, lines: &str) {
        self.line(".PP");
        self.text(text);
        self.line(".PP\n.RS 4\n.nf");
        lines.lines().for_each(|line| self.text(line));
        self.line(".fi\n.RE");
    }

    fn finish(self) -> String {
        self.0
    }
}
