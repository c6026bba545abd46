//! Client certificates: whether clients must present one, and which are accepted.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::time::ASN1Time;

/// The value of `client_auth_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuthType {
    NoCert,
    Request,
    RequireAny,
    VerifyIfGiven,
    RequireAndVerify,
}

impl ClientAuthType {
    /// The names in the exporter-toolkit, including a former name.
    pub(super) const NAMES: [(&str, Self); 6] = [
        ("NoClientCert", Self::NoCert),
        ("RequestClientCert", Self::Request),
        ("RequireAnyClientCert", Self::RequireAny),
        ("RequireClientCert", Self::RequireAny),
        ("VerifyClientCertIfGiven", Self::VerifyIfGiven),
        ("RequireAndVerifyClientCert", Self::RequireAndVerify),
    ];

    pub(super) fn is_required(self) -> bool {
        matches!(self, Self::RequireAny | Self::RequireAndVerify)
    }

    pub(super) fn verifies(self) -> bool {
        matches!(self, Self::VerifyIfGiven | Self::RequireAndVerify)
    }
}

/// Verifies client certificates.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) auth_type: ClientAuthType,
    /// Verifies the chain; `None` if every certificate is accepted.
    pub(super) chain_verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// The CA certificates for client certificates.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// Whether the chain is verified with CA certificates of the configuration, and not with those of the system.
    pub(super) has_own_authority: bool,
    /// The allowed names: a certificate must have one of them. If empty, all names are allowed.
    pub(super) allowed_sans: Vec<String>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// Returns a verifier of certificate chains that end in one of `authorities`.
pub(super) fn new_chain_verifier(
    authorities: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in authorities {
        roots
            .add(certificate.clone())
            .map_err(|error| format!("invalid CA certificate: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())
}

impl ClientVerifier {
    /// Returns whether a client with these certificates (its own first) may open a connection now.
    pub(super) fn admits(&self, certificates: &[CertificateDer<'static>], now: UnixTime) -> bool {
        match certificates.split_first() {
            Some((own, intermediates)) => self.verify_client_cert(own, intermediates, now).is_ok(),
            None => !self.auth_type.is_required(),
        }
    }

    /// Returns whether the certificate itself is one of `authorities` and currently valid. This allows self-signed client
    /// certificates.
    fn is_pinned(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
        let mut trusted = self.authorities.iter();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        trusted.any(|trusted| trusted.as_ref() == certificate.as_ref())
            && parse_certificate(certificate).is_some_and(|parsed| {
                let usage = parsed.extended_key_usage().ok().flatten();
                let is_for_clients =
                    usage.is_none_or(|usage| usage.value.client_auth || usage.value.any);
                let now = ASN1Time::from_timestamp(now);
                is_for_clients && now.is_ok_and(|now| parsed.validity().is_valid_at(now))
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
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
