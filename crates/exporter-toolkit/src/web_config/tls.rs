//! `tls_server_config`: certificates, versions, cipher suites and curves, by the names that Go has
//! for them. What rustls cannot do is refused by name.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{
    NamedGroup, ProtocolVersion, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    version,
};

use super::client_auth::{ClientAuthType, ClientVerifier};
use super::reader::{ConfigReader, PemSource, join_path, truncate};
use crate::yaml::YamlValue;

/// How connections are encrypted.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) config: Arc<ServerConfig>,
    /// The lowest version of TLS: 2 or 3.
    min_version: u8,
    client_verifier: Option<Arc<ClientVerifier>>,
}

impl TlsSettings {
    /// The protections that `new` lacks, by the names of their fields.
    pub(super) fn weakened_by(&self, new: &Self) -> Vec<&'static str> {
        let mut lost = Vec::new();
        if new.min_version < self.min_version {
            lost.push("tls_server_config.min_version");
        }
        if let Some(clients) = &self.client_verifier {
            lost.extend(clients.weakened_by(new.client_verifier.as_deref()));
        }
        lost
    }

    /// Whether a client with these certificates, its own first, may open a connection now.
    pub(super) fn admits(&self, certificates: &[CertificateDer<'static>], now: UnixTime) -> bool {
        let clients = self.client_verifier.as_ref();
        clients.is_none_or(|clients| clients.admits(certificates, now))
    }
}

fn field<'n>(node: Option<&'n YamlValue>, name: &str) -> Option<&'n YamlValue> {
    node?.get(name)
}

/// Members that say how, where TLS is on.
const OPTION_KEYS: [&str; 6] = [
    "client_allowed_sans",
    "min_version",
    "max_version",
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
];

/// Members without which TLS is off, as in the toolkit.
const ENABLING_KEYS: [&str; 7] = [
    "cert",
    "cert_file",
    "key",
    "key_file",
    "client_auth_type",
    "client_ca",
    "client_ca_file",
];

/// Reads the section; `http2` is whether HTTP/2 is offered.
pub(super) fn parse_tls_server(
    reader: &mut ConfigReader<'_>,
    node: Option<&YamlValue>,
    section: &str,
    http2: bool,
) -> Option<TlsSettings> {
    let members = reader.mapping(node, section, &[&ENABLING_KEYS[..], &OPTION_KEYS].concat());
    let given = |name: &&str| {
        field(node, name)
            .is_some_and(|node| !matches!(node, YamlValue::Null) && node.as_str() != Some(""))
    };
    let provider = Arc::new(crypto_provider(reader, node, section));
    let versions = parse_versions(reader, node, section);
    let prefer = join_path(section, "prefer_server_cipher_suites");
    let prefer = reader.boolean(field(node, "prefer_server_cipher_suites"), &prefer, true);
    if !ENABLING_KEYS.iter().any(given) {
        let _ = parse_client_auth(reader, node, section, &provider);
        if !members.is_empty() {
            let text = format!("{section} names no certificate: everything is served in the clear");
            reader.warnings.push(text);
        }
        return None;
    }
    let certificates = reader.pem_source(node, section, "cert").or_else(|| {
        report_missing_pem(reader, section, "cert", &given);
        None
    });
    let key = reader.pem_source(node, section, "key").or_else(|| {
        report_missing_pem(reader, section, "key", &given);
        None
    });
    let clients = parse_client_auth(reader, node, section, &provider);
    let certificates =
        certificates.and_then(|content| parse_chain(reader, &content).map(|c| (content, c)));
    let key = key.and_then(|content| parse_private_key(reader, &content));
    let ((content, chain), key, versions, clients) = (certificates?, key?, versions?, clients?);
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|_| {
            let text =
                "none of them fits the versions that are allowed, so that nobody could connect";
            reader.add_error(&join_path(section, "cipher_suites"), text);
        })
        .ok()?;
    let clients = clients.map(Arc::new);
    let builder = match &clients {
        Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients) as _),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| {
            // rustls' words repeat nothing of the key
            let text = format!("it cannot be used with its key: {error}; the key must be the certificate's, ECDSA (P-256, P-384), Ed25519, or RSA from 2048 bits");
            reader.add_error(&content.path, text);
        })
        .ok()?;
    config.ignore_client_order = prefer;
    config.alpn_protocols = if http2 {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    } else {
        vec![b"http/1.1".to_vec()]
    };
    if clients.is_some() {
        // A resumed session is not verified again, although the certificate may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    let is_13_only = !versions.contains(&&version::TLS12);
    Some(TlsSettings {
        config: Arc::new(config),
        min_version: if is_13_only { 3 } else { 2 },
        client_verifier: clients,
    })
}

/// Says that a certificate or a key is missing, unless it is there and wrong.
fn report_missing_pem(
    reader: &mut ConfigReader<'_>,
    section: &str,
    name: &str,
    given: &impl Fn(&&str) -> bool,
) {
    let file = format!("{name}_file");
    if !given(&name) && !given(&file.as_str()) {
        let place = join_path(section, name);
        reader.add_error(
            &place,
            format!("it is missing; {file} or {name} must be there for TLS"),
        );
    }
}

fn parse_chain(
    reader: &mut ConfigReader<'_>,
    content: &PemSource,
) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content.bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Some(certificates),
        _ => {
            reader.add_error(
                &content.path,
                "it holds no certificate; it must be PEM with BEGIN CERTIFICATE",
            );
            None
        }
    }
}

fn parse_private_key(
    reader: &mut ConfigReader<'_>,
    content: &PemSource,
) -> Option<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(&content.bytes).ok();
    if key.is_none() {
        reader.add_error(&content.path, "it holds no private key; it must be PEM with BEGIN PRIVATE KEY, BEGIN EC PRIVATE KEY or BEGIN RSA PRIVATE KEY, and without a passphrase");
    }
    key
}

/// What is asked of clients; `Some(None)` for nothing.
#[allow(clippy::option_option, reason = "wrong, nothing, something")]
fn parse_client_auth(
    reader: &mut ConfigReader<'_>,
    node: Option<&YamlValue>,
    section: &str,
    provider: &Arc<CryptoProvider>,
) -> Option<Option<ClientVerifier>> {
    let place = join_path(section, "client_auth_type");
    let text = reader
        .string(field(node, "client_auth_type"), &place)
        .unwrap_or("NoClientCert");
    let Some(asked) = ClientAuthType::from_name(text) else {
        let right = ClientAuthType::NAMES.join(", ");
        reader.add_error(
            &place,
            format!(
                "{:?} will not do; it must be one of {right}",
                truncate(text)
            ),
        );
        return None;
    };
    let sans = join_path(section, "client_allowed_sans");
    let names = reader.strings(field(node, "client_allowed_sans"), &sans);
    if names.is_some() && !asked.is_required() {
        reader.add_error(&sans, "client_auth_type must be RequireAnyClientCert or RequireAndVerifyClientCert with it, or clients without a certificate would be let in");
        return None;
    }
    if names.as_ref().is_some_and(Vec::is_empty) {
        reader.add_error(&sans, "it is empty, and must name somebody");
        return None;
    }
    let content = reader.pem_source(node, section, "client_ca");
    if content.is_some() && asked == ClientAuthType::NoCert {
        reader.add_error(&place, "it asks for no certificate, and there is a client CA; it must be RequireAndVerifyClientCert to check with it");
        return None;
    }
    if asked == ClientAuthType::NoCert {
        return Some(None);
    }
    let has_ca = content.is_some();
    let (trusted, from) = match content {
        Some(content) => (parse_chain(reader, &content)?, content.path),
        None if asked.verifies() => {
            reader.warnings.push(format!("{place}: there is no client_ca, so every certificate authority that this system trusts can let clients in"));
            (
                rustls_native_certs::load_native_certs().certs,
                "the system's trusted certificates".to_owned(),
            )
        }
        None => (Vec::new(), place),
    };
    let names = names
        .unwrap_or_default()
        .into_iter()
        .map(str::to_owned)
        .collect();
    match ClientVerifier::new(asked, trusted, has_ca, names, Arc::clone(provider)) {
        Ok(clients) => Some(Some(clients)),
        Err(why) => {
            reader.add_error(&from, why);
            None
        }
    }
}

fn parse_versions(
    reader: &mut ConfigReader<'_>,
    node: Option<&YamlValue>,
    section: &str,
) -> Option<Vec<&'static SupportedProtocolVersion>> {
    let mut one = |name: &str, default| {
        let place = join_path(section, name);
        match reader.string(field(node, name), &place) {
            None => Some(default),
            Some("TLS12") => Some(2),
            Some("TLS13") => Some(3),
            Some(old @ ("TLS10" | "TLS11")) => {
                reader.add_error(
                    &place,
                    format!("{old} cannot be had here, being broken; it must be TLS12 or TLS13"),
                );
                None
            }
            Some(text) => {
                reader.add_error(
                    &place,
                    format!(
                        "{:?} will not do; it must be TLS12 or TLS13",
                        truncate(text)
                    ),
                );
                None
            }
        }
    };
    let (least, most) = (one("min_version", 2), one("max_version", 3));
    let (least, most) = (least?, most?);
    if least > most {
        reader.add_error(
            &join_path(section, "max_version"),
            "it is below min_version, so that nobody could connect",
        );
        return None;
    }
    let all = [(2, &version::TLS12), (3, &version::TLS13)];
    Some(
        all.into_iter()
            .filter(|(number, _)| (least..=most).contains(number))
            .map(|(_, version)| version)
            .collect(),
    )
}

/// What rustls can do, narrowed to what the section asks for.
fn crypto_provider(
    reader: &mut ConfigReader<'_>,
    node: Option<&YamlValue>,
    section: &str,
) -> CryptoProvider {
    let mut provider = ring::default_provider();
    let place = join_path(section, "cipher_suites");
    let suites = reader
        .strings(field(node, "cipher_suites"), &place)
        .unwrap_or_default();
    let chosen: Vec<SupportedCipherSuite> = suites
        .iter()
        .filter_map(|name| {
            let found = provider
                .cipher_suites
                .iter()
                .find(|suite| go_cipher_name(suite) == *name);
            if found.is_none() {
                let right: Vec<String> =
                    provider.cipher_suites.iter().map(go_cipher_name).collect();
                reader.add_error(
                    &place,
                    format!(
                        "{:?} cannot be had here; it must be one of {}",
                        truncate(name),
                        right.join(", ")
                    ),
                );
            }
            found.copied()
        })
        .collect();
    if !suites.is_empty() {
        // as in Go, the list is TLS 1.2's: the suites of TLS 1.3 cannot be switched off
        let of_13 =
            |suite: &SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
        let rest = provider
            .cipher_suites
            .iter()
            .filter(|suite| of_13(suite) && !chosen.contains(suite));
        provider.cipher_suites = chosen.iter().chain(rest).copied().collect();
    }
    let place = join_path(section, "curve_preferences");
    let curves = reader
        .strings(field(node, "curve_preferences"), &place)
        .unwrap_or_default();
    let chosen: Vec<_> = curves
        .iter()
        .filter_map(|name| {
            let group = match *name {
                "CurveP256" => NamedGroup::secp256r1,
                "CurveP384" => NamedGroup::secp384r1,
                "X25519" => NamedGroup::X25519,
                _ => {
                    reader.add_error(&place, format!("{:?} cannot be had here; it must be one of X25519, CurveP256, CurveP384", truncate(name)));
                    return None;
                }
            };
            provider.kx_groups.iter().find(|known| known.name() == group).copied()
        })
        .collect();
    if !chosen.is_empty() {
        provider.kx_groups = chosen;
    }
    provider
}

/// The name that Go has for a suite.
fn go_cipher_name(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}
