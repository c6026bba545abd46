//! Parses `tls_server_config`: certificates, versions, cipher suites and curves, by their names in Go. What rustls does
//! not support is rejected by name.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ProtocolVersion, ServerConfig, SupportedProtocolVersion};

use super::client_auth::{ClientAuthType, ClientVerifier, TrustedCertificates};
use super::reader::{ConfigReader, Field, PemSource, truncate};

/// TLS settings of a listener.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) config: Arc<ServerConfig>,
    is_tls13_only: bool,
    client_verifier: Option<Arc<ClientVerifier>>,
}

impl TlsSettings {
    /// Returns the names of the fields whose protection `new` lacks.
    pub(super) fn weakened_by(&self, new: &Self) -> Vec<&'static str> {
        let mut lost = Vec::new();
        if self.is_tls13_only && !new.is_tls13_only {
            lost.push("tls_server_config.min_version");
        }
        if let Some(verifier) = &self.client_verifier {
            lost.extend(verifier.weakened_by(new.client_verifier.as_deref()));
        }
        lost
    }

    /// Returns whether a client with these certificates, its own first, may open a connection now.
    pub(super) fn admits(&self, certificates: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let verifier = self.client_verifier.as_ref();
        verifier.is_none_or(|verifier| verifier.admits(certificates, now))
    }
}

/// Options of TLS where it is enabled.
const OPTION_KEYS: [&str; 6] = [
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
];

/// Fields without which TLS is disabled, as in the exporter-toolkit.
const ENABLING_KEYS: [&str; 7] = [
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_auth_type",
    "client_ca",
    "client_ca_file",
];

/// Parses the section; `http2` is whether HTTP/2 is offered.
pub(super) fn parse_tls_server(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    http2: bool,
) -> Option<TlsSettings> {
    let fields = reader.mapping(section, &[&ENABLING_KEYS[..], &OPTION_KEYS].concat());
    let provider = Arc::new(parse_provider(reader, section));
    let versions = parse_versions(reader, section);
    let ignore_client_order = reader.boolean(&section.get("prefer_server_cipher_suites"), true);
    let is_enabled = ENABLING_KEYS.iter().any(|key| section.get(key).is_set());
    if !is_enabled {
        let _ = parse_client_auth(reader, section, &provider);
        if !fields.is_empty() {
            let path = &section.path;
            let text = format!("{path} names no certificate: everything is served in the clear");
            reader.warn("", text);
        }
        return None;
    }
    let identity = parse_identity(reader, section);
    let client_verifier = parse_client_auth(reader, section, &provider);
    let (identity, versions, client_verifier) = (identity?, versions?, client_verifier.ok()?);
    let Ok(builder) =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(&versions)
    else {
        let text = "none of them fits the versions that are allowed, so that nobody could connect";
        reader.add_error(&section.get("cipher_suites").path, text);
        return None;
    };
    let builder = match &client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier) as _),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| {
            // rustls' message repeats nothing of the key.
            let message = format!("it cannot be used with its key: {error}");
            let help = "the key must be the certificate's, ECDSA (P-256, P-384), Ed25519, or RSA from 2048 bits";
            reader.reject(&identity.path, message, help);
        })
        .ok()?;
    config.ignore_client_order = ignore_client_order;
    if http2 {
        config.alpn_protocols.push(b"h2".to_vec());
    }
    config.alpn_protocols.push(b"http/1.1".to_vec());
    if client_verifier.is_some() {
        // A resumed session is not verified again, although the certificate may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Some(TlsSettings {
        config: Arc::new(config),
        is_tls13_only: !versions.contains(&&TLS12),
        client_verifier,
    })
}

/// The server's certificate chain and its key.
struct Identity {
    /// Path of the field or file of the chain.
    path: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn parse_identity(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> Option<Identity> {
    let certificate = require_pem(reader, section, "cert");
    let key = require_pem(reader, section, "key");
    let chain = certificate
        .as_ref()
        .map(|source| parse_chain(reader, source));
    let key = key.map(|source| parse_private_key(reader, &source));
    Some(Identity {
        path: certificate?.path,
        chain: chain??,
        key: key??,
    })
}

/// Returns the PEM of a certificate or a key, which must be set.
fn require_pem(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    name: &str,
) -> Option<PemSource> {
    let source = reader.pem_source(section, name);
    let file = format!("{name}_file");
    if !section.get(name).is_set() && !section.get(&file).is_set() {
        let help = format!("{file} or {name} must be there for TLS");
        reader.reject(&section.get(name).path, "it is missing", help);
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
        let help = "it must be PEM with BEGIN CERTIFICATE";
        reader.reject(&source.path, "it holds no certificate", help);
    }
    certificates
}

fn parse_private_key(
    reader: &mut ConfigReader<'_>,
    source: &PemSource,
) -> Option<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(&source.bytes).ok();
    if key.is_none() {
        let help = "it must be PEM with BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY, \
                    and without a passphrase";
        reader.reject(&source.path, "it holds no private key", help);
    }
    key
}

/// The field is invalid, and the error is added to the reader.
struct Invalid;

/// Parses the fields about client certificates; `None` where clients are not asked for one.
fn parse_client_auth(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<ClientVerifier>>, Invalid> {
    let field = section.get("client_auth_type");
    let text = reader.string(&field).unwrap_or("NoClientCert");
    let Some(auth_type) = ClientAuthType::from_name(text) else {
        let names = ClientAuthType::NAMES.map(|(name, _)| name).join(", ");
        reader.reject_value(&field, text, format!("one of {names}"));
        return Err(Invalid);
    };
    let sans = section.get("client_allowed_sans");
    let allowed_sans = reader.strings(&sans);
    if allowed_sans.is_some() && !auth_type.is_required() {
        reader.add_error(&sans.path, "client_auth_type must be RequireAnyClientCert or RequireAndVerifyClientCert with it, or clients without a certificate would be let in");
        return Err(Invalid);
    }
    if allowed_sans.as_ref().is_some_and(Vec::is_empty) {
        reader.add_error(&sans.path, "it is empty, and must name somebody");
        return Err(Invalid);
    }
    let source = reader.pem_source(section, "client_ca");
    if auth_type == ClientAuthType::NoCert {
        if source.is_none() {
            return Ok(None);
        }
        let message = "it asks for no certificate, and there is a client CA";
        let help = "it must be RequireAndVerifyClientCert to check with it";
        reader.reject(&field.path, message, help);
        return Err(Invalid);
    }
    let is_configured = source.is_some();
    let (certificates, path) = match source {
        Some(source) => (parse_chain(reader, &source).ok_or(Invalid)?, source.path),
        None if auth_type.verifies() => {
            let message = "there is no client_ca, so every certificate authority that this system trusts can let clients in";
            reader.warn(&field.path, message);
            let certificates = rustls_native_certs::load_native_certs().certs;
            (certificates, "the system's trusted certificates".to_owned())
        }
        None => (Vec::new(), field.path),
    };
    let trusted = TrustedCertificates {
        certificates,
        is_configured,
    };
    let allowed_sans = allowed_sans.unwrap_or_default();
    let allowed_sans = allowed_sans.into_iter().map(str::to_owned).collect();
    ClientVerifier::new(auth_type, trusted, allowed_sans, Arc::clone(provider))
        .map(|verifier| Some(Arc::new(verifier)))
        .map_err(|message| {
            reader.add_error(&path, message);
            Invalid
        })
}

fn parse_versions(
    reader: &mut ConfigReader<'_>,
    section: &Field<'_>,
) -> Option<Vec<&'static SupportedProtocolVersion>> {
    let max_field = section.get("max_version");
    let min = parse_version(reader, &section.get("min_version"), &TLS12);
    let max = parse_version(reader, &max_field, &TLS13);
    let (min, max) = (min?, max?);
    if (min, max) == (&TLS13, &TLS12) {
        let text = "it is below min_version, so that nobody could connect";
        reader.add_error(&max_field.path, text);
        return None;
    }
    let mut versions = vec![min, max];
    versions.dedup();
    Some(versions)
}

fn parse_version(
    reader: &mut ConfigReader<'_>,
    field: &Field<'_>,
    default: &'static SupportedProtocolVersion,
) -> Option<&'static SupportedProtocolVersion> {
    match reader.string(field) {
        None => Some(default),
        Some("TLS12") => Some(&TLS12),
        Some("TLS13") => Some(&TLS13),
        Some(old @ ("TLS10" | "TLS11")) => {
            let text = format!("{old} cannot be had here, being broken");
            reader.reject(&field.path, text, "it must be TLS12 or TLS13");
            None
        }
        Some(text) => {
            reader.reject_value(field, text, "TLS12 or TLS13");
            None
        }
    }
}

/// Returns the algorithms of rustls that the section allows.
fn parse_provider(reader: &mut ConfigReader<'_>, section: &Field<'_>) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let all = &provider.cipher_suites;
    let mut suites = select(reader, &section.get("cipher_suites"), all, |suite| {
        format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
    });
    if !suites.is_empty() {
        // As in Go, the list is for TLS 1.2: the suites of TLS 1.3 cannot be disabled.
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

/// Returns the items that a list names by their names in Go, in the order of the list.
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
            let message = format!("{:?} cannot be had here", truncate(name));
            let help = format!("it must be one of {}", names.join(", "));
            reader.reject(&field.path, message, help);
        }
    }
    selected
}
