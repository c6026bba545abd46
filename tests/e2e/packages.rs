//! Packages: the Debian package is installed, started, upgraded, removed and purged in a separate Debian root.
use std::path::Path;
use std::process::Command;

use crate::common::systemd::{SERVICE, STATE_DIR, SystemdContainer};
use crate::common::{
    Scrape, error_fault, expected_sim_keys, exposed_keys, free_port, get, run_command, static_sim,
};
use mongodb_atlas_sim::SimEndpoint;

fn repo_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds the package of the tested binary with the given version, in `folder`.
fn build_package(version: &str, folder: &Path) {
    let mut command = Command::new(repo_root().join("packages/deb"));
    command
        .arg(env!("CARGO_BIN_EXE_atlas-ai-keys-exporter"))
        .arg(folder)
        .arg(version)
        // Strong compression of a debug build would take half a minute.
        .envs([
            ("DPKG_DEB_COMPRESSOR_TYPE", "gzip"),
            ("DPKG_DEB_COMPRESSOR_LEVEL", "1"),
            ("DEBEMAIL", "maintainer@debian.org"),
        ]);
    let (code, output, error) = run_command(&mut command, &[]);
    assert_eq!(code, Some(0), "{output}{error}");
    let made = output
        .lines()
        .find_map(|line| line.split('\'').nth(3))
        .unwrap();
    std::fs::rename(made, folder.join(format!("{version}.deb"))).unwrap();
}

async fn scrape(address: &str) -> Scrape {
    let (status, text) = get(&format!("http://{address}/metrics")).await;
    assert_eq!(status, 200);
    Scrape::parse(&text)
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_package_installs_upgrades_and_purges() {
    let sim = crate::common::start_sim(static_sim(2, 120)).await;
    let account = sim.credentials();
    let given = tempfile::tempdir().unwrap();
    for version in ["0.1.0-1", "0.1.1-1"] {
        build_package(version, given.path());
    }
    let debian = repo_root().join("target/debian-root");
    assert!(
        debian.exists(),
        "{} does not exist: `make programs` creates it",
        debian.display()
    );
    let systemd = SystemdContainer::boot_root(&debian, given);
    let file = |path: &str| systemd.exec(&["test", "-e", path]).0 == Some(0);
    // Installed: the service is not started, because nothing is configured yet.
    let output = systemd.exec_ok(&["dpkg", "-i", "/run/given/0.1.0-1.deb"]);
    assert!(output.contains("set MONGODB_ATLAS_ORG_ID in"), "{output}");
    assert_eq!(systemd.property("ActiveState"), "inactive");
    assert_eq!(systemd.property("UnitFileState"), "disabled");
    systemd.exec_ok(&[
        "systemd-analyze",
        "verify",
        "--man=no",
        SERVICE,
        "atlas-ai-keys-exporter.socket",
        "atlas-ai-keys-report.service",
        "atlas-ai-keys-report.timer",
    ]);
    let version = systemd.exec_ok(&["atlas-ai-keys-exporter", "--version"]);
    assert!(version.contains("0.1.0"), "{version}");
    let listed = systemd.exec_ok(&["dpkg", "-L", "atlas-ai-keys-exporter"]);
    for path in [
        "/usr/share/man/man1/atlas-ai-keys-exporter.1.gz",
        "/usr/share/bash-completion/completions/atlas-ai-keys-exporter",
        "/usr/share/zsh/vendor-completions/_atlas-ai-keys-exporter",
        "/usr/share/fish/vendor_completions.d/atlas-ai-keys-exporter.fish",
        "/usr/share/atlas-ai-keys-exporter/dashboards/fleet.json",
        "/usr/share/atlas-ai-keys-exporter/rules/atlas-ai-keys.yml",
        "/usr/share/atlas-ai-keys-exporter/rules/atlas-ai-keys-per-key.yml",
        "/usr/share/atlas-ai-keys-exporter/alertmanager.example.yml",
        // The alerts' `runbook_url`.
        "/usr/share/doc/atlas-ai-keys-exporter/runbooks/AtlasAiKeysStale.md",
        "/usr/share/doc/atlas-ai-keys-exporter/copyright",
    ] {
        assert!(listed.lines().any(|line| line == path), "{path}: {listed}");
    }
    let conffiles =
        systemd.exec_ok(&["cat", "/var/lib/dpkg/info/atlas-ai-keys-exporter.conffiles"]);
    assert_eq!(
        conffiles,
        "/etc/atlas-ai-keys-exporter/config.yml\n/etc/default/atlas-ai-keys-exporter\n"
    );
    // Configured and started.
    let address = format!("127.0.0.1:{}", free_port());
    let environment = "/etc/default/atlas-ai-keys-exporter";
    let expected = format!(
        "MONGODB_ATLAS_BASE_URL={}\nMONGODB_ATLAS_ORG_ID={}\nATLAS_AI_KEYS_EXPORTER_WEB_LISTEN_ADDRESS={address}\n",
        sim.base_url(),
        sim.org_ids().join(",")
    );
    systemd.write_secret(environment, &expected);
    systemd.exec_ok(&["mkdir", "-p", "/etc/credstore"]);
    for (name, secret) in [
        ("client-id", &account.client_id),
        ("client-secret", &account.client_secret),
    ] {
        systemd.write_secret(
            &format!("/etc/credstore/atlas-ai-keys-exporter.{name}"),
            secret,
        );
    }
    systemd.systemctl(&["enable", "--now", SERVICE]);
    systemd.wait_property("StatusText", |text| text.starts_with("fresh 2"));
    assert_eq!(
        scrape(&address).await.sum("mongodbatlas_ai_model_api_keys"),
        120.0
    );
    // The report reads the state of the exporter as the same user, while the exporter runs.
    systemd.systemctl(&["start", "atlas-ai-keys-report.service"]);
    let report = systemd.exec_ok(&[
        "journalctl",
        "--no-pager",
        "--output=cat",
        "--unit=atlas-ai-keys-report.service",
    ]);
    assert!(report.contains("| Owner | Keys | Never used |"), "{report}");
    assert!(report.contains("of 120 keys, as of "), "{report}");
    systemd.systemctl(&["reload", SERVICE]);
    systemd.wait_journal("configuration reloaded");
    // Upgraded while Atlas is down: restarted, with configuration and stored inventories.
    for endpoint in [SimEndpoint::Token, SimEndpoint::AiModelApiKeys] {
        sim.add_fault(error_fault(endpoint, None, 500));
    }
    let before = scrape(&address).await;
    let pid = systemd.property("MainPID");
    systemd.exec_ok(&["dpkg", "-i", "--force-confdef", "/run/given/0.1.1-1.deb"]);
    assert_ne!(systemd.property("MainPID"), pid);
    assert_eq!(systemd.property("ActiveState"), "active");
    assert_eq!(systemd.property("UnitFileState"), "enabled");
    assert_eq!(systemd.exec_ok(&["cat", environment]), expected);
    let installed = [
        "dpkg-query",
        "-W",
        "-f",
        "${Version}",
        "atlas-ai-keys-exporter",
    ];
    assert_eq!(systemd.exec_ok(&installed), "0.1.1-1");
    let restored = scrape(&address).await;
    let journal = systemd.journal();
    assert_eq!(
        restored.values("atlas_ai_keys_exporter_org_inventory_restored"),
        [1.0; 2],
        "{journal}"
    );
    assert_eq!(
        exposed_keys(&restored),
        expected_sim_keys(&sim),
        "{journal}"
    );
    let success = "atlas_ai_keys_exporter_org_last_success_timestamp_seconds";
    assert_eq!(restored.values(success), before.values(success));
    assert!(file(STATE_DIR));
    sim.clear_faults();
    // Removed: stopped; configuration and state are still there.
    systemd.exec_ok(&["dpkg", "-r", "atlas-ai-keys-exporter"]);
    assert!(
        crate::common::try_get_status(&format!("http://{address}/-/healthy"))
            .await
            .is_none()
    );
    assert!(!file("/usr/bin/atlas-ai-keys-exporter") && file(environment));
    assert!(file("/var/lib/private/atlas-ai-keys-exporter"));
    assert_eq!(sim.live_token_count(), 0);
    // Purged.
    systemd.exec_ok(&["dpkg", "-P", "atlas-ai-keys-exporter"]);
    let left = systemd.exec_ok(&[
        "sh",
        "-c",
        "find / -xdev -name '*atlas-ai-keys*' -not -path '/proc/*' -not -path '/sys/*'",
    ]);
    let left: Vec<&str> = left
        .lines()
        .filter(|path| !path.starts_with("/etc/credstore/"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    sim.stop().await;
}

/// Grafana's provisioning reads the folder into which the packages put the dashboards.
#[test]
fn provisioning_path_is_where_the_packages_put_dashboards() {
    let read = |path: &str| std::fs::read_to_string(repo_root().join(path)).unwrap();
    let provisioning = read("dashboards/provisioning.yml");
    let path = "/usr/share/atlas-ai-keys-exporter/dashboards";
    assert!(provisioning.contains(&format!("path: {path}\n")));
    let rpm = format!("{{ source = \"dashboards/*.json\", dest = \"{path}/\"");
    assert!(read("Cargo.toml").contains(&rpm));
    let deb = read("packages/deb");
    assert!(
        deb.contains("share=/usr/share/atlas-ai-keys-exporter "),
        "{deb}"
    );
    assert!(
        deb.contains("install_files 644 $share/dashboards dashboards/*.json"),
        "{deb}"
    );
}
