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
