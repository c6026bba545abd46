//! The tables of flags.

/// A flag.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name without the dashes.
    pub name: &'static str,
    /// Placeholder of the value in `--help`; empty for a boolean flag, which needs no value.
    pub value_name: &'static str,
    /// Default value.
    pub default: Option<&'static str>,
    /// Environment variable with the same meaning.
    pub env: &'static str,
    /// Whether the flag can be repeated; the variable then has a comma-separated list.
    pub repeatable: bool,
    /// Heading in `--help`.
    pub help_heading: &'static str,
    /// Description in `--help`; `-h` shows the part before the first semicolon.
    pub help: &'static str,
}

impl Flag {
    /// Returns the description in `-h`, which fits on one line.
    pub(super) fn summary(&self) -> String {
        let summary = self.help.split(';').next().unwrap_or_default();
        match self.default.filter(|_| !self.value_name.is_empty()) {
            Some(default) => format!("{summary} [default: {default}]"),
            None => summary.to_owned(),
        }
    }
}

macro_rules! flags {
    ($($name:literal $value:literal $default:expr, $variable:literal, $repeatable:literal, $group:literal, $help:literal;)*) => {
        &[$(Flag {
            name: $name,
            value_name: $value,
            default: $default,
            env: $variable,
            repeatable: $repeatable,
            help_heading: $group,
            help: $help,
        }),*]
    };
}

/// The flags of every command.
pub const FLAGS: &[Flag] = flags! {
    "atlas.org-id" "ID" None, "MONGODB_ATLAS_ORG_ID", true, "Atlas", "Organization to watch (repeatable)";
    "atlas.discover-orgs" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_DISCOVER_ORGS", false, "Atlas", "Watch every organization visible to the credential; listed again at each poll interval";
    "atlas.base-url" "URL" Some("https://cloud.mongodb.com"), "MONGODB_ATLAS_BASE_URL", false, "Atlas", "Base URL of Atlas; plain http is accepted for loopback hosts only";
    "atlas.api-version" "VERSION" Some("2025-03-12"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_API_VERSION", false, "Atlas", "Version of the Atlas API: a date (YYYY-MM-DD) or preview";
    "atlas.poll-interval" "DURATION" Some("5m"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_POLL_INTERVAL", false, "Atlas", "Interval between polls of each organization (1s to 7d)";
    "atlas.timeout" "DURATION" Some("30s"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_TIMEOUT", false, "Atlas", "Timeout of a request to Atlas, from connect to the last byte (100ms to 10m)";
    "atlas.page-size" "N" Some("500"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_PAGE_SIZE", false, "Atlas", "Keys per page (1 to 500)";
    "atlas.max-staleness" "DURATION" Some("0s"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_MAX_STALENESS", false, "Atlas", "Stop exporting an organization's keys when its last successful poll is older than this (0s = never)";
    "atlas.max-orgs" "N" Some("10000"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_MAX_ORGS", false, "Atlas", "Maximum number of discovered organizations; the rest are not polled";
    "atlas.owner-tag" "KEY" Some("owner"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_OWNER_TAG", false, "Atlas", "Project tag in Atlas that names the owner (empty = none); its value is the label owner of mongodbatlas_project_info";
    "atlas.shard" "I/N" Some("1/1"), "ATLAS_AI_KEYS_EXPORTER_ATLAS_SHARD", false, "Atlas", "Watch only the I-th of N shards of the organizations; auto/N takes I from the ordinal of a StatefulSet pod";
    "config.file" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_CONFIG_FILE", false, "Configuration", "Configuration file (YAML); credentials, owners, exemptions and the settings of all flags";
    "storage.path" "DIR" None, "ATLAS_AI_KEYS_EXPORTER_STORAGE_PATH", false, "Storage", "Directory for state kept across restarts; systemd's $STATE_DIRECTORY if not set";
    "metrics.per-key" "MODE" Some("all"), "ATLAS_AI_KEYS_EXPORTER_METRICS_PER_KEY", false, "Metrics", "Keys with per-key series: all, idle (past the smallest idle threshold) or none (roll-ups only)";
    "metrics.key-labels" "LIST" Some("name,status,cloud,geography,model_endpoint"), "ATLAS_AI_KEYS_EXPORTER_METRICS_KEY_LABELS", false, "Metrics", "Comma-separated labels of the info metric; created_by (name of a person) and masked_secret can be added";
    "metrics.max-keys" "N" Some("1000000"), "ATLAS_AI_KEYS_EXPORTER_METRICS_MAX_KEYS", false, "Metrics", "Maximum number of keys with per-key series; the longest-idle keys are exported, the rest are only counted";
    "metrics.idle-thresholds" "LIST" Some("7d,30d,90d"), "ATLAS_AI_KEYS_EXPORTER_METRICS_IDLE_THRESHOLDS", false, "Metrics", "Comma-separated thresholds of the idle roll-ups (at least 1s)";
    "web.listen-address" "ADDRESS" Some(":10064"), "ATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS", true, "Web", "Listen address (repeatable); HOST:PORT, or :PORT for all addresses";
    "web.systemd-socket" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_WEB_SYSTEMD_SOCKET", false, "Web", "Serve on the sockets passed by systemd instead of --web.listen-address";
    "web.probe-address" "ADDRESS" None, "ATLAS_AI_KEYS_EXPORTER_WEB_PROBE_ADDRESS", false, "Web", "Additional listen address for /-/healthy and /-/ready only, without TLS or authentication";
    "web.config.file" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_WEB_CONFIG_FILE", false, "Web", "Web configuration file: TLS, client certificates, passwords; in the format of Prometheus' exporter-toolkit, reloaded when it changes";
    "web.telemetry-path" "PATH" Some("/metrics"), "ATLAS_AI_KEYS_EXPORTER_WEB_TELEMETRY_PATH", false, "Web", "HTTP path of the metrics";
    "web.max-requests" "N" Some("40"), "ATLAS_AI_KEYS_EXPORTER_WEB_MAX_REQUESTS", false, "Web", "Maximum number of concurrent scrapes; excess requests wait for up to 2s, then get 503";
    "web.allowed-hosts" "LIST" None, "ATLAS_AI_KEYS_EXPORTER_WEB_ALLOWED_HOSTS", false, "Web", "Comma-separated host names and addresses accepted in the Host header; other requests get 421; all hosts are accepted if not set; localhost includes all loopback addresses";
    "web.enable-lifecycle" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_WEB_ENABLE_LIFECYCLE", false, "Web", "Allow POST and PUT to /-/reload";
    "log.level" "LEVEL" Some("info"), "ATLAS_AI_KEYS_EXPORTER_LOG_LEVEL", false, "Log", "Log level: error, warn, info, debug or trace";
    "log.format" "FORMAT" Some("logfmt"), "ATLAS_AI_KEYS_EXPORTER_LOG_FORMAT", false, "Log", "Log format on standard error: logfmt or json";
};

/// The flags of `demo` and `sim`.
#[cfg(feature = "sim")]
pub const SIM_FLAGS: &[Flag] = flags! {
    "sim.seed" "N" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SEED", false, "Simulated Atlas", "Random seed; the same seed gives the same keys and events";
    "sim.orgs" "N" Some("3"), "ATLAS_AI_KEYS_EXPORTER_SIM_ORGS", false, "Simulated Atlas", "Number of organizations";
    "sim.keys" "N" Some("1200"), "ATLAS_AI_KEYS_EXPORTER_SIM_KEYS", false, "Simulated Atlas", "Total number of keys in all organizations";
    "sim.scenario" "NAME" Some("calm"), "ATLAS_AI_KEYS_EXPORTER_SIM_SCENARIO", false, "Simulated Atlas", "Simulated scenario; calm, stale, outage, throttled, revoked, churn or expiring";
    "sim.speed" "X" Some("1"), "ATLAS_AI_KEYS_EXPORTER_SIM_SPEED", false, "Simulated Atlas", "Speed factor of simulated key activity (0 = none)";
};

/// The flags that only `sim` has.
#[cfg(feature = "sim")]
pub const SIM_LISTEN_FLAGS: &[Flag] = flags! {
    "sim.listen-address" "ADDRESS" Some("127.0.0.1:10065"), "ATLAS_AI_KEYS_EXPORTER_SIM_LISTEN_ADDRESS", false, "Simulated Atlas", "Address of the simulated Atlas";
};

/// The flags of `once`.
pub const ONCE_FLAGS: &[Flag] = flags! {
    "output" "FILE" None, "ATLAS_AI_KEYS_EXPORTER_ONCE_OUTPUT", false, "Once", "Output file, replaced atomically (default: standard output); unchanged if an organization has no data";
};

/// The flags of `check`.
pub const CHECK_FLAGS: &[Flag] = flags! {
    "offline" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_CHECK_OFFLINE", false, "Check", "Skip all checks that contact Atlas";
    "health" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_CHECK_HEALTH", false, "Check", "Only query /-/healthy of the running exporter; for container health checks";
    "output" "FORMAT" Some("table"), "ATLAS_AI_KEYS_EXPORTER_CHECK_OUTPUT", false, "Check", "Format: table or json";
};

/// The flags of `keys`.
pub const KEYS_FLAGS: &[Flag] = flags! {
    "output" "FORMAT" Some("table"), "ATLAS_AI_KEYS_EXPORTER_KEYS_OUTPUT", false, "Keys", "Format: table, csv, json, markdown or commands; commands writes Atlas CLI commands that delete the keys, to review and run manually; commands requires --idle, --never-used or --status, and excludes keys used in the last 30 days unless --idle is set";
    "group-by" "FIELD" None, "ATLAS_AI_KEYS_EXPORTER_KEYS_GROUP_BY", false, "Keys", "Group and count keys by owner, project or org";
    "sort" "COLUMN" Some("idle"), "ATLAS_AI_KEYS_EXPORTER_KEYS_SORT", false, "Keys", "Sort by idle, name, created, owner or project; idle lists the longest-idle keys first, created the newest keys first";
    "limit" "N" None, "ATLAS_AI_KEYS_EXPORTER_KEYS_LIMIT", false, "Keys", "Maximum number of listed keys (per group with --group-by); 0 lists counts only";
    "idle" "DURATION" Some("0s"), "ATLAS_AI_KEYS_EXPORTER_KEYS_IDLE", false, "Keys", "Only show keys idle for at least DURATION; for never-used keys, idle time starts at creation";
    "never-used" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_KEYS_NEVER_USED", false, "Keys", "Only show keys that were never used";
    "status" "STATUS" None, "ATLAS_AI_KEYS_EXPORTER_KEYS_STATUS", true, "Keys", "Only show keys with this status (repeatable); case-insensitive";
    "project" "PROJECT" None, "ATLAS_AI_KEYS_EXPORTER_KEYS_PROJECT", true, "Keys", "Only show keys of this project, by exact name or id (repeatable)";
    "owner" "NAME" None, "ATLAS_AI_KEYS_EXPORTER_KEYS_OWNER", true, "Keys", "Only show keys with this project owner, by exact name (repeatable); --owner '' selects projects without an owner";
    "include-exempt" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_KEYS_INCLUDE_EXEMPT", false, "Keys", "Also show exempt keys; --output commands never writes a command for them";
    "from-storage" "" Some("false"), "ATLAS_AI_KEYS_EXPORTER_KEYS_FROM_STORAGE", false, "Keys", "Read stored inventories from --storage.path instead of Atlas; needs no credential";
};
