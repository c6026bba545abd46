//! A simulated Atlas and an exporter that polls it, and the steps that break and repair them.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::ToSpan as _;
use mongodb_atlas_sim::{SimConfig, SimHandle, World};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::common::{ChildProcess, free_port, sim_env};

/// One change of a running case.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// Kills the exporter after Prometheus has seen that it could not load its web configuration.
    KillAfterBadReload,
    /// Starts the exporter.
    Start,
    /// Starts a new exporter without the stored state.
    StartWithoutState,
    /// Writes the configuration file, without the poll interval.
    Config(&'static str),
    /// Writes the configuration file, with this poll interval.
    PollInterval(&'static str),
    /// Writes the web configuration file.
    WebConfig(&'static str),
    /// Replaces the state directory by a file.
    BlockStorage,
    /// Restores the state directory.
    UnblockStorage,
    /// Ends the faults of the scenario, and replaces the client secret: a changed secret is retried immediately.
    EndFaults,
    /// Ends the events of the simulated Atlas.
    StopEvents,
    /// Deletes all keys except for the given number.
    KeepKeys(usize),
    /// Extends the expiry of the client secrets.
    RenewClientSecret,
    /// Uses one key repeatedly, until `StopUse`.
    UseKey,
    /// Stops using the key.
    StopUse,
    /// Removes the exporter from the targets of Prometheus.
    RemoveTarget,
    /// Adds the exporter to the targets of Prometheus again.
    AddTarget,
}

/// The simulated Atlas and the exporter of a case.
pub(super) struct DrillInstance {
    pub(super) name: &'static str,
    pub(super) address: String,
    pub(super) orgs: BTreeSet<String>,
    pub(super) is_target: bool,
    sim: Arc<SimHandle>,
    exporter: Option<ChildProcess>,
    folder: TempDir,
    /// The key that `UseKey` uses.
    pub(super) used_key: Option<String>,
    usage: Option<DropGuard>,
}

impl DrillInstance {
    pub(super) async fn start(
        number: u64,
        name: &'static str,
        sim: SimConfig,
        config: &'static str,
    ) -> Self {
        let sim = SimConfig {
            // Another seed creates other organizations.
            seed: number + 1,
            orgs: 1,
            ..sim
        };
        let sim = crate::common::start_sim(sim).await;
        let mut instance = Self {
            name,
            address: format!("127.0.0.1:{}", free_port()),
            orgs: sim.org_ids().into_iter().collect(),
            is_target: true,
            sim: Arc::new(sim),
            exporter: None,
            folder: tempfile::tempdir().unwrap(),
            used_key: None,
            usage: None,
        };
        let secret = instance.sim.credentials().client_secret;
        instance.write("client-secret", &secret);
        instance.apply(Step::WebConfig("{}\n"));
        instance.apply(Step::Config(config));
        instance.apply(Step::Start);
        instance
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file of the exporter, readable by its owner.
    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    fn write_config(&self, interval: &str, text: &str) {
        self.write(
            "config.yml",
            &format!("atlas:\n  poll_interval: {interval}\n{text}"),
        );
    }

    pub(super) fn apply(&mut self, step: Step) {
        match step {
            Step::KillAfterBadReload => {
                let mut exporter = self.exporter.take().unwrap();
                exporter.wait_for_output("web configuration reload failed");
                // Prometheus needs two scrapes to see the failed reload.
                std::thread::sleep(Duration::from_secs(2));
            }
            Step::Start => self.exporter = Some(self.start_exporter()),
            Step::StartWithoutState => {
                self.exporter = None;
                std::fs::remove_dir_all(self.path("state")).unwrap();
                self.exporter = Some(self.start_exporter());
            }
            Step::Config(text) => self.write_config("1s", text),
            Step::PollInterval(interval) => self.write_config(interval, ""),
            Step::WebConfig(text) => self.write("web.yml", text),
            Step::BlockStorage => {
                std::fs::rename(self.path("state"), self.path("elsewhere")).unwrap();
                std::fs::write(self.path("state"), "").unwrap();
            }
            Step::UnblockStorage => {
                std::fs::remove_file(self.path("state")).unwrap();
                std::fs::rename(self.path("elsewhere"), self.path("state")).unwrap();
            }
            Step::EndFaults => {
                self.sim.clear_faults();
                let secret = "mdb_sa_sk_of_the_drill";
                let next = Some(secret.to_owned());
                self.sim.with_credentials(|it| it.next_client_secret = next);
                self.write("client-secret", secret);
            }
            Step::StopEvents => self.sim.with_world(World::stop_events),
            Step::KeepKeys(number) => self.sim.with_world(|world| {
                for org in world.org_ids() {
                    let ids = world
                        .keys(&org)
                        .iter()
                        .skip(number)
                        .map(|key| key.id.clone());
                    for id in ids.collect::<Vec<_>>() {
                        assert!(world.delete_key(&org, &id));
                    }
                }
            }),
            Step::RenewClientSecret => {
                let end = self.sim.now() + (300 * 24).hours();
                self.sim.with_service_account(|account| {
                    account
                        .secrets
                        .iter_mut()
                        .for_each(|secret| secret.expires = end);
                });
            }
            Step::UseKey => self.start_usage(),
            Step::StopUse => self.usage = None,
            Step::RemoveTarget => self.is_target = false,
            Step::AddTarget => self.is_target = true,
        }
    }

    fn start_exporter(&self) -> ChildProcess {
        let [config, web, storage, secret] = ["config.yml", "web.yml", "state", "client-secret"]
            .map(|name| self.path(name).display().to_string());
        let arguments = [
            format!("--web.listen-address={}", self.address),
            format!("--config.file={config}"),
            format!("--web.config.file={web}"),
            format!("--storage.path={storage}"),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut variables = sim_env(&self.sim);
        variables.retain(|(name, _)| name != "MONGODB_ATLAS_CLIENT_SECRET");
        variables.push(("MONGODB_ATLAS_CLIENT_SECRET_FILE".to_owned(), secret));
        let mut exporter = ChildProcess::exporter(&arguments, &variables);
        exporter.wait_for_output("address=");
        exporter
    }

    /// Uses the first key a few times each second. Other events end, so that the key is not deleted.
    fn start_usage(&mut self) {
        let (sim, stop) = (Arc::clone(&self.sim), CancellationToken::new());
        let stopped = stop.clone();
        let (org, key) = sim.with_world(|world| {
            world.stop_events();
            let org = world.org_ids().remove(0);
            let key = world.keys(&org)[0].id.clone();
            (org, key)
        });
        self.used_key = Some(key.clone());
        tokio::spawn(async move {
            let use_key = async {
                loop {
                    assert!(sim.with_world(|world| world.mark_used(&org, &key)));
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
            };
            stopped.run_until_cancelled(use_key).await;
        });
        self.usage = Some(stop.drop_guard());
    }
}
