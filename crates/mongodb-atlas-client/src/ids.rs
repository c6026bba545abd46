//! Identifiers, each with a separate type, so that they cannot be confused.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An organization's id: 24 lower-case hexadecimal digits (`^([a-f0-9]{24})$` in Atlas' API description).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrgId(Arc<str>);

/// The error for a text that is not an [`OrgId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid organization id: expected 24 lower-case hexadecimal digits, such as 32b6e34b3d91647abb20e7b8"
)]
pub struct InvalidOrgId;

impl OrgId {
    /// Parses an organization id.
    ///
    /// # Errors
    /// [`InvalidOrgId`] unless `text` has 24 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidOrgId> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == 24 && text.bytes().all(is_hex) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidOrgId)
        }
    }

    /// Returns the id as Atlas writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a number that depends only on the id and `salt`, the same on every machine and in every release.
    pub fn stable_hash(&self, salt: u64) -> u64 {
        stable_hash(self.0.as_bytes(), salt)
    }
}

/// Returns the FNV-1a hash with a final mix. This hash must be the same in every release, which the standard library's
/// hashers do not guarantee.
pub fn stable_hash(bytes: &[u8], salt: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

impl fmt::Display for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! opaque_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(Box<str>);

        impl $name {
            /// Creates an id from any text: Atlas documents no format that could be validated.
            pub fn new(text: impl Into<Box<str>>) -> Self {
                Self(text.into())
            }

            /// Returns the id as Atlas writes it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

opaque_id! {
    /// A project's id (Atlas' `groupId`); empty if Atlas reports none.
    ProjectId
}
opaque_id! {
    /// An AI model API key's id (Atlas' `apiKeyId`), which is not always hexadecimal.
    KeyId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn org_id_parse_rejects_invalid_text() {
        assert!(OrgId::parse("32b6e34b3d91647abb20e7b8").is_ok());
        for invalid in [
            "",
            "32b6e34b3d91647abb20e7b",
            "32B6E34B3D91647ABB20E7B8",
            "32b6e34b3d91647abb20e7b8a",
            "xxb6e34b3d91647abb20e7b8",
        ] {
            assert_eq!(OrgId::parse(invalid), Err(InvalidOrgId), "{invalid}");
        }
    }
}
