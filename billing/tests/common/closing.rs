//! Closes months and issues their invoices, in memory.

use arrow::array::RecordBatch;
use billing::close::rated::{Booked, Charge, Counts, Inputs, rate_month};
use billing::close::{Batches, CloseError};
use billing::contract::Contracts;
use billing::event::{payload_hash, usage_row};
use billing::invoice::{CreditState, Invoice, Month, issue};
use billing::period::Period;
use billing::price_book::PriceBook;
use schemas::billing::{BillingRow, to_batch};

use super::{PRICES, contracts, result};

/// The example book with steps that small quantities reach, and a volume and a package price.
pub(crate) fn book() -> PriceBook {
    let prices = PRICES
        .replace("1_000_000_000", "100")
        .replacen(
            "sku_id = \"*/batch/input\"\nmeter = \"input_uncached_tokens\"\nmodel = \"flat\"\ncurrency.EUR = [{ price = \"3.00\" }]",
            "sku_id = \"*/batch/input\"\nmeter = \"input_uncached_tokens\"\nmodel = \"volume\"\ncurrency.EUR = [{ up_to = 150, price = \"3.00\" }, { price = \"2.00\" }]",
            1,
        )
        .replacen(
            "sku_id = \"*/batch/cached_input\"\nmeter = \"input_cached_tokens\"\nmodel = \"flat\"",
            "sku_id = \"*/batch/cached_input\"\nmeter = \"input_cached_tokens\"\nmodel = \"package\"\npackage_units = 50",
            1,
        );
    PriceBook::parse(&prices, "prices.toml").unwrap()
}

pub(crate) fn period(text: &str) -> Period {
    text.parse().unwrap()
}

/// Request `n` of `tenant` in `month`, with these tokens.
pub(crate) fn event(tenant: &str, n: i64, month: &str, model: &str, [input, cached, output]: [i64; 3]) -> BillingRow {
    let mut result = result(tenant, n);
    result.model_id = model.to_owned();
    result.finished_at = format!("{month}-17T09:00:{:02}Z", n % 60).parse().unwrap();
    (result.input_tokens, result.cached_tokens, result.output_tokens) = (input + cached, cached, output);
    usage_row(&result, false, &book(), &contracts(), result.finished_at).unwrap()
}

pub(crate) fn in_region(row: BillingRow, region: &str) -> BillingRow {
    let mut row = BillingRow {
        region: region.to_owned(),
        ..row
    };
    row.payload_hash = payload_hash(&row);
    row
}

pub(crate) struct Closed {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) charges: Vec<Charge>,
    pub(crate) counts: Counts,
}

pub(crate) fn try_close(
    month: &str,
    rows: &[BillingRow],
    earlier: &[RecordBatch],
    booked: &Booked,
) -> Result<Closed, CloseError> {
    try_close_with((&book(), &contracts()), month, rows, earlier, booked)
}

pub(crate) fn open(batches: &[RecordBatch]) -> Batches<'_> {
    Box::new(batches.iter().cloned().map(Ok))
}

pub(crate) fn try_close_with(
    (book, contracts): (&PriceBook, &Contracts),
    month: &str,
    rows: &[BillingRow],
    earlier: &[RecordBatch],
    booked: &Booked,
) -> Result<Closed, CloseError> {
    let batches: Vec<_> = rows.chunks(7).map(|rows| to_batch(rows).unwrap()).collect();
    let inputs = Inputs {
        period: period(month),
        ledger: &|| open(&batches),
        earlier: &|| open(earlier),
        booked,
        book,
        contracts,
    };
    let mut kept = Vec::new();
    let (charges, counts) = rate_month(&inputs, |batch| {
        kept.push(batch);
        Ok(())
    })?;
    Ok(Closed {
        batches: kept,
        charges,
        counts,
    })
}

pub(crate) fn close(month: &str, rows: &[BillingRow]) -> Closed {
    try_close(month, rows, &[], &Booked::new()).unwrap()
}

pub(crate) fn invoices(
    month: &str,
    charges: &[Charge],
    contracts: &Contracts,
    credits: &CreditState,
) -> (Vec<Invoice>, CreditState) {
    let issued_at = period(month).end();
    issue(&Month {
        period: period(month),
        issued_at,
        charges,
        contracts,
        credits,
    })
    .unwrap()
}

pub(crate) fn booked(invoices: &[Invoice]) -> Booked {
    let mut booked = Booked::new();
    invoices.iter().for_each(|invoice| invoice.book(&mut booked));
    booked
}
