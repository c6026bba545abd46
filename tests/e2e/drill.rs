//! The fire drill: the simulated Atlas plays every situation, with a real Prometheus that evaluates
//! the rules and a real Alertmanager that gets the alerts. Each alert has to be seen where it
//! belongs, and nowhere else. `make drill` runs it in real time, and shows the table.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{ChildProcess, Scrape, free_port, get, run_command};
use serde_json::Value;
use tempfile::TempDir;

/// What any living population has: some keys are idle.
const HYGIENE_ALERTS: [&str; 4] = [
    "AtlasAiKeyStale",
    "AtlasAiKeyNeverUsed",
    "AtlasAiKeyInactive",
    "AtlasAiKeyRevived",
];

/// What is done to an exporter once it runs.
#[derive(Clone, Copy)]
enum InjectedFault {
    Nothing,
    /// The process ends.
    Ends,
    /// Its web configuration becomes nonsense.
    BadConfiguration,
    /// There is a file where its state should go.
    NoStorage,
}

struct DrillCase {
    name: &'static str,
    scenario: &'static str,
    flags: &'static [&'static str],
    trouble: InjectedFault,
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
        trouble: InjectedFault::Nothing,
        expected,
    }
}

const fn fault_case(
    name: &'static str,
    flags: &'static [&'static str],
    trouble: InjectedFault,
    expected: &'static [&'static str],
) -> DrillCase {
    DrillCase {
        name,
        scenario: "calm",
        flags,
        trouble,
        expected,
    }
}

/// The scenarios of the simulated Atlas, and what happens to an exporter without Atlas' doing.
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

/// A running exporter of one situation.
struct DrillInstance {
    program: Option<ChildProcess>,
    address: String,
    folder: TempDir,
    orgs: BTreeSet<String>,
}

impl DrillInstance {
    async fn start(number: usize, situation: &DrillCase, speed: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("web.yml"), "{}\n").unwrap();
        let [web, storage] =
            ["web.yml", "state"].map(|name| folder.path().join(name).display().to_string());
        let mut arguments = vec![
            "demo".to_owned(),
            "--web.listen-address=127.0.0.1:0".to_owned(),
            format!("--web.config.file={web}"),
            format!("--storage.path={storage}"),
            format!("--sim.scenario={}", situation.scenario),
            // organizations of its own
            format!("--sim.seed={}", number + 1),
            "--sim.orgs=1".to_owned(),
            format!("--sim.speed={speed}"),
            "--atlas.poll-interval=1s".to_owned(),
        ];
        arguments.extend(situation.flags.iter().map(|flag| (*flag).to_owned()));
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

    fn inject(&mut self, trouble: InjectedFault) {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        match trouble {
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

/// Prometheus and Alertmanager, with the configuration of `dashboards/drill`.
struct AlertMonitor {
    _alertmanager: ChildProcess,
    _prometheus: ChildProcess,
    _folder: TempDir,
    alerts: String,
}

impl AlertMonitor {
    fn start(players: &[DrillInstance]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let shorten = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/drill/shorten");
        let (code, rules, error) = run_command(
            &mut Command::new(shorten),
            read_repo_file("rules/atlas-ai-keys.yml").as_bytes(),
        );
        assert_eq!(code, Some(0), "{error}");
        assert!(rules.matches("for: 3s").count() > 15 && !rules.contains("for: 15m"));
        std::fs::write(path("rules.yml"), rules).unwrap();
        std::fs::write(
            path("alertmanager.yml"),
            read_repo_file("drill/alertmanager.yml"),
        )
        .unwrap();
        let (alertmanager, prometheus) = (free_port(), free_port());
        let target = "      - targets: ['127.0.0.1:10064']\n";
        let mut targets = String::new();
        for (player, situation) in players.iter().zip(&DRILL_CASES) {
            let _ = write!(
                targets,
                "      - targets: ['{}']\n        labels: {{instance: {}}}\n",
                player.address, situation.name
            );
        }
        let config = read_repo_file("drill/prometheus.yml");
        assert!(config.contains(target));
        let config = config
            .replace(target, &targets)
            .replace("127.0.0.1:19093", &format!("127.0.0.1:{alertmanager}"))
            .replace("_interval: 5s", "_interval: 1s");
        std::fs::write(path("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!(
                "--config.file={}",
                path("alertmanager.yml").display()
            ))
            .arg(format!("--storage.path={}", path("alertmanager").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{alertmanager}"))
            .arg("--cluster.listen-address=");
        let mut manager = ChildProcess::start(command);
        manager.wait_for_output("Listening on");
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.yml").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{prometheus}"));
        let mut server = ChildProcess::start(command);
        server.wait_for_output("Server is ready to receive web requests");
        Self {
            _alertmanager: manager,
            _prometheus: server,
            _folder: folder,
            alerts: format!("http://127.0.0.1:{alertmanager}/api/v2/alerts"),
        }
    }

    /// What Alertmanager has now: the labels of each alert.
    async fn alerts(&self) -> Vec<BTreeMap<String, String>> {
        let (status, text) = get(&self.alerts).await;
        assert_eq!(status, 200, "{text}");
        let alerts: Vec<Value> = serde_json::from_str(&text).unwrap();
        alerts
            .iter()
            .map(|alert| {
                for annotation in ["summary", "description", "runbook_url"] {
                    let text = alert["annotations"][annotation]
                        .as_str()
                        .unwrap_or_default();
                    assert!(
                        !text.is_empty()
                            && !text.contains("<no value>")
                            && !text.contains("error expanding"),
                        "{alert}"
                    );
                }
                serde_json::from_value(alert["labels"].clone()).unwrap()
            })
            .collect()
    }
}

/// When each alert was first seen in each situation.
type AlertTimes = BTreeMap<(String, &'static str), Duration>;

fn case_of_alert(alert: &BTreeMap<String, String>, players: &[DrillInstance]) -> &'static str {
    let named = DRILL_CASES.iter().zip(players).find(|(situation, player)| {
        alert.get("instance").map(String::as_str) == Some(situation.name)
            || alert
                .get("org_id")
                .is_some_and(|org| player.orgs.contains(org))
    });
    let Some((situation, _)) = named else {
        panic!("nobody's: {alert:?}")
    };
    situation.name
}

fn format_table(seen: &AlertTimes, alerts: &BTreeSet<String>) -> String {
    let mut text = String::from("| alert |");
    for situation in &DRILL_CASES {
        let _ = write!(text, " {} |", situation.name);
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(DRILL_CASES.len()));
    for alert in alerts {
        let _ = write!(text, "\n| {alert} |");
        for situation in &DRILL_CASES {
            let expected = situation.expected.contains(&alert.as_str());
            let cell = match (seen.get(&(alert.clone(), situation.name)), expected) {
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

/// Every alert that the rules have.
fn all_alerts() -> BTreeSet<String> {
    let rules = read_repo_file("rules/atlas-ai-keys.yml");
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

async fn run_drill(speed: &str, patience: Duration) {
    let alerts = all_alerts();
    let expected: BTreeSet<String> = DRILL_CASES
        .iter()
        .flat_map(|situation| situation.expected)
        .map(|alert| (*alert).to_owned())
        .collect();
    assert_eq!(alerts, expected, "each alert is expected somewhere");
    let mut players = Vec::new();
    for (number, situation) in DRILL_CASES.iter().enumerate() {
        players.push(DrillInstance::start(number, situation, speed).await);
    }
    let control = AlertMonitor::start(&players);
    let begun = Instant::now();
    // Prometheus has to have seen that all was well
    tokio::time::sleep(Duration::from_secs(6)).await;
    for (player, situation) in players.iter_mut().zip(&DRILL_CASES) {
        player.inject(situation.trouble);
    }
    let mut seen = AlertTimes::new();
    let mut complete = None;
    while begun.elapsed() < patience {
        for alert in control.alerts().await {
            let key = (alert["alertname"].clone(), case_of_alert(&alert, &players));
            seen.entry(key).or_insert_with(|| begun.elapsed());
        }
        let all = DRILL_CASES.iter().all(|situation| {
            situation
                .expected
                .iter()
                .all(|alert| seen.contains_key(&((*alert).to_owned(), situation.name)))
        });
        // what should not come has its time to come as well
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
