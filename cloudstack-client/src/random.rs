//! Randomness that cannot be guessed.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// 128 random bits as 32 hex digits.
pub(crate) fn random_hex() -> Result<String> {
    let mut bytes = [0u8; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Error::config("the system gives no random numbers"))?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// A random UUID (version 4).
pub(crate) fn random_uuid() -> Result<String> {
    let hex = random_hex()?;
    // The digits of the version and of the variant are not random.
    let variant = match hex.as_bytes()[16] {
        b'0' | b'4' | b'8' | b'c' => '8',
        b'1' | b'5' | b'9' | b'd' => '9',
        b'2' | b'6' | b'a' | b'e' => 'a',
        _ => 'b',
    };
    let (a, b, c, d, e) = (&hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
    Ok(format!("{a}-{b}-4{c}-{variant}{d}-{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_their_version() {
        for _ in 0..100 {
            let id = random_uuid().unwrap();
            let parts: Vec<_> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
        assert_ne!(random_uuid().unwrap(), random_uuid().unwrap());
    }
}
