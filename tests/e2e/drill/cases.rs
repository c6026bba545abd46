//! The cases of the drill: the cause, the alerts that the cause raises, and the repair.

use mongodb_atlas_sim::Scenario;

use super::instance::Step;

/// Alerts that any realistic population raises: keys are idle, created and used again.
pub(super) const HYGIENE_ALERTS: [&str; 9] = [
    "AtlasAiKeysStale",
    "AtlasAiKeysNeverUsed",
    "AtlasAiKeysDisabledNotDeleted",
    "AtlasAiKeysRevived",
    "AtlasAiKeyStale",
    "AtlasAiKeyNeverUsed",
    "AtlasAiKeyRevived",
    "AtlasAiKeyCreated",
    "AtlasAiKeyWentQuiet",
];

/// The case in which the target disappears. It has a separate Prometheus, because its alert is about all targets.
pub(super) const ABSENT: &str = "absent";

pub(super) struct DrillCase {
    pub(super) name: &'static str,
    pub(super) scenario: Scenario,
    pub(super) keys: usize,
    /// Content of the configuration file, without the poll interval.
    pub(super) config: &'static str,
    /// Steps that cause the alerts, in addition to the scenario.
    pub(super) cause: &'static [Step],
    /// Steps that repair the cause.
    pub(super) repair: &'static [Step],
    pub(super) expected: &'static [&'static str],
    /// Alerts that may follow if the cause lasts long enough.
    pub(super) allowed: &'static [&'static str],
}

/// A calm Atlas with few keys.
const CALM: DrillCase = DrillCase {
    name: "calm",
    scenario: Scenario::Calm,
    keys: 60,
    config: "",
    cause: &[],
    repair: &[],
    expected: &[],
    allowed: &[],
};

/// The scenarios of the simulated Atlas, and faults of the exporter itself.
pub(super) const DRILL_CASES: [DrillCase; 14] = [
    CALM,
    DrillCase {
        name: "stale",
        scenario: Scenario::Stale,
        keys: 300,
        repair: &[Step::Config(
            "exemptions: [{name: '*', reason: end of the drill, until: 2999-12-31}]\n",
        )],
        expected: &[
            "AtlasAiKeysStale",
            "AtlasAiKeysNeverUsed",
            "AtlasAiKeysDisabledNotDeleted",
            "AtlasAiKeyStale",
            "AtlasAiKeyNeverUsed",
        ],
        ..CALM
    },
    DrillCase {
        name: "outage",
        scenario: Scenario::Outage,
        // A new process, because requests wait for the Retry-After of the last response.
        repair: &[Step::EndFaults, Step::StartWithoutState],
        expected: &["AtlasOrgPollFailing", "AtlasOrgDataStale"],
        ..CALM
    },
    DrillCase {
        name: "throttled",
        scenario: Scenario::Throttled,
        keys: 900,
        repair: &[Step::PollInterval("10m")],
        expected: &["AtlasRequestBudgetTooSmall"],
        ..CALM
    },
    DrillCase {
        name: "revoked",
        scenario: Scenario::Revoked,
        repair: &[Step::EndFaults],
        expected: &[
            "AtlasOrgAccessDenied",
            "AtlasTokenTrouble",
            "AtlasOrgDataStale",
        ],
        ..CALM
    },
    DrillCase {
        name: "churn",
        scenario: Scenario::Churn,
        keys: 1200,
        repair: &[Step::StopEvents, Step::KeepKeys(500)],
        expected: &[
            "AtlasAiKeysChurn",
            "AtlasAiKeysTooMany",
            "AtlasAiKeysRevived",
            "AtlasAiKeyRevived",
            "AtlasAiKeyCreated",
        ],
        allowed: &["AtlasRequestBudgetTooSmall"],
        ..CALM
    },
    DrillCase {
        name: "expiring",
        scenario: Scenario::Expiring,
        repair: &[Step::RenewClientSecret, Step::StartWithoutState],
        expected: &["AtlasClientSecretExpiring"],
        ..CALM
    },
    DrillCase {
        name: "quiet",
        cause: &[Step::StopUse],
        repair: &[Step::UseKey],
        expected: &["AtlasAiKeyWentQuiet"],
        ..CALM
    },
    DrillCase {
        name: "cut",
        config: "metrics: {max_keys: 10}\n",
        repair: &[Step::Config("")],
        expected: &["AtlasAiKeysDropped"],
        ..CALM
    },
    DrillCase {
        name: "unmatched",
        config: "exemptions: [{key: none, reason: drill, until: 2999-12-31}]\n",
        repair: &[Step::Config("")],
        expected: &["AtlasExemptionUnmatched"],
        ..CALM
    },
    DrillCase {
        name: "config",
        cause: &[Step::WebConfig("nonsense: 1\n")],
        repair: &[Step::WebConfig("{}\n")],
        expected: &["AtlasAiKeysConfigBad"],
        ..CALM
    },
    DrillCase {
        name: "disk",
        cause: &[Step::BlockStorage],
        repair: &[Step::UnblockStorage],
        expected: &["AtlasAiKeysStorageFailing"],
        ..CALM
    },
    DrillCase {
        name: "down",
        // The alert about the invalid configuration fires first, so that AtlasAiKeysExporterDown inhibits it.
        cause: &[Step::WebConfig("nonsense: 1\n"), Step::KillAfterBadReload],
        repair: &[Step::WebConfig("{}\n"), Step::Start],
        expected: &["AtlasAiKeysExporterDown"],
        allowed: &["AtlasAiKeysConfigBad", "AtlasOrgDataStale"],
        ..CALM
    },
    DrillCase {
        name: ABSENT,
        cause: &[Step::RemoveTarget],
        repair: &[Step::AddTarget],
        expected: &["AtlasAiKeysExporterAbsent"],
        allowed: &["AtlasOrgDataStale"],
        ..CALM
    },
];
