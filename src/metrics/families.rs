//! The list of metric families. A help text is a noun phrase with the unit and, in parentheses, the source;
//! docs/metrics.md adds when a family has no series, their number and a useful query.

crate::closed_list::closed_list! {
    /// The type of a family, as in its TYPE line.
    pub enum MetricType {
        /// A value that can rise and fall.
        Gauge = "gauge",
        /// A value that only rises.
        Counter = "counter",
        /// Observations counted by size.
        Histogram = "histogram",
    }
}

/// A metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FamilyDef {
    /// The full name.
    pub name: &'static str,
    /// The type.
    pub metric_type: MetricType,
    /// The labels, in the order of the exposition.
    pub labels: &'static [&'static str],
    /// The HELP line.
    pub help: &'static str,
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = concat!("`", $name, "`: ", $help)]
        pub const $id: FamilyDef = FamilyDef {
            name: $name,
            metric_type: MetricType::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// Every family, but for `process_*`, which the `prometheus` crate defines.
        pub const ALL: &[&FamilyDef] = &[$(&$id),*];
    };
}

families! {
    KEYS = Gauge "mongodbatlas_ai_model_api_keys" ["org_id", "project_id", "status"]
        "Number of AI model API keys by status (Atlas field status, polled; statuses seen earlier are exported as 0).";
    KEY_INFO = Gauge "mongodbatlas_ai_model_api_key_info" ["org_id", "project_id", "api_key_id", "name", "status", "cloud", "geography", "model_endpoint"]
        "Descriptive labels of the AI model API key, such as name and status, with the value 1 (Atlas fields, polled).";
    KEY_CREATED = Gauge "mongodbatlas_ai_model_api_key_created_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "Unix timestamp of the creation of the AI model API key (Atlas field createdAt, polled).";
    KEY_LAST_USED = Gauge "mongodbatlas_ai_model_api_key_last_used_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "Unix timestamp of the last use of the AI model API key (Atlas field lastUsedAt, polled), absent for a key never used.";
    KEY_LAST_USED_AGE = Gauge "mongodbatlas_ai_model_api_key_last_used_age_seconds" ["org_id", "project_id", "api_key_id"]
        "Seconds since the last use of the AI model API key (Atlas field lastUsedAt, polled), absent for a key never used.";
    KEY_IDLE = Gauge "mongodbatlas_ai_model_api_key_idle_seconds" ["org_id", "project_id", "api_key_id"]
        "Seconds since the last use of the AI model API key, or since its creation if never used (Atlas fields lastUsedAt and createdAt, polled).";
    KEY_USED = Gauge "mongodbatlas_ai_model_api_key_used" ["org_id", "project_id", "api_key_id"]
        "Whether the AI model API key was ever used, 1 or 0 (Atlas field lastUsedAt, polled).";
    KEY_EXEMPT_UNTIL = Gauge "mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "Unix timestamp of the end of the AI model API key's exemption (configuration file, exemptions).";
    KEYS_IDLE = Gauge "mongodbatlas_ai_model_api_keys_idle" ["org_id", "project_id", "threshold"]
        "Number of enabled AI model API keys, used at least once and not exempt, idle for at least the threshold (Atlas field lastUsedAt, polled).";
    KEYS_NEVER_USED = Gauge "mongodbatlas_ai_model_api_keys_never_used" ["org_id", "project_id", "threshold"]
        "Number of enabled AI model API keys, never used and not exempt, created at least the threshold ago (Atlas field createdAt, polled).";
    KEYS_DISABLED = Gauge "mongodbatlas_ai_model_api_keys_disabled" ["org_id", "project_id", "threshold"]
        "Number of disabled AI model API keys, not deleted and not exempt, idle or never used for at least the threshold (Atlas fields status, lastUsedAt and createdAt, polled).";
    KEYS_EXEMPT = Gauge "mongodbatlas_ai_model_api_keys_exempt" ["org_id", "project_id"]
        "Number of AI model API keys with an active exemption (configuration file, exemptions).";
    KEY_CHANGES = Counter "mongodbatlas_ai_model_api_key_changes_total" ["org_id", "change"]
        "Number of changes of AI model API keys between two successful polls, by kind (Atlas fields, polled; revived: used after being idle for the largest idle threshold).";
    LIMIT_REQUESTS = Gauge "mongodbatlas_ai_model_rate_limit_requests_per_minute" ["org_id", "model_group", "cloud", "geography"]
        "Limit of requests per minute of the organization for a group of models (Atlas field requestsPerMinuteLimit, polled hourly).";
    LIMIT_TOKENS = Gauge "mongodbatlas_ai_model_rate_limit_tokens_per_minute" ["org_id", "model_group", "cloud", "geography"]
        "Limit of tokens per minute of the organization for a group of models (Atlas field tokensPerMinuteLimit, polled hourly).";
    ORG_INFO = Gauge "mongodbatlas_organization_info" ["org_id", "org_name"]
        "Name of the organization, with the value 1 (Atlas field name, polled hourly).";
    PROJECT_INFO = Gauge "mongodbatlas_project_info" ["org_id", "project_id", "project_name", "owner"]
        "Name and owner of the project, with the value 1 (Atlas fields name and tags, polled hourly; owners of the configuration file).";

    BUILD_INFO = Gauge "atlas_ai_keys_exporter_build_info" ["version", "revision", "rustversion"]
        "Version, source revision and Rust version of the exporter, with the value 1.";
    ORG_UP = Gauge "atlas_ai_keys_exporter_org_up" ["org_id"]
        "Whether the last poll of the organization succeeded, 1 or 0 (0 before the first poll has ended).";
    ORG_LAST_POLL_FAILED = Gauge "atlas_ai_keys_exporter_org_last_poll_failed" ["org_id", "reason"]
        "Whether the last poll of the organization failed for the reason, 1 or 0.";
    ORG_LAST_SUCCESS = Gauge "atlas_ai_keys_exporter_org_last_success_timestamp_seconds" ["org_id"]
        "Unix timestamp of the end of the last successful poll of the organization, absent before the first one.";
    ORG_LAST_ATTEMPT = Gauge "atlas_ai_keys_exporter_org_last_attempt_timestamp_seconds" ["org_id"]
        "Unix timestamp of the start of the last poll of the organization, absent before the first one.";
    ORG_POLL_INTERVAL = Gauge "atlas_ai_keys_exporter_org_poll_interval_seconds" ["org_id"]
        "Effective poll interval of the organization in seconds (configured interval, or a longer one that the rate limit requires).";
    ORG_CONFIGURED_POLL_INTERVAL = Gauge "atlas_ai_keys_exporter_org_configured_poll_interval_seconds" ["org_id"]
        "Configured poll interval of the organization in seconds (--atlas.poll-interval).";
    ORG_POLL_DURATION = Gauge "atlas_ai_keys_exporter_org_poll_duration_seconds" ["org_id"]
        "Duration of the last poll of the organization in seconds, successful or not, absent before the first one.";
    ORG_POLL_PAGES = Gauge "atlas_ai_keys_exporter_org_poll_pages" ["org_id"]
        "Number of pages of the last successful poll of the organization, absent before the first one.";
    ORG_POLL_FAILURES = Counter "atlas_ai_keys_exporter_org_poll_failures_total" ["org_id", "reason"]
        "Number of failed polls of the organization, by reason.";
    ORG_INVENTORY_RESTORED = Gauge "atlas_ai_keys_exporter_org_inventory_restored" ["org_id"]
        "Whether the inventory of the organization is a stored one and no poll has succeeded since the start, 1 or 0 (--storage.path).";
    API_REQUESTS = Counter "atlas_ai_keys_exporter_api_requests_total" ["operation", "code"]
        "Number of requests to Atlas, by HTTP status code, or by failure reason without a response.";
    API_REQUEST_DURATION = Histogram "atlas_ai_keys_exporter_api_request_duration_seconds" ["operation"]
        "Duration of requests to Atlas in seconds, from the connection to the last byte of the response.";
    API_RETRIES = Counter "atlas_ai_keys_exporter_api_retries_total" ["operation", "reason"]
        "Number of retried requests to Atlas, by reason.";
    API_RATE_LIMIT_CAPACITY = Gauge "atlas_ai_keys_exporter_api_rate_limit_capacity" ["operation", "org_id"]
        "Capacity of the Atlas token bucket in requests (response header RateLimit-Limit), absent until Atlas reports it.";
    API_RATE_LIMIT_REMAINING = Gauge "atlas_ai_keys_exporter_api_rate_limit_remaining" ["operation", "org_id"]
        "Requests left in the Atlas token bucket after the last response (response header RateLimit-Remaining), absent until Atlas reports it.";
    API_THROTTLED = Counter "atlas_ai_keys_exporter_api_throttled_seconds_total" ["operation", "org_id"]
        "Seconds that requests to Atlas waited for the rate limit (response header Retry-After, or an empty token bucket).";
    TOKEN_EXPIRY = Gauge "atlas_ai_keys_exporter_token_expiry_timestamp_seconds" ["credential"]
        "Unix timestamp of the expiry of the current access token (OAuth field expires_in), absent without a token and while Atlas rejects it.";
    TOKEN_REQUESTS = Counter "atlas_ai_keys_exporter_token_requests_total" ["credential", "outcome"]
        "Number of access token requests, by outcome.";
    CLIENT_SECRET_EXPIRY = Gauge "atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds" ["credential", "secret_id"]
        "Unix timestamp of the expiry of a client secret of the exporter's own service account (Atlas field expiresAt, polled hourly).";
    CLIENT_SECRET_LAST_USED = Gauge "atlas_ai_keys_exporter_client_secret_last_used_timestamp_seconds" ["credential", "secret_id"]
        "Unix timestamp of the last use of a client secret of the exporter's own service account (Atlas field lastUsedAt, polled hourly), absent if Atlas reports none.";
    CONFIG_RELOAD_SUCCESSFUL = Gauge "atlas_ai_keys_exporter_config_last_reload_successful" []
        "Whether the last load of the configuration succeeded, 1 or 0 (0: the previous configuration remains active).";
    CONFIG_RELOAD_SUCCESS = Gauge "atlas_ai_keys_exporter_config_last_reload_success_timestamp_seconds" []
        "Unix timestamp of the last successful load of the configuration.";
    EXEMPTIONS_UNMATCHED = Gauge "atlas_ai_keys_exporter_exemptions_unmatched" []
        "Number of exemptions that match no AI model API key (configuration file, exemptions).";
    STORAGE_FAILURES = Counter "atlas_ai_keys_exporter_storage_failures_total" []
        "Number of failed writes to the state directory (--storage.path).";
    STORAGE_LAST_WRITE_FAILED = Gauge "atlas_ai_keys_exporter_storage_last_write_failed" []
        "Whether the last write of any state file failed, 1 or 0 (--storage.path).";
    KEYS_DROPPED = Gauge "atlas_ai_keys_exporter_keys_dropped" ["org_id"]
        "Number of keys without some or all per-key series (missing id, invalid timestamp, or over --metrics.max-keys).";
    NAMES_TRUNCATED = Gauge "atlas_ai_keys_exporter_names_truncated" ["org_id"]
        "Number of keys with a truncated name (longer than 250 characters).";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::KeyLabel;

    #[test]
    fn family_names_follow_prometheus_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        for family in ALL {
            assert_eq!(
                family.name.ends_with("_total"),
                family.metric_type == MetricType::Counter,
                "{}",
                family.name
            );
            assert!(
                family.name.starts_with("mongodbatlas_")
                    || family.name.starts_with("atlas_ai_keys_exporter_")
            );
            assert!(
                !family.help.contains(['\n', '\\']),
                "{}: HELP needs no escaping",
                family.name
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn family_labels_collide_with_no_target_label() {
        // Prometheus attaches the first two, its operator the others. A label of the same name would be renamed to
        // `exported_NAME`, or replace that of the target with `honor_labels`.
        let of_targets = [
            "instance",
            "job",
            "endpoint",
            "namespace",
            "pod",
            "service",
            "container",
        ];
        let names = KeyLabel::ALL.map(KeyLabel::as_str);
        assert!(of_targets.iter().all(|label| !names.contains(label)));
        for family in ALL {
            let mut labels = family.labels.iter();
            assert!(
                labels.all(|label| !of_targets.contains(label)),
                "{}",
                family.name
            );
        }
    }
}
