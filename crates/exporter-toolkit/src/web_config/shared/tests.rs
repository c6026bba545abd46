use std::sync::OnceLock;

use super::*;

struct SimulatedClock {
    epoch: Duration,
    started_at: Instant,
}

/// Returns the current time of a clock that advances with tokio's clock.
fn simulated_now() -> UnixTime {
    static CLOCK: OnceLock<SimulatedClock> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| SimulatedClock {
        epoch: Duration::from_secs(UnixTime::now().as_secs()),
        started_at: Instant::now(),
    });
    UnixTime::since_unix_epoch(clock.epoch + clock.started_at.elapsed())
}

#[tokio::test(start_paused = true)]
async fn connections_close_when_the_client_certificate_expires() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(directory.path().join(name), text).expect("written");
    };
    let authority = || {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
    };
    let key = || rcgen::KeyPair::generate().expect("a key");
    let ca_key = key();
    let ca = authority().self_signed(&ca_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority(), ca_key);
    let started_seconds = simulated_now().as_secs();
    let issue = |lifetime: Duration| {
        let mut params =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let not_after = Duration::from_secs(started_seconds) + lifetime;
        params.not_after = (std::time::UNIX_EPOCH + not_after).into();
        let key = key();
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        (certificate, key)
    };
    let (server, server_key) = issue(Duration::from_hours(1));
    write("ca.pem", &ca.pem());
    write("server.pem", &server.pem());
    write("server.key", &server_key.serialize_pem());
    write(
        "web.yml",
        "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n",
    );
    let loaded = WebConfig::load(&directory.path().join("web.yml"));
    let mut shared = SharedWebConfig::new(loaded.config.expect("a valid file"));
    shared.now = simulated_now;
    let rejected_within = async |lifetime, time| {
        let (client, _) = issue(lifetime);
        let client = [client.der().clone()];
        let rejected = shared.client_rejected(Some(&client));
        tokio::time::timeout(time, rejected).await.is_ok()
    };
    let minutes = Duration::from_mins;
    assert!(!rejected_within(minutes(60), minutes(10)).await);
    assert!(rejected_within(minutes(15), minutes(6)).await);
    assert!(
        rejected_within(minutes(1), minutes(1)).await,
        "expired long ago"
    );
}
