//! The catalogue of metric families. Help texts name the Atlas field that a value comes from and say that it is polled;
//! docs/metrics.md adds when a family has no series, their number and a useful query.

crate::closed_list::closed_list! {
    /// The type of a family, as in its TYPE line.
    pub enum MetricType {
        /// A value that goes up and down.
        Gauge = "gauge",
        /// A value that only goes up.
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
        "Number of AI model API keys by status (Atlas member status), as the last complete walk saw them (polled). A status once seen for a project goes to 0.";
    KEY_INFO = Gauge "mongodbatlas_ai_model_api_key_info" ["org_id", "project_id", "api_key_id", "name", "status", "cloud", "geography", "endpoint"]
        "Always 1; what Atlas says of the AI model API key in the members name, status, cloud, geography and endpoint (polled).";
    KEY_CREATED = Gauge "mongodbatlas_ai_model_api_key_created_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "When the AI model API key was created (Atlas member createdAt), in seconds since the Unix epoch (polled).";
    KEY_LAST_USED = Gauge "mongodbatlas_ai_model_api_key_last_used_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "When the AI model API key was last used (Atlas member lastUsedAt), in seconds since the Unix epoch (polled). Absent for a key never used.";
    KEY_LAST_USED_AGE = Gauge "mongodbatlas_ai_model_api_key_last_used_age_seconds" ["org_id", "project_id", "api_key_id"]
        "Seconds from lastUsedAt (Atlas member, polled) to this scrape. Absent for a key never used.";
    KEY_IDLE = Gauge "mongodbatlas_ai_model_api_key_idle_seconds" ["org_id", "project_id", "api_key_id"]
        "Seconds from lastUsedAt, or from createdAt for a key never used (Atlas members, polled), to this scrape.";
    KEY_USED = Gauge "mongodbatlas_ai_model_api_key_used" ["org_id", "project_id", "api_key_id"]
        "1 if the AI model API key was ever used, that is if Atlas member lastUsedAt is set, else 0 (polled).";
    KEY_EXEMPT_UNTIL = Gauge "mongodbatlas_ai_model_api_key_exempt_until_timestamp_seconds" ["org_id", "project_id", "api_key_id"]
        "Unix timestamp of the end of the AI model API key's exemption (configuration file, exemptions).";
    KEYS_IDLE = Gauge "mongodbatlas_ai_model_api_keys_idle" ["org_id", "project_id", "threshold"]
        "Number of enabled AI model API keys, used at least once and not exempt, that have been idle for at least the threshold (lastUsedAt of the Atlas API, polled).";
    KEYS_NEVER_USED = Gauge "mongodbatlas_ai_model_api_keys_never_used" ["org_id", "project_id", "threshold"]
        "Number of enabled AI model API keys, never used and not exempt, that were created at least the threshold ago (createdAt of the Atlas API, polled).";
    KEYS_DISABLED = Gauge "mongodbatlas_ai_model_api_keys_disabled" ["org_id", "project_id", "threshold"]
        "Number of AI model API keys, not enabled, not deleted and not exempt, that have been idle, or never used since their creation, for at least the threshold (Atlas API, polled).";
    KEYS_EXEMPT = Gauge "mongodbatlas_ai_model_api_keys_exempt" ["org_id", "project_id"]
        "Number of AI model API keys with an exemption in force (configuration file, exemptions).";
    KEY_CHANGES = Counter "mongodbatlas_ai_model_api_key_changes_total" ["org_id", "change"]
        "What happened to AI model API keys from one complete walk to the next (polled); revived is used again after the largest idle threshold.";
    LIMIT_REQUESTS = Gauge "mongodbatlas_ai_model_rate_limit_requests_per_minute" ["org_id", "model_group", "cloud", "geography"]
        "The organization's limit of requests a minute for a group of models (Atlas member requestsPerMinuteLimit, polled hourly).";
    LIMIT_TOKENS = Gauge "mongodbatlas_ai_model_rate_limit_tokens_per_minute" ["org_id", "model_group", "cloud", "geography"]
        "The organization's limit of tokens a minute for a group of models (Atlas member tokensPerMinuteLimit, polled hourly).";
    ORG_INFO = Gauge "mongodbatlas_organization_info" ["org_id", "org_name"]
        "Always 1; the organization's name (Atlas member name, polled hourly).";
    PROJECT_INFO = Gauge "mongodbatlas_project_info" ["org_id", "project_id", "project_name", "owner"]
        "Name and owner of the project (Atlas fields name and tags of a group, polled hourly; owners of the configuration file), with the value 1.";

    BUILD_INFO = Gauge "atlas_ai_keys_exporter_build_info" ["version", "revision", "rustversion"]
        "Always 1; what this exporter was built from.";
    ORG_UP = Gauge "atlas_ai_keys_exporter_org_up" ["org_id"]
        "1 if the last walk of the organization was complete, 0 if it failed or none has ended yet.";
    ORG_LAST_POLL_FAILED = Gauge "atlas_ai_keys_exporter_org_last_poll_failed" ["org_id", "reason"]
        "1 for the reason of the last poll of the organization if that poll failed, else 0.";
    ORG_LAST_SUCCESS = Gauge "atlas_ai_keys_exporter_org_last_success_timestamp_seconds" ["org_id"]
        "When the last complete walk of the organization ended, in seconds since the Unix epoch: the age of what is shown. Absent before the first.";
    ORG_LAST_ATTEMPT = Gauge "atlas_ai_keys_exporter_org_last_attempt_timestamp_seconds" ["org_id"]
        "When the last walk of the organization began, in seconds since the Unix epoch. Absent before the first.";
    ORG_POLL_INTERVAL = Gauge "atlas_ai_keys_exporter_org_poll_interval_seconds" ["org_id"]
        "The interval between two walks of the organization that is in force.";
    ORG_POLL_DURATION = Gauge "atlas_ai_keys_exporter_org_poll_duration_seconds" ["org_id"]
        "How long the last walk of the organization took, complete or not. Absent before the first.";
    ORG_POLL_PAGES = Gauge "atlas_ai_keys_exporter_org_poll_pages" ["org_id"]
        "Pages that the last complete walk of the organization has read. Absent before the first.";
    ORG_POLL_FAILURES = Counter "atlas_ai_keys_exporter_org_poll_failures_total" ["org_id", "reason"]
        "Walks of the organization that failed, by reason.";
    ORG_INVENTORY_RESTORED = Gauge "atlas_ai_keys_exporter_org_inventory_restored" ["org_id"]
        "1 if what is shown of the organization comes from storage and was not walked since the start, else 0.";
    API_REQUESTS = Counter "atlas_ai_keys_exporter_api_requests_total" ["endpoint", "code"]
        "Requests to Atlas, by HTTP status, or by the reason of a failure when there was no answer.";
    API_REQUEST_DURATION = Histogram "atlas_ai_keys_exporter_api_request_duration_seconds" ["endpoint"]
        "How long requests to Atlas took, connect to last byte.";
    API_RETRIES = Counter "atlas_ai_keys_exporter_api_retries_total" ["endpoint", "reason"]
        "Requests to Atlas that were sent again, by reason.";
    API_RATE_LIMIT_CAPACITY = Gauge "atlas_ai_keys_exporter_api_rate_limit_capacity" ["endpoint", "org_id"]
        "Size of Atlas' token bucket (response header RateLimit-Limit). Absent until Atlas tells it.";
    API_RATE_LIMIT_REMAINING = Gauge "atlas_ai_keys_exporter_api_rate_limit_remaining" ["endpoint", "org_id"]
        "What was left in Atlas' token bucket at the last answer (response header RateLimit-Remaining). Absent until Atlas tells it.";
    API_THROTTLED = Counter "atlas_ai_keys_exporter_api_throttled_seconds_total" ["endpoint", "org_id"]
        "Time spent waiting because Atlas asked to (Retry-After) or the request budget was spent.";
    TOKEN_EXPIRY = Gauge "atlas_ai_keys_exporter_token_expiry_timestamp_seconds" ["credential"]
        "When the access token in use ends, in seconds since the Unix epoch. Absent for credentials without one, and while Atlas refuses it.";
    TOKEN_REQUESTS = Counter "atlas_ai_keys_exporter_token_requests_total" ["credential", "outcome"]
        "Access tokens that Atlas was asked for, by outcome.";
    CLIENT_SECRET_EXPIRY = Gauge "atlas_ai_keys_exporter_client_secret_expiry_timestamp_seconds" ["credential", "secret_id"]
        "Unix timestamp of the expiry of a client secret of the exporter's own service account (Atlas field expiresAt, polled hourly).";
    CLIENT_SECRET_LAST_USED = Gauge "atlas_ai_keys_exporter_client_secret_last_used_timestamp_seconds" ["credential", "secret_id"]
        "Unix timestamp of the last use of a client secret of the exporter's own service account (Atlas field lastUsedAt, polled hourly). Absent if Atlas reports none.";
    CONFIG_RELOAD_SUCCESSFUL = Gauge "atlas_ai_keys_exporter_config_last_reload_successful" []
        "1 if the last attempt to load the configuration was successful, 0 if it was bad and the one before is still used.";
    CONFIG_RELOAD_SUCCESS = Gauge "atlas_ai_keys_exporter_config_last_reload_success_timestamp_seconds" []
        "When the configuration in use was loaded, in seconds since the Unix epoch.";
    EXEMPTIONS_UNMATCHED = Gauge "atlas_ai_keys_exporter_exemptions_unmatched" []
        "Number of exemptions of the configuration file that match no AI model API key.";
    STORAGE_FAILURES = Counter "atlas_ai_keys_exporter_storage_failures_total" []
        "Attempts to keep what was read for the next start that failed, most likely for want of room or rights on the disk.";
    KEYS_DROPPED = Gauge "atlas_ai_keys_exporter_keys_dropped" ["org_id"]
        "Keys left out of the per-key series, wholly or in part: those without an id, with a date that cannot be read, or past the number that may have series.";
    NAMES_TRUNCATED = Gauge "atlas_ai_keys_exporter_names_truncated" ["org_id"]
        "Number of keys whose names exceed 250 characters and were truncated.";
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
