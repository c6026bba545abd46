//! Drill of all alerts: a simulated Atlas for each case, a Prometheus that evaluates the rules of both files, and an
//! Alertmanager that receives the alerts. Each alert must fire in its case and in no other, and resolve after the repair.
//! `make drill` also runs the drill with events at normal speed, and prints the table.

mod alert_monitor;
mod cases;
mod first_hour;
mod instance;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use mongodb_atlas_sim::SimConfig;

use alert_monitor::{Alert, Alertmanager, RuleEvaluator, Target, dashboards};
use cases::{ABSENT, DRILL_CASES, DrillCase, HYGIENE_ALERTS};
use instance::{DrillInstance, Step};

/// Times at which an alert of a case fired and resolved, since the start of the phase.
#[derive(Default, Clone, Copy)]
struct AlertTimes {
    fired: Option<Duration>,
    resolved: Option<Duration>,
    was_inhibited: bool,
}

type TimesByAlert = BTreeMap<(String, &'static str), AlertTimes>;

/// Returns the name of the case that an alert belongs to.
fn case_of_alert(alert: &Alert, instances: &[DrillInstance]) -> &'static str {
    let label = |name: &str| alert.labels.get(name).map(String::as_str);
    if label("drill") == Some(ABSENT) {
        return ABSENT;
    }
    // The alert has no label of the exporter. Only this case has a client secret that expires.
    if label("alertname") == Some("AtlasClientSecretExpiring") {
        return "expiring";
    }
    let is_of = |instance: &&DrillInstance| {
        label("instance") == Some(instance.name)
            || label("org_id").is_some_and(|org| instance.orgs.contains(org))
    };
    let instance = instances.iter().find(is_of);
    instance
        .unwrap_or_else(|| panic!("an alert of no case: {:?}", alert.labels))
        .name
}

/// Returns whether an alert reports a key that the population stopped using, instead of the key of the drill.
fn is_of_other_key(alert: &Alert, instances: &[DrillInstance]) -> bool {
    let key = alert.labels.get("api_key_id");
    alert.labels["alertname"] == "AtlasAiKeyWentQuiet"
        && instances.iter().all(|it| it.used_key.as_ref() != key)
}

/// Formats one row for each expected alert of a case, and for each alert that the case must not raise.
fn format_table(times: &TimesByAlert) -> String {
    let mut text = String::from(
        "| alert | case | fires after | resolves after |\n| --- | --- | --- | --- |\n",
    );
    let mut rows: Vec<(&str, &'static str)> = Vec::new();
    for case in &DRILL_CASES {
        rows.extend(case.expected.iter().map(|alert| (*alert, case.name)));
    }
    for (alert, case) in times.keys() {
        let is_allowed = |it: &DrillCase| {
            HYGIENE_ALERTS.contains(&alert.as_str())
                || [it.expected, it.allowed].concat().contains(&alert.as_str())
        };
        if !DRILL_CASES
            .iter()
            .any(|it| it.name == *case && is_allowed(it))
        {
            rows.push((alert, case));
        }
    }
    rows.sort_unstable();
    for (alert, name) in rows {
        let is_expected = DRILL_CASES
            .iter()
            .any(|case| case.name == name && case.expected.contains(&alert));
        let times = times.get(&(alert.to_owned(), name));
        let times = times.copied().unwrap_or_default();
        let seconds = |time: Option<Duration>| time.map(|time| format!("{} s", time.as_secs()));
        let fired = match seconds(times.fired) {
            Some(fired) if is_expected => fired,
            Some(fired) => format!("UNEXPECTED: {fired}"),
            None => "MISSING".to_owned(),
        };
        let resolved = seconds(times.resolved).unwrap_or_else(|| "UNRESOLVED".to_owned());
        let _ = writeln!(text, "| {alert} | {name} | {fired} | {resolved} |");
    }
    text
}

/// Time that Prometheus scrapes before a cause; longer than any window of the rules that ends at the cause.
const HISTORY: Duration = Duration::from_secs(18);
/// Number of scrapes of each exporter before a cause.
const HISTORY_SCRAPES: u64 = 17;

/// The default rules and the optional per-key rules.
const RULE_FILES: [&str; 2] = ["atlas-ai-keys.yml", "atlas-ai-keys-per-key.yml"];

/// Returns the names of all alerts of both files.
fn all_alerts() -> BTreeSet<String> {
    let rules =
        RULE_FILES.map(|file| std::fs::read_to_string(dashboards("rules").join(file)).unwrap());
    let names = rules.iter().flat_map(|rules| rules.lines());
    let names =
        names.filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("alert: "));
    names
        .map(|name| name.trim_matches('"').to_owned())
        .collect()
}

/// A running drill.
struct Drill {
    instances: Vec<DrillInstance>,
    alertmanager: Alertmanager,
    evaluator: RuleEvaluator,
    absent_evaluator: RuleEvaluator,
    times: TimesByAlert,
}

impl Drill {
    async fn start(speed: f64) -> Self {
        let mut instances = Vec::new();
        for (number, case) in (0..).zip(&DRILL_CASES) {
            let sim = SimConfig {
                scenario: case.scenario,
                keys: case.keys,
                speed,
                ..SimConfig::default()
            };
            let mut instance = DrillInstance::start(number, case.name, sim, case.config).await;
            if case.cause.iter().any(|step| matches!(step, Step::StopUse)) {
                instance.apply(Step::UseKey);
            }
            instances.push(instance);
        }
        let config = first_hour::alertmanager_config("http://127.0.0.1:9/", 120);
        let alertmanager = Alertmanager::start(&config);
        let (absent, others) = by_evaluator(&instances);
        let absent_evaluator = RuleEvaluator::start(ABSENT, &RULE_FILES, &alertmanager, &absent);
        let evaluator = RuleEvaluator::start("others", &RULE_FILES, &alertmanager, &others);
        Self {
            instances,
            alertmanager,
            evaluator,
            absent_evaluator,
            times: TimesByAlert::new(),
        }
    }

    async fn wait_scraped(&self) {
        let (absent, others) = by_evaluator(&self.instances);
        for (evaluator, targets) in [(&self.evaluator, others), (&self.absent_evaluator, absent)] {
            evaluator.wait_scraped(targets.len(), HISTORY_SCRAPES).await;
        }
    }

    /// Applies the selected steps of each case.
    fn apply(&mut self, steps: impl Fn(&DrillCase) -> &'static [Step]) {
        for (case, instance) in DRILL_CASES.iter().zip(&mut self.instances) {
            for step in steps(case) {
                instance.apply(*step);
            }
        }
        let (absent, others) = by_evaluator(&self.instances);
        self.absent_evaluator.set_targets(&absent);
        self.evaluator.set_targets(&others);
    }

    /// Observes the alerts until `is_complete` returns true and `extra` has passed, or until the timeout.
    async fn observe(
        &mut self,
        timeout: Duration,
        extra: Duration,
        is_repair: bool,
        is_complete: impl Fn(&TimesByAlert) -> bool,
    ) {
        let started_at = Instant::now();
        let mut completed_at = None;
        while started_at.elapsed() < timeout {
            let mut firing = BTreeSet::new();
            for alert in self.alertmanager.alerts().await {
                // Before its first scrape, each Prometheus reports that no exporter exists.
                let is_start = alert.labels["alertname"] == "AtlasAiKeysExporterAbsent"
                    && alert.labels["drill"] != ABSENT;
                if is_start || is_of_other_key(&alert, &self.instances) {
                    continue;
                }
                let key = (
                    alert.labels["alertname"].clone(),
                    case_of_alert(&alert, &self.instances),
                );
                let times = self.times.entry(key.clone()).or_default();
                times.fired.get_or_insert_with(|| started_at.elapsed());
                times.was_inhibited |= alert.is_inhibited;
                firing.insert(key);
            }
            if is_repair {
                for (key, times) in &mut self.times {
                    if firing.contains(key) {
                        times.resolved = None;
                    } else {
                        times.resolved.get_or_insert_with(|| started_at.elapsed());
                    }
                }
            }
            let is_over = is_complete(&self.times);
            if is_over && completed_at.get_or_insert_with(Instant::now).elapsed() >= extra {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Returns the targets of the Prometheus of the absent exporter, and those of the other one.
fn by_evaluator(instances: &[DrillInstance]) -> (Vec<Target>, Vec<Target>) {
    let targets = instances.iter().filter(|instance| instance.is_target);
    let targets = targets.map(|it| (it.address.clone(), it.name.to_owned()));
    targets.partition(|(_, name)| name == ABSENT)
}

/// Returns whether `condition` holds for every expected alert of every case.
fn all_expected(times: &TimesByAlert, condition: impl Fn(&AlertTimes) -> bool) -> bool {
    DRILL_CASES.iter().all(|case| {
        let times = |alert: &&str| times.get(&((*alert).to_owned(), case.name));
        case.expected
            .iter()
            .all(|alert| times(alert).is_some_and(&condition))
    })
}

async fn run_drill(speed: f64, timeout: Duration) {
    let alerts = all_alerts();
    let expected = DRILL_CASES.iter().flat_map(|case| case.expected);
    let expected: BTreeSet<String> = expected.map(|alert| (*alert).to_owned()).collect();
    assert_eq!(alerts, expected, "each alert has a case");
    let mut drill = Drill::start(speed).await;
    // Scenarios start immediately. Some rules compare with the time before the cause.
    drill
        .observe(HISTORY, Duration::ZERO, false, |_| false)
        .await;
    drill.wait_scraped().await;
    drill.apply(|case| case.cause);
    // Unexpected alerts need time to fire, too.
    let extra = Duration::from_secs(6);
    let has_fired = |times: &TimesByAlert| all_expected(times, |it| it.fired.is_some());
    drill.observe(timeout, extra, false, has_fired).await;
    drill.apply(|case| case.repair);
    let has_resolved = |times: &TimesByAlert| all_expected(times, |it| it.resolved.is_some());
    drill
        .observe(timeout, Duration::ZERO, true, has_resolved)
        .await;
    let table = format_table(&drill.times);
    println!("\nTime to fire / time to resolve after the repair, in seconds:\n\n{table}");
    assert!(
        ["MISSING", "UNEXPECTED", "UNRESOLVED"]
            .iter()
            .all(|word| !table.contains(word)),
        "\n{table}"
    );
    for (case, alert) in [
        ("down", "AtlasAiKeysConfigBad"),
        ("revoked", "AtlasAiKeysDisabledNotDeleted"),
    ] {
        let times = drill.times.get(&(alert.to_owned(), case));
        assert!(
            times.is_some_and(|it| it.was_inhibited),
            "{alert} was not inhibited in the case {case}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_fires_in_its_case_and_resolves_after_the_repair() {
    run_drill(20.0, Duration::from_mins(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make drill` runs it"]
async fn each_alert_fires_and_resolves_in_real_time() {
    run_drill(1.0, Duration::from_mins(10)).await;
}
