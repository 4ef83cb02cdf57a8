//! Randomness that cannot be guessed.

use std::fmt::Write as _;
use std::time::Duration;

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

/// A pause that is up to a tenth longer or shorter, so that many who began together do not go on together.
pub(crate) fn spread(pause: Duration) -> Duration {
    if pause > Duration::from_secs(1 << 20) {
        return pause;
    }
    let mut byte = [128];
    // Without randomness it is simply the pause.
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut byte);
    pause.mul_f32(0.9 + 0.2 * f32::from(byte[0]) / 255.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_spread_by_a_tenth() {
        let pauses: Vec<_> = (0..100).map(|_| spread(Duration::from_secs(10))).collect();
        let fits = |pause: &Duration| (8.99..=11.01).contains(&pause.as_secs_f32());
        assert!(pauses.iter().all(fits), "{pauses:?}");
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
        assert_eq!(spread(Duration::ZERO), Duration::ZERO);
        assert_eq!(spread(Duration::MAX), Duration::MAX);
    }

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
