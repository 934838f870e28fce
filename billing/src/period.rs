//! Billing periods: calendar months in UTC, written `2026-10`.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// One calendar month in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    year: i16,
    month: i8,
}

/// Why a text is not a period.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a period is a month from 1970-01 to 9998-12, written YYYY-MM like 2026-10, but this is {text:?}")]
pub struct PeriodError {
    text: String,
}

impl Period {
    /// The period that `time` falls into.
    pub fn of(time: Timestamp) -> Self {
        let date = TimeZone::UTC.to_datetime(time).date();
        Period {
            year: date.year(),
            month: date.month(),
        }
    }

    /// Its first moment.
    pub fn start(self) -> Timestamp {
        let midnight = DateTime::new(self.year, self.month, 1, 0, 0, 0, 0);
        let midnight = midnight.and_then(|midnight| TimeZone::UTC.to_timestamp(midnight));
        midnight.unwrap_or(Timestamp::MAX)
    }

    /// The first moment behind it.
    pub fn end(self) -> Timestamp {
        self.next().start()
    }

    /// The month after it.
    pub fn next(self) -> Self {
        match self.month {
            12 => Period {
                year: self.year.saturating_add(1),
                month: 1,
            },
            month => Period {
                month: month + 1,
                ..self
            },
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04}-{:02}", self.year, self.month))
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = text
            .split_once('-')
            .filter(|(year, month)| year.len() == 4 && month.len() == 2 && digits(year) && digits(month));
        let read = parts.and_then(|(year, month)| Some((year.parse().ok()?, month.parse().ok()?)));
        match read {
            Some((year @ 1970..=9998, month @ 1..=12)) => Ok(Period { year, month }),
            _ => Err(PeriodError {
                text: text.chars().take(64).collect(),
            }),
        }
    }
}

impl serde::Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The period that `time` falls into, as the ledger's rows have it.
pub fn usage_period(time: Timestamp) -> String {
    Period::of(time).to_string()
}
