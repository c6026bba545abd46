//! Client certificates: who is asked for one, and whose will do.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// What is asked of clients: `client_auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthType {
    /// Nothing.
    NoCert,
    /// A certificate, any, and none will do as well.
    Request,
    /// A certificate, any.
    RequireAny,
    /// A good certificate, and none will do as well.
    VerifyIfGiven,
    /// A good certificate.
    RequireAndVerify,
}

impl ClientAuthType {
    /// The names of the exporter-toolkit.
    pub(super) const NAMES: [&'static str; 5] = [
        "NoClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "NoClientCert" => Self::NoCert,
            "RequestClientCert" => Self::Request,
            // the second is an old name of the toolkit's
            "RequireAnyClientCert" | "RequireClientCert" => Self::RequireAny,
            "VerifyClientCertIfGiven" => Self::VerifyIfGiven,
            "RequireAndVerifyClientCert" => Self::RequireAndVerify,
            _ => return None,
        })
    }

    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }

    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// Judges the certificates of clients.
pub(super) struct ClientVerifier {
    auth_type: ClientAuthType,
    /// Who is trusted to have issued one; none when any will do.
    chain_verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The trusted certificates themselves: a client may show one of them as its own.
    trusted: Vec<CertificateDer<'static>>,
    /// Whether the configuration names them; else they are all that the system trusts.
    has_ca: bool,
    /// The names of which a certificate must have one; any when there are none.
    allowed_sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    pub(super) fn new(
        asked: ClientAuthType,
        trusted: Vec<CertificateDer<'static>>,
        has_ca: bool,
        names: Vec<String>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let chain = if asked.verifies() {
            let mut roots = RootCertStore::empty();
            for certificate in &trusted {
                roots
                    .add(certificate.clone())
                    .map_err(|error| format!("a certificate of it cannot be used: {error}"))?;
            }
            let chain =
                WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| error.to_string())?;
            Some(chain)
        } else {
            None
        };
        Ok(Self {
            auth_type: asked,
            chain_verifier: chain,
            trusted,
            has_ca,
            allowed_sans: names,
            provider,
        })
    }

    /// The protections that `new` lacks, by the names of their fields.
    pub(super) fn weakened_by(&self, new: Option<&Self>) -> Vec<&'static str> {
        let is_lost = |is_set: &dyn Fn(&Self) -> bool| is_set(self) && !new.is_some_and(is_set);
        let mut lost = Vec::new();
        if is_lost(&|clients| clients.auth_type.is_required())
            || is_lost(&|clients| clients.auth_type.verifies())
        {
            lost.push("tls_server_config.client_auth_type");
        }
        if is_lost(&|clients| clients.has_ca) && self.auth_type.verifies() {
            lost.push("tls_server_config.client_ca");
        }
        if is_lost(&|clients| !clients.allowed_sans.is_empty()) {
            lost.push("tls_server_config.client_allowed_sans");
        }
        lost
    }

    /// Whether a client with these certificates, its own first, may open a connection now.
    pub(super) fn admits(&self, certificates: &[CertificateDer<'static>], now: UnixTime) -> bool {
        match certificates.split_first() {
            Some((own, intermediates)) => self.verify_client_cert(own, intermediates, now).is_ok(),
            None => !self.auth_type.is_required(),
        }
    }

    /// Whether the certificate is itself a trusted one, and good now: so a client may be known by
    /// a certificate that it issued to itself.
    fn is_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let same = self
            .trusted
            .iter()
            .any(|trusted| trusted.as_ref() == certificate.as_ref());
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        same && parse_certificate(certificate).is_some_and(|parsed| {
            let valid = parsed.validity();
            let for_clients = parsed
                .extended_key_usage()
                .ok()
                .flatten()
                .is_none_or(|usage| usage.value.client_auth || usage.value.any);
            valid.not_before.timestamp() <= now && now <= valid.not_after.timestamp() && for_clients
        })
    }

    fn has_allowed_san(&self, certificate: &CertificateDer<'_>) -> bool {
        if self.allowed_sans.is_empty() {
            return true;
        }
        subject_alt_names(certificate)
            .iter()
            .any(|name| self.allowed_sans.contains(name))
    }
}

fn parse_certificate<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
    Some(parsed)
}

/// The subject alternative names: DNS names, e-mail addresses, IP addresses and URIs.
fn subject_alt_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Some(parsed) = parse_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(alternative)) = parsed.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::Ipv4Addr::from(b).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|b| std::net::Ipv6Addr::from(b).to_string()),
        },
        _ => None,
    };
    alternative
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificates")
            .field("asked", &self.auth_type)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth_type.is_required()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain_verifier
            .as_ref()
            .map_or(&[], |chain| chain.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.has_allowed_san(certificate) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        match &self.chain_verifier {
            Some(chain) if !self.is_pinned(certificate, now) => {
                chain.verify_client_cert(certificate, intermediates, now)
            }
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
