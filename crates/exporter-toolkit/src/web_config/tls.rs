//! Parses `tls_server_config`: certificates, versions, cipher suites and curves, with their names in Go. Values that rustls
//! does not support are errors.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, ServerConfig, SupportedProtocolVersion};

use super::client_auth::{ClientAuthType, ClientVerifier, new_chain_verifier};
use super::reader::{ConfigReader, Field, PemSource, truncate};

/// The TLS settings of a listener.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) config: Arc<ServerConfig>,
    pub(super) is_tls13_only: bool,
    pub(super) client_verifier: Option<Arc<ClientVerifier>>,
}

/// The fields that do not enable TLS.
const OPTION_KEYS: [&str; 6] = [
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
];

/// The fields that enable TLS: without all of them, TLS is disabled, as in the exporter-toolkit.
const ENABLING_KEYS: [&str; 7] = [
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_auth_type",
    "client_ca",
    "client_ca_file",
];

/// Parses the section. `http2` enables HTTP/2.
pub(super) fn parse_tls_server(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    http2: bool,
) -> Option<TlsSettings> {
    let fields = reader.mapping(section, &[&ENABLING_KEYS[..], &OPTION_KEYS].concat());
    let provider = Arc::new(parse_provider(reader, section));
    let versions = parse_versions(reader, section);
    let ignore_client_order = reader.boolean(&section.get("prefer_server_cipher_suites"), true);
    let client_verifier = parse_client_auth(reader, section, &provider);
    if !ENABLING_KEYS.iter().any(|key| section.get(key).is_set()) {
        if !fields.is_empty() {
            let path = &section.path;
            let text = format!("{path} without a certificate: TLS is disabled");
            reader.warn("", text);
        }
        return None;
    }
    let certificate = require_pem(reader, section, "cert");
    let key = require_pem(reader, section, "key");
    let chain = certificate
        .as_ref()
        .map(|source| parse_chain(reader, source));
    let key = key.map(|source| parse_private_key(reader, &source));
    let (certificate, chain, key) = (certificate?, chain??, key??);
    let Ok(builder) =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)
    else {
        let text = "no cipher suite for the allowed TLS versions: clients could not connect";
        reader.add_error(&section.get("cipher_suites").path, text);
        return None;
    };
    let builder = match &client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier) as _),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| {
            // rustls' message contains nothing of the key.
            let message = format!("certificate cannot be used with this key: {error}");
            let help = "use the private key of this certificate (ECDSA P-256 or P-384, Ed25519, or RSA with at least 2048 bits)";
            reader.reject(&certificate.path, message, help);
        })
        .ok()?;
    config.ignore_client_order = ignore_client_order;
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    if client_verifier.is_some() {
        // A resumed session is not verified again, although the certificate may have expired in the meantime.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Some(TlsSettings {
        config: Arc::new(config),
        is_tls13_only: !versions.contains(&&TLS12),
        client_verifier,
    })
}

/// Returns the PEM of a certificate or a key. Adds an error if it is not set.
fn require_pem(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    name: &str,
) -> Option<PemSource> {
    let source = reader.pem_source(section, name);
    let file = format!("{name}_file");
    if !section.get(name).is_set() && !section.get(&file).is_set() {
        let message = format!("missing one of {name} or {file}");
        reader.add_error(&section.path, message);
    }
    source
}

fn parse_chain(
    reader: &mut ConfigReader<'_>,
    source: &PemSource,
) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&source.bytes).collect();
    let certificates = certificates.ok().filter(|chain| !chain.is_empty());
    if certificates.is_none() {
        let message = "no certificate found: expected PEM with BEGIN CERTIFICATE";
        reader.add_error(&source.path, message);
    }
    certificates
}

fn parse_private_key(
    reader: &mut ConfigReader<'_>,
    source: &PemSource,
) -> Option<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(&source.bytes).ok();
    if key.is_none() {
        let message = "no private key found: expected PEM with BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or \
                       BEGIN RSA PRIVATE KEY, without a passphrase";
        reader.add_error(&source.path, message);
    }
    key
}

/// Parses the fields about client certificates. Returns `None` if no certificate is requested, or after an error.
fn parse_client_auth(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    provider: &Arc<CryptoProvider>,
) -> Option<Arc<ClientVerifier>> {
    let field = section.get("client_auth_type");
    let errors = reader.errors.len();
    let auth_type = reader.choice(&field, &ClientAuthType::NAMES, ClientAuthType::NoCert);
    if reader.errors.len() > errors {
        return None;
    }
    let sans = section.get("client_allowed_sans");
    let allowed_sans = reader.strings(&sans);
    if allowed_sans.is_some() && !auth_type.is_required() {
        let message =
            "requires client_auth_type RequireAnyClientCert or RequireAndVerifyClientCert";
        let help = "other types accept clients without a certificate";
        reader.reject(&sans.path, message, help);
    }
    if allowed_sans.as_ref().is_some_and(Vec::is_empty) {
        reader.add_error(&sans.path, "expected at least one name, got an empty list");
    }
    let source = reader.pem_source(section, "client_ca");
    if auth_type == ClientAuthType::NoCert {
        if source.is_some() {
            let message = "client_ca is set, but no client certificate is requested";
            let help = "set client_auth_type to RequireAndVerifyClientCert";
            reader.reject(&field.path, message, help);
        }
        return None;
    }
    let has_own_authority = source.is_some() && auth_type.verifies();
    let (authorities, path) = match source {
        Some(source) => (parse_chain(reader, &source)?, source.path),
        None if auth_type.verifies() => {
            let message = "client_ca is not set: client certificates of every CA that this system trusts are accepted";
            reader.warn(&field.path, message);
            let certificates = rustls_native_certs::load_native_certs().certs;
            (certificates, "the system's trusted certificates".to_owned())
        }
        None => (Vec::new(), field.path),
    };
    let verifier = auth_type
        .verifies()
        .then(|| new_chain_verifier(&authorities, provider));
    let chain_verifier = verifier
        .transpose()
        .map_err(|message| reader.add_error(&path, message))
        .ok()?;
    let allowed_sans = allowed_sans.unwrap_or_default();
    Some(Arc::new(ClientVerifier {
        auth_type,
        chain_verifier,
        authorities,
        has_own_authority,
        allowed_sans: allowed_sans.into_iter().map(str::to_owned).collect(),
        algorithms: provider.signature_verification_algorithms,
    }))
}

fn parse_versions(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
) -> Vec<&'static SupportedProtocolVersion> {
    let known = [("TLS12", &TLS12), ("TLS13", &TLS13)];
    let min = reader.choice(&section.get("min_version"), &known, &TLS12);
    let max_field = section.get("max_version");
    let max = reader.choice(&max_field, &known, &TLS13);
    if (min, max) == (&TLS13, &TLS12) {
        let text = "lower than min_version: clients could not connect";
        reader.add_error(&max_field.path, text);
    }
    let mut versions = vec![min, max];
    versions.dedup();
    versions
}

/// Returns the algorithms of rustls that the section allows.
fn parse_provider(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let all = &provider.cipher_suites;
    let mut suites = select(reader, &section.get("cipher_suites"), all, |suite| {
        format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
    });
    if !suites.is_empty() {
        // As in Go, the list applies to TLS 1.2; the suites of TLS 1.3 cannot be disabled.
        for suite in all {
            let is_tls13 = suite.version().version == ProtocolVersion::TLSv1_3;
            if is_tls13 && !suites.contains(suite) {
                suites.push(*suite);
            }
        }
        provider.cipher_suites = suites;
    }
    let all = &provider.kx_groups;
    let groups = select(reader, &section.get("curve_preferences"), all, |group| {
        let name = format!("{:?}", group.name()).replace("secp", "CurveP");
        name.trim_end_matches("r1").to_owned()
    });
    if !groups.is_empty() {
        provider.kx_groups = groups;
    }
    provider
}

/// Returns the supported items of a list of Go names, in the order of the list. Adds an error for each other name.
fn select<T: Copy>(
    reader: &mut ConfigReader<'_>,
    field: &Field<'_>,
    supported: &[T],
    go_name: impl Fn(&T) -> String,
) -> Vec<T> {
    let mut selected = Vec::new();
    for name in reader.strings(field).unwrap_or_default() {
        if let Some(item) = supported.iter().find(|item| go_name(item) == name) {
            selected.push(*item);
        } else {
            let names: Vec<String> = supported.iter().map(&go_name).collect();
            let message = format!(
                "unsupported value {:?}: expected one of {}",
                truncate(name),
                names.join(", ")
            );
            reader.add_error(&field.path, message);
        }
    }
    selected
}
