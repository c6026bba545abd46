//! Fire drill: the simulated Atlas plays every scenario, with a Prometheus that evaluates
//! the rules and an Alertmanager that receives the alerts. Each alert must fire in its
//! scenario and in no other. `make drill` runs in real time and prints the table.

mod alert_monitor;

use alert_monitor::AlertMonitor;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{ChildProcess, Scrape, get};
use tempfile::TempDir;

/// Alerts of any realistic population: some keys are idle.
const HYGIENE_ALERTS: [&str; 4] = [
    "AtlasAiKeyStale",
    "AtlasAiKeyNeverUsed",
    "AtlasAiKeyInactive",
    "AtlasAiKeyRevived",
];

/// Fault injected into a running exporter.
#[derive(Clone, Copy)]
enum InjectedFault {
    Nothing,
    /// The process is killed.
    Ends,
    /// Its web configuration becomes invalid.
    BadConfiguration,
    /// A file is at the path of its state directory.
    NoStorage,
}

struct DrillCase {
    name: &'static str,
    scenario: &'static str,
    flags: &'static [&'static str],
    fault: InjectedFault,
    expected: &'static [&'static str],
}

const fn scenario_case(
    name: &'static str,
    flags: &'static [&'static str],
    expected: &'static [&'static str],
) -> DrillCase {
    DrillCase {
        name,
        scenario: name,
        flags,
        fault: InjectedFault::Nothing,
        expected,
    }
}

const fn fault_case(
    name: &'static str,
    flags: &'static [&'static str],
    fault: InjectedFault,
    expected: &'static [&'static str],
) -> DrillCase {
    DrillCase {
        name,
        scenario: "calm",
        flags,
        fault,
        expected,
    }
}

/// The scenarios of the simulated Atlas, and faults of the exporter itself.
const DRILL_CASES: [DrillCase; 10] = [
    scenario_case("calm", &["--sim.keys=60"], &[]),
    scenario_case(
        "stale",
        &["--sim.keys=300"],
        &[
            "AtlasAiKeyStale",
            "AtlasAiKeyNeverUsed",
            "AtlasAiKeyInactive",
        ],
    ),
    scenario_case(
        "outage",
        &["--sim.keys=60"],
        &["AtlasOrgUnreachable", "AtlasOrgTruthOld"],
    ),
    scenario_case(
        "throttled",
        &["--sim.keys=900"],
        &["AtlasRequestBudgetExhausted"],
    ),
    scenario_case(
        "revoked",
        &["--sim.keys=60"],
        &["AtlasOrgRefused", "AtlasTokenTrouble", "AtlasOrgTruthOld"],
    ),
    scenario_case(
        "churn",
        &["--sim.keys=1200"],
        &[
            "AtlasAiKeysChurn",
            "AtlasAiKeysTooMany",
            "AtlasAiKeyRevived",
        ],
    ),
    fault_case(
        "cut",
        &["--sim.keys=60", "--metrics.max-keys=10"],
        InjectedFault::Nothing,
        &["AtlasAiKeysDropped"],
    ),
    fault_case(
        "config",
        &["--sim.keys=60"],
        InjectedFault::BadConfiguration,
        &["AtlasAiKeysExporterConfigBad"],
    ),
    fault_case(
        "disk",
        &["--sim.keys=60"],
        InjectedFault::NoStorage,
        &["AtlasAiKeysExporterStorageFailing"],
    ),
    fault_case(
        "down",
        &["--sim.keys=60"],
        InjectedFault::Ends,
        &["AtlasAiKeysExporterDown"],
    ),
];

fn read_repo_file(path: &str) -> String {
    std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("dashboards")
            .join(path),
    )
    .unwrap()
}

/// A running exporter of one case.
struct DrillInstance {
    program: Option<ChildProcess>,
    address: String,
    folder: TempDir,
    orgs: BTreeSet<String>,
}

impl DrillInstance {
    async fn start(number: usize, case: &DrillCase, speed: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web.yml"), "{}\n").unwrap();
        let [web, storage] =
            ["web.yml", "state"].map(|name| folder.path().join(name).display().to_string());
        let mut arguments = vec![
            "demo".to_owned(),
            "--web.listen-address=127.0.0.1:0".to_owned(),
            format!("--web.config.file={web}"),
            format!("--storage.path={storage}"),
            format!("--sim.scenario={}", case.scenario),
            // Each exporter polls different organizations.
            format!("--sim.seed={}", number + 1),
            "--sim.orgs=1".to_owned(),
            format!("--sim.speed={speed}"),
            "--atlas.poll-interval=1s".to_owned(),
        ];
        arguments.extend(case.flags.iter().map(|flag| (*flag).to_owned()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut program = ChildProcess::exporter(&arguments, &[]);
        let address = program.wait_for_output("address=");
        program.wait_for_output("walk complete");
        let scrape = Scrape::parse(&get(&format!("http://{address}/metrics")).await.1);
        let orgs = scrape
            .with_name("atlas_ai_keys_exporter_org_up")
            .map(|series| series.labels["org_id"].clone());
        Self {
            orgs: orgs.collect(),
            program: Some(program),
            address,
            folder,
        }
    }

    fn inject(&mut self, fault: InjectedFault) {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        match fault {
            InjectedFault::Nothing => {}
            InjectedFault::Ends => self.program = None,
            InjectedFault::BadConfiguration => {
                std::fs::write(path("web.yml"), "nonsense: 1\n").unwrap();
            }
            InjectedFault::NoStorage => {
                std::fs::rename(path("state"), path("elsewhere")).unwrap();
                std::fs::write(path("state"), "").unwrap();
            }
        }
    }
}

/// First time of each alert in each case.
type AlertTimes = BTreeMap<(String, &'static str), Duration>;

fn case_of_alert(alert: &BTreeMap<String, String>, instances: &[DrillInstance]) -> &'static str {
    let named = DRILL_CASES.iter().zip(instances).find(|(case, instance)| {
        alert.get("instance").map(String::as_str) == Some(case.name)
            || alert
                .get("org_id")
                .is_some_and(|org| instance.orgs.contains(org))
    });
    let Some((case, _)) = named else {
        panic!("nobody's: {alert:?}")
    };
    case.name
}

fn format_table(seen: &AlertTimes, alerts: &BTreeSet<String>) -> String {
    let mut text = String::from("| alert |");
    for case in &DRILL_CASES {
        let _ = write!(text, " {} |", case.name);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(DRILL_CASES.len()));
    for alert in alerts {
        let _ = write!(text, "\n| {alert} |");
        for case in &DRILL_CASES {
            let expected = case.expected.contains(&alert.as_str());
            let cell = match (seen.get(&(alert.clone(), case.name)), expected) {
                (Some(after), true) => format!("**{} s**", after.as_secs()),
                (Some(after), false) if HYGIENE_ALERTS.contains(&alert.as_str()) => {
                    format!("{} s", after.as_secs())
                }
                (Some(after), false) => format!("UNEXPECTED after {} s", after.as_secs()),
                (None, true) => "MISSING".to_owned(),
                (None, false) => String::new(),
            };
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
    text
}

/// Returns the names of all alerts.
fn all_alerts() -> BTreeSet<String> {
    let rules = read_repo_file("rules/atlas-ai-keys.yml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

async fn run_drill(speed: &str, timeout: Duration) {
    let alerts = all_alerts();
    let expected: BTreeSet<String> = DRILL_CASES
        .iter()
        .flat_map(|case| case.expected)
        .map(|alert| (*alert).to_owned())
        .collect();
    assert_eq!(alerts, expected, "each alert is expected somewhere");
    let mut instances = Vec::new();
    for (number, case) in DRILL_CASES.iter().enumerate() {
        instances.push(DrillInstance::start(number, case, speed).await);
    }
    let control = AlertMonitor::start(&instances);
    let started_at = Instant::now();
    control.wait_scraped().await;
    for (instance, case) in instances.iter_mut().zip(&DRILL_CASES) {
        instance.inject(case.fault);
    }
    let mut seen = AlertTimes::new();
    let mut complete = None;
    while started_at.elapsed() < timeout {
        for alert in control.alerts().await {
            let key = (
                alert["alertname"].clone(),
                case_of_alert(&alert, &instances),
            );
            seen.entry(key).or_insert_with(|| started_at.elapsed());
        }
        let all = DRILL_CASES.iter().all(|case| {
            case.expected
                .iter()
                .all(|alert| seen.contains_key(&((*alert).to_owned(), case.name)))
        });
        // Unexpected alerts get time to fire as well.
        if all && complete.get_or_insert_with(Instant::now).elapsed() > Duration::from_secs(10) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let table = format_table(&seen, &alerts);
    println!("\nExpected alerts in bold, with the time until Alertmanager had them:\n\n{table}");
    assert!(
        !table.contains("MISSING") && !table.contains("UNEXPECTED"),
        "\n{table}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alert_fires_only_in_its_case() {
    run_drill("20", Duration::from_mins(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; `make drill` runs it"]
async fn each_alert_fires_in_real_time() {
    run_drill("1", Duration::from_mins(10)).await;
}
