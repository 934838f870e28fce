//! What `bitnet report reconcile` must find.

use schemas::billing::BillingRow;

/// What must be found: all of these texts in one line.
pub(crate) type Break = Vec<String>;

pub(crate) fn line<const N: usize>(parts: [&str; N]) -> Break {
    parts.map(str::to_owned).to_vec()
}

/// What follows when a tenant's tokens and amounts are not the same on both sides.
pub(crate) fn sums(tenant: &str, currency: &str) -> Vec<Break> {
    let columns = [
        "requests",
        "input_uncached_tokens",
        "input_cached_tokens",
        "output_tokens",
    ];
    let mut sums: Vec<_> = columns
        .map(|column| vec![format!("{column} of {tenant}: results ")])
        .to_vec();
    sums.push(vec![format!("rated in {currency}: results ")]);
    sums
}

pub(crate) fn counts(row: &BillingRow, results: u32, events: u32) -> Break {
    let BillingRow {
        result_id,
        tenant_id,
        job_id,
        custom_id,
        ..
    } = row;
    let custom_id = custom_id.as_str();
    vec![format!(
        "result {result_id} ({tenant_id} {job_id} {custom_id}): {results} rows in results, {events} in billing_events"
    )]
}
