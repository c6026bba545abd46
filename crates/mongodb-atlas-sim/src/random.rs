//! Random strings, reproducible by seed.

/// ASCII letters and digits.
pub(crate) const ALPHANUMERIC: &[u8] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Returns `length` characters of `alphabet`.
pub(crate) fn random_string(rng: &mut fastrand::Rng, length: usize, alphabet: &[u8]) -> String {
    (0..length)
        .filter_map(|_| rng.choice(alphabet).map(|byte| char::from(*byte)))
        .collect()
}

/// Returns `length` hexadecimal digits.
pub(crate) fn random_hex(rng: &mut fastrand::Rng, length: usize) -> String {
    random_string(rng, length, b"0123456789abcdef")
}

/// Returns the secret of a key, which only [`Effect::Secret`](crate::Effect::Secret) exposes.
pub(crate) fn derive_secret(key_id: &str) -> String {
    let mut rng = rng_from_text(key_id);
    format!("al-{}", random_string(&mut rng, 43, ALPHANUMERIC))
}

/// Returns a random generator with a seed derived from `text`.
pub(crate) fn rng_from_text(text: &str) -> fastrand::Rng {
    let seed = text.bytes().fold(17_u64, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u64::from(byte))
    });
    fastrand::Rng::with_seed(seed)
}
