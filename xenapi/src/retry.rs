//! Which calls are sent again after which failures, and when.

use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// The pause before the first repetition; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Whether a call that failed so may be sent once more. `may_repeat` is whether it does no harm
/// if it has taken effect before.
///
/// A time limit that has passed is not a reason: the caller has waited long enough.
pub(crate) fn is_worth_it(error: &Error, may_repeat: bool) -> bool {
    match error.kind() {
        // Nothing was sent.
        ErrorKind::Connect => true,
        ErrorKind::Transport => may_repeat,
        // Refused before anything was done.
        ErrorKind::Api => error.code().is_some_and(|code| code == "TOO_MANY_PENDING_TASKS"),
        _ => false,
    }
}

/// The pause before repetition `n`, counted from 0.
pub(crate) fn pause(n: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(n)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn by_the_class_of_the_error() {
        let api = |code: &str| Error::api(ErrorCode::new(code), Vec::new());
        let of = |kind| Error::new(kind, "x");
        for (error, reading, changing) in [
            (of(ErrorKind::Connect), true, true),
            (of(ErrorKind::Transport), true, false),
            (of(ErrorKind::Timeout), false, false),
            (of(ErrorKind::Tls), false, false),
            (of(ErrorKind::Protocol), false, false),
            (api("TOO_MANY_PENDING_TASKS"), true, true),
            (api("VDI_IN_USE"), false, false),
            (api("INTERNAL_ERROR"), false, false),
        ] {
            assert_eq!(is_worth_it(&error, true), reading, "{error}");
            assert_eq!(is_worth_it(&error, false), changing, "{error}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert_eq!([0, 1, 2].map(|n| pause(n).as_millis()), [200, 400, 800]);
        assert_eq!(pause(60), LONGEST_PAUSE);
    }
}
