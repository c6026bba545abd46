//! Client certificates: who must present one, and which are accepted.

use std::fmt;
use std::net::IpAddr;
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

/// Value of `client_auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthType {
    NoCert,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl ClientAuthType {
    /// Names in the exporter-toolkit.
    pub(super) const NAMES: [(&str, Self); 5] = [
        ("NoClientCert", Self::NoCert),
        ("RequestClientCert", Self::Request),
        ("RequireAnyClientCert", Self::RequireAny),
        ("VerifyClientCertIfGiven", Self::VerifyIfGiven),
        ("RequireAndVerifyClientCert", Self::RequireAndVerify),
    ];

    pub(super) fn from_name(name: &str) -> Option<Self> {
        // The exporter-toolkit's former name.
        if name == "RequireClientCert" {
            return Some(Self::RequireAny);
        }
        let mut names = Self::NAMES.iter();
        let found = names.find(|(known, _)| *known == name);
        found.map(|(_, auth_type)| *auth_type)
    }

    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }

    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// Certificates that client certificates are verified against.
pub(super) struct TrustedCertificates {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// Whether the configuration names them; otherwise they are those that the system trusts.
    pub(super) is_configured: bool,
}

/// Verifies client certificates.
pub(super) struct ClientVerifier {
    auth_type: ClientAuthType,
    /// Verifies the chain; `None` where any certificate is accepted.
    chain_verifier: Option<Arc<dyn ClientCertVerifier>>,
    trusted: TrustedCertificates,
    /// Names of which a certificate must have one; any where this is empty.
    allowed_sans: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl ClientVerifier {
    pub(super) fn new(
        auth_type: ClientAuthType,
        trusted: TrustedCertificates,
        allowed_sans: Vec<String>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut chain_verifier = None;
        if auth_type.verifies() {
            let mut roots = RootCertStore::empty();
            for certificate in &trusted.certificates {
                roots
                    .add(certificate.clone())
                    .map_err(|error| format!("a certificate of it cannot be used: {error}"))?;
            }
            let provider = Arc::clone(&provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| error.to_string())?;
            chain_verifier = Some(verifier);
        }
        Ok(Self {
            auth_type,
            chain_verifier,
            trusted,
            allowed_sans,
            provider,
        })
    }

    /// Returns the names of the fields whose protection `new` lacks.
    pub(super) fn weakened_by(&self, new: Option<&Self>) -> Vec<&'static str> {
        let is_lost = |is_set: &dyn Fn(&Self) -> bool| is_set(self) && !new.is_some_and(is_set);
        let mut lost = Vec::new();
        if is_lost(&|verifier| verifier.auth_type.is_required())
            || is_lost(&|verifier| verifier.auth_type.verifies())
        {
            lost.push("tls_server_config.client_auth_type");
        }
        if is_lost(&|verifier| verifier.trusted.is_configured) && self.auth_type.verifies() {
            lost.push("tls_server_config.client_ca");
        }
        if is_lost(&|verifier| !verifier.allowed_sans.is_empty()) {
            lost.push("tls_server_config.client_allowed_sans");
        }
        lost
    }

    /// Returns whether a client with these certificates, its own first, may open a connection now.
    pub(super) fn admits(&self, certificates: &[CertificateDer<'static>], now: UnixTime) -> bool {
        match certificates.split_first() {
            Some((own, intermediates)) => self.verify_client_cert(own, intermediates, now).is_ok(),
            None => !self.auth_type.is_required(),
        }
    }

    /// Returns whether the certificate is itself a trusted one, and valid now. So a client may be identified by a
    /// self-signed certificate.
    fn is_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let mut trusted = self.trusted.certificates.iter();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        trusted.any(|trusted| trusted.as_ref() == certificate.as_ref())
            && parse_certificate(certificate).is_some_and(|parsed| {
                let validity = parsed.validity();
                let usage = parsed.extended_key_usage().ok().flatten();
                let is_for_clients =
                    usage.is_none_or(|usage| usage.value.client_auth || usage.value.any);
                (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now)
                    && is_for_clients
            })
    }

    fn has_allowed_san(&self, certificate: &CertificateDer<'_>) -> bool {
        let names = subject_alt_names(certificate).unwrap_or_default();
        self.allowed_sans.is_empty() || names.iter().any(|name| self.allowed_sans.contains(name))
    }
}

fn parse_certificate<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(certificate.as_ref()).ok()?;
    Some(parsed)
}

/// Returns the subject alternative names: DNS names, e-mail addresses, IP addresses and URIs.
fn subject_alt_names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let parsed = parse_certificate(certificate)?;
    let names = parsed.subject_alternative_name().ok()??;
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    };
    Some(names.value.general_names.iter().filter_map(name).collect())
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("auth_type", &self.auth_type)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.auth_type.is_required()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        let verifier = self.chain_verifier.as_ref();
        verifier.map_or(&[], |verifier| verifier.root_hint_subjects())
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
            Some(verifier) if !self.is_pinned(certificate, now) => {
                verifier.verify_client_cert(certificate, intermediates, now)
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
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
