//! Billing periods: calendar months in UTC, written `2026-10`.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The period that `time` falls into.
pub fn usage_period(time: Timestamp) -> String {
    let date = TimeZone::UTC.to_datetime(time).date();
    format!("{:04}-{:02}", date.year(), date.month())
}
