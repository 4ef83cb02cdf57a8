//! Timestamps as XAPI spells them.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::value::{DecodeError, FromValue};

/// A point in time as the server wrote it.
///
/// Servers print `20250131T12:00:00Z`, sometimes with an offset, with dashes, as Unix seconds
/// (`1627478400.`), or without any zone (then it is the host's local time). The text is kept;
/// [`unix_seconds`](Self::unix_seconds) reads the forms that name a point in time.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DateTime(String);

impl DateTime {
    /// Takes a timestamp as text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as the server sent it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Seconds since 1970-01-01 UTC; `None` if the text has no zone or is no timestamp. Fractions
    /// of a second are dropped.
    #[must_use]
    pub fn unix_seconds(&self) -> Option<i64> {
        let text = self.0.trim();
        let (date, time) = match text.split_once('T') {
            Some(parts) => parts,
            None => return text.split('.').next()?.parse().ok(),
        };
        let date: String = date.chars().filter(|c| *c != '-').collect();
        if date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let year: i64 = date.get(0..4)?.parse().ok()?;
        let month: i64 = date.get(4..6)?.parse().ok()?;
        let day: i64 = date.get(6..8)?.parse().ok()?;
        let (clock, offset) = split_zone(time)?;
        let mut fields = clock.split('.').next()?.split(':');
        let mut next = || fields.next()?.parse::<i64>().ok();
        let (hour, minute, second) = (next()?, next()?, next()?);
        let valid = (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..=60).contains(&second);
        if !valid {
            return None;
        }
        Some(
            days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second
                - offset,
        )
    }
}

/// Splits `12:00:00+02:00` into the clock and the offset in seconds; `None` without a zone.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let at = time.rfind(['+', '-'])?;
    let (clock, zone) = time.split_at(at);
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    if digits.len() != 4 {
        return None;
    }
    let hours: i64 = digits.get(0..2)?.parse().ok()?;
    let minutes: i64 = digits.get(2..4)?.parse().ok()?;
    let offset = hours * 3_600 + minutes * 60;
    Some((clock, if zone.starts_with('-') { -offset } else { offset }))
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, by counting years from March, so
/// that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromValue for DateTime {
    fn from_value(value: Value) -> Result<Self, DecodeError> {
        String::from_value(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_one_moment() {
        for text in [
            "20210728T13:20:00Z",
            "2021-07-28T13:20:00Z",
            "20210728T15:20:00+02:00",
            "20210728T08:20:00-0500",
            "2021-07-28T13:20:00.250Z",
            "1627478400.",
            "1627478400",
        ] {
            assert_eq!(DateTime::new(text).unix_seconds(), Some(1_627_478_400), "{text}");
        }
    }

    #[test]
    fn host_local_times_and_garbage_are_no_point_in_time() {
        for text in ["20210728T13:20:00", "", "Z", "T", "20211328T13:20:00Z", "2021é728T1:2:3Z"] {
            assert_eq!(DateTime::new(text).unix_seconds(), None, "{text}");
        }
        assert_eq!(DateTime::new("19700101T00:00:00Z").unix_seconds(), Some(0));
        assert_eq!(DateTime::new("20000229T00:00:00Z").unix_seconds(), Some(951_782_400));
    }
}
