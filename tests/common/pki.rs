//! Certificates, keys and web configurations in a temporary directory.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};
use reqwest::{Certificate, Client, ClientBuilder, Identity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

/// A web configuration with the server certificate of [`TestPki`].
pub const TLS_CONFIG: &str =
    "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

/// Returns the bcrypt hash of a password, at the lowest cost.
pub fn bcrypt_hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

/// Indents a text for a YAML block scalar at nesting depth two.
pub fn indent(text: &str) -> String {
    let mut block = String::new();
    for line in text.lines() {
        block.push_str("    ");
        block.push_str(line);
        block.push('\n');
    }
    block
}

/// A directory with `ca.pem` and these certificates and keys: `server` and `client` (issued by that CA), `stranger`
/// (issued by another CA), `expired`, and `self` (self-signed, as by `openssl req -x509`). For servers at 127.0.0.1 or
/// `atlas.invalid`: `atlas`, and with one fault each `atlas-stranger`, `atlas-expired`, `atlas-misnamed`, `atlas-self`.
pub struct TestPki {
    dir: TempDir,
}

fn ca_params(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

impl Default for TestPki {
    fn default() -> Self {
        Self::new()
    }
}

impl TestPki {
    pub fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        pki.renew();
        pki
    }

    /// Issues all certificates again.
    pub fn renew(&self) {
        let (ca, ca_key) = ca_params("Example CA");
        let (other, other_key) = ca_params("Another CA");
        self.write("ca.pem", &ca.self_signed(&ca_key).unwrap().pem());
        let (ca, other) = (Issuer::new(ca, ca_key), Issuer::new(other, other_key));
        let mut server =
            CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue("server", &server, &ca);
        let client = client_params();
        self.issue("client", &client, &ca);
        self.issue("stranger", &client, &other);
        let mut expired = client.clone();
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.issue("expired", &expired, &ca);
        let mut own = client;
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        own.distinguished_name.push(DnType::CommonName, "self");
        let key = KeyPair::generate().unwrap();
        self.write("self.pem", &own.self_signed(&key).unwrap().pem());
        self.write("self.key", &key.serialize_pem());
        self.issue_atlas(&ca, &other);
    }

    /// Issues the certificates of servers in the role of Atlas.
    fn issue_atlas(&self, ca: &Issuer<'_, KeyPair>, other: &Issuer<'_, KeyPair>) {
        let server = |names: [&str; 2]| {
            let mut params = CertificateParams::new(names.map(str::to_owned)).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params
        };
        let atlas = server(["atlas.invalid", "127.0.0.1"]);
        self.issue("atlas", &atlas, ca);
        self.issue("atlas-stranger", &atlas, other);
        let mut expired = atlas.clone();
        expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
        self.issue("atlas-expired", &expired, ca);
        let misnamed = server(["cloud.example", "127.0.0.2"]);
        self.issue("atlas-misnamed", &misnamed, ca);
        let key = KeyPair::generate().unwrap();
        let certificate = atlas.self_signed(&key).unwrap();
        self.write("atlas-self.pem", &certificate.pem());
        self.write("atlas-self.key", &key.serialize_pem());
    }

    fn issue(&self, name: &str, params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        self.write(&format!("{name}.pem"), &certificate.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Replaces a file atomically.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    /// Writes a web configuration and returns the flag for it.
    pub fn web_config_flag(&self, text: &str) -> String {
        format!(
            "--web.config.file={}",
            self.write("web.yml", text).display()
        )
    }

    /// Returns a client that trusts the CA.
    pub fn client(&self) -> ClientBuilder {
        super::install_crypto_provider();
        let ca = Certificate::from_pem(self.read("ca.pem").as_bytes()).unwrap();
        Client::builder().no_proxy().tls_certs_only([ca])
    }

    /// Returns a connector that trusts the CA and offers one ALPN protocol.
    pub fn connector(&self, protocol: &[u8]) -> TlsConnector {
        super::install_crypto_provider();
        let ca = CertificateDer::from_pem_slice(self.read("ca.pem").as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// Returns a client that also has a client certificate.
    pub fn client_with(&self, name: &str) -> ClientBuilder {
        let pem = self.read(&format!("{name}.pem")) + &self.read(&format!("{name}.key"));
        self.client()
            .identity(Identity::from_pem(pem.as_bytes()).unwrap())
    }
}

fn client_params() -> CertificateParams {
    let mut client =
        CertificateParams::new(vec!["client.example".into(), "10.1.2.3".into()]).unwrap();
    client.distinguished_name.push(DnType::CommonName, "client");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let names = [
        SanType::Rfc822Name("ada@client.example".try_into().unwrap()),
        SanType::URI("spiffe://example/client".try_into().unwrap()),
    ];
    client.subject_alt_names.extend(names);
    client
}
