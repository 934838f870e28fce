//! Closing a month and billing it: what is charged does not depend on how rows came, and adds up exactly.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use billing::close::rated::{Booked, Charge};
use billing::contract::Contracts;
use billing::correct::{Change, Correction, new_rows, rows as correction_rows};
use billing::event::{payload_hash, usage_row};
use billing::invoice::{CreditState, Invoice, LineKind};
use billing::money::Money;
use billing::rate::rate;
use billing::sku::Meter;
use common::closing::{Closed, book, booked, close, event, in_region, invoices, period, try_close, try_close_with};
use common::{CONTRACTS, PRICES, REGIONS, contracts, result};
use proptest::prelude::*;
use proptest::sample::subsequence;
use schemas::billing::BillingRow;

/// Σ of the rated rows' contracted amounts of one meter.
fn rated_sum(batches: &[RecordBatch], class: &str) -> Money {
    let column = format!("contracted_{class}");
    let parts = batches.iter().flat_map(|batch| {
        let column = batch.column_by_name(&column).unwrap().as_primitive::<Decimal128Type>();
        column.values().to_vec()
    });
    Money::sum(parts.map(|parts| Money::from_parts(parts).unwrap())).unwrap()
}

fn charged(charges: &[Charge], meter: Meter) -> Money {
    let of_meter = charges.iter().filter(|charge| charge.key.sku.meter == meter);
    Money::sum(of_meter.map(|charge| charge.contracted)).unwrap()
}

/// Quantity and amounts by what is charged, whenever it was.
fn sums(closed: &[&Closed]) -> BTreeMap<String, (i64, Money, Money)> {
    let mut sums: BTreeMap<String, (i64, Money, Money)> = BTreeMap::new();
    for charge in closed
        .iter()
        .flat_map(|closed| &closed.charges)
        .filter(|charge| charge.quantity != 0)
    {
        let sum = sums.entry(format!("{:?}", charge.key)).or_default();
        *sum = (
            sum.0 + charge.quantity,
            sum.1.plus(charge.list).unwrap(),
            sum.2.plus(charge.contracted).unwrap(),
        );
    }
    sums.retain(|_, sum| sum.0 != 0);
    sums
}

fn events() -> impl Strategy<Value = Vec<BillingRow>> {
    let tenant = prop::sample::select(&["acme", "globex", "stranger"][..]);
    let model = prop::sample::select(&["debian-sections", "other"][..]);
    let one = (
        tenant,
        model,
        prop::sample::select(&REGIONS[..]),
        [0..90_i64, 0..90, 0..90],
    );
    prop::collection::vec(one, 1..30).prop_map(|all| {
        let numbered = (0..).zip(all);
        numbered
            .map(|(n, (tenant, model, region, tokens))| in_region(event(tenant, n, "2026-10", model, tokens), region))
            .collect()
    })
}

fn shuffled(rows: Vec<BillingRow>) -> impl Strategy<Value = (Vec<BillingRow>, Vec<BillingRow>)> {
    let again = subsequence(rows.clone(), 0..=rows.len());
    let delivered = again.prop_map({
        let rows = rows.clone();
        move |again| [rows.clone(), again].concat()
    });
    (Just(rows), delivered.prop_shuffle())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Redelivery, reordering and replay change nothing but the count of repeated rows, to the byte.
    #[test]
    fn how_rows_came_changes_no_rated_row((rows, delivered) in events().prop_flat_map(shuffled)) {
        let (once, again) = (close("2026-10", &rows), close("2026-10", &delivered));
        prop_assert_eq!(&once.batches, &again.batches);
        prop_assert_eq!(&once.charges, &again.charges);
        prop_assert_eq!(once.counts.events, rows.len() as u64);
        prop_assert_eq!(again.counts.repeated, (delivered.len() - rows.len()) as u64);
    }

    /// What events are charged adds up to the rate of the month's sum, whatever the price model.
    #[test]
    fn rated_rows_add_up_to_the_rate_of_the_sum(rows in events()) {
        let closed = close("2026-10", &rows);
        let (book, contracts) = (book(), contracts());
        for charge in &closed.charges {
            let list = book.version(&charge.key.price_version).unwrap().list(&charge.key.sku, charge.key.currency).unwrap();
            let contract = charge.key.contract_version.as_ref().map(|name| contracts.version(charge.key.tenant.as_str(), name).unwrap());
            let point = contract.and_then(|contract| contract.negotiated(&charge.key.sku)).unwrap_or(list);
            prop_assert_eq!(charge.contracted, rate(point, charge.quantity).unwrap());
            prop_assert_eq!(charge.list, rate(list, charge.quantity).unwrap());
            prop_assert_eq!(charge.quantity, charge.regions.values().sum::<i64>());
            prop_assert!(charge.regions.values().all(|quantity| *quantity != 0));
        }
        for region in REGIONS {
            let of_output = closed.charges.iter().filter(|charge| charge.key.sku.meter == Meter::Output);
            let charged: i64 = of_output.filter_map(|charge| charge.regions.get(region)).sum();
            let used: i64 = rows.iter().filter(|row| row.region == region).map(|row| row.output_tokens).sum();
            prop_assert_eq!(charged, used);
        }
        for meter in Meter::ALL {
            prop_assert_eq!(rated_sum(&closed.batches, meter.class()), charged(&closed.charges, meter));
        }
        let quantity = |meter: Meter| -> i64 {
            let columns = closed.batches.iter().map(|batch| batch.column_by_name(meter.column()).unwrap().as_primitive::<Int64Type>().values().iter().sum::<i64>());
            columns.sum()
        };
        prop_assert_eq!(quantity(Meter::Output), rows.iter().map(|row| row.output_tokens).sum::<i64>());
    }

    /// A late event costs rate(Q+q) - rate(Q) at its own price, and is an event once, however it came.
    #[test]
    fn late_events_end_where_events_in_time_do(rows in events(), cut in any::<prop::sample::Index>()) {
        let (in_time, late) = rows.split_at(cut.index(rows.len()));
        let october = close("2026-10", in_time);
        let (bills, _) = invoices("2026-10", &october.charges, &contracts(), &CreditState::default());
        // Everything comes again, as after a compaction of the table.
        let november = try_close("2026-11", &rows, &october.batches, &booked(&bills)).unwrap();
        prop_assert_eq!(november.counts.late, late.len() as u64);
        prop_assert_eq!(november.counts.repeated, in_time.len() as u64);
        let all = close("2026-10", &rows);
        prop_assert_eq!(sums(&[&october, &november]), sums(&[&all]));
        let (bills, _) = invoices("2026-11", &november.charges, &contracts(), &CreditState::default());
        let lines = bills.iter().flat_map(|bill| &bill.lines);
        prop_assert!(lines.clone().all(|line| line.kind == LineKind::Correction && line.charge_period == period("2026-10")));
    }

    /// An event and its reversal are nothing, in tokens and in every amount, in one month or in two.
    #[test]
    fn an_event_and_its_reversal_are_nothing(rows in events(), across in any::<bool>()) {
        let now = "2026-11-05T00:00:00Z".parse().unwrap();
        let reverse = |row: &BillingRow| {
            let correction = Correction { event_id: row.event_id, change: Change::Reverse, reason: "wrong".into() };
            correction_rows(row, &correction, now).unwrap()
        };
        let reversals: Vec<_> = rows.iter().flat_map(reverse).collect();
        if across {
            let october = close("2026-10", &rows);
            let (bills, _) = invoices("2026-10", &october.charges, &contracts(), &CreditState::default());
            let november = try_close("2026-11", &reversals, &october.batches, &booked(&bills)).unwrap();
            prop_assert!(sums(&[&october, &november]).is_empty());
        } else {
            let both = close("2026-10", &[rows, reversals].concat());
            prop_assert!(both.charges.iter().all(|charge| charge.quantity == 0 && charge.contracted == Money::ZERO && charge.list == Money::ZERO));
            let (bills, _) = invoices("2026-10", &both.charges, &contracts(), &CreditState::default());
            prop_assert!(bills.is_empty());
        }
    }

    /// Rows that share an id with a row that came before, or that their hash belies, are in no total.
    #[test]
    fn another_payload_never_enters_a_total(rows in events(), tokens in 1..1000_i64, belied in any::<bool>()) {
        let spoil = |row: &BillingRow| {
            let mut row = row.clone();
            row.output_tokens += tokens;
            row.ingested_at = "2026-12-01T00:00:00Z".parse().unwrap();
            if !belied {
                row.payload_hash = payload_hash(&row);
            }
            row
        };
        let spoiled: Vec<_> = rows.iter().map(spoil).collect();
        let (good, all) = (close("2026-10", &rows), close("2026-10", &[spoiled, rows.clone()].concat()));
        prop_assert_eq!(&good.batches, &all.batches);
        prop_assert_eq!(all.counts.quarantined, rows.len() as u64);
    }

    /// Invoices: exact sums, numbers without a gap, no row of another tenant, and what names hide changes nothing.
    #[test]
    fn invoices_add_up(rows in events()) {
        let closed = close("2026-10", &rows);
        let (bills, _) = invoices("2026-10", &closed.charges, &contracts(), &CreditState::default());
        for (place, bill) in (1..).zip(&bills) {
            prop_assert_eq!(&bill.number, &format!("2026-10-{place:06}"));
            let amounts = bill.lines.iter().map(|line| line.amount);
            prop_assert_eq!(bill.subtotal, Money::sum(amounts).unwrap());
            prop_assert_eq!(bill.total, bill.subtotal.plus(bill.tax).unwrap());
            prop_assert_eq!(bill.total.rounded(bill.currency).unwrap(), bill.total);
            let exact = Money::sum(bill.lines.iter().map(|line| line.contracted)).unwrap();
            prop_assert_eq!(exact.plus(bill.tax).unwrap().plus(bill.adjustment).unwrap(), bill.total);
            for line in &bill.lines {
                prop_assert_eq!(line.amount, line.contracted.rounded(bill.currency).unwrap());
                prop_assert_eq!(line.contracted, Money::sum(line.rated.iter().map(|part| part.contracted)).unwrap());
                prop_assert_eq!(line.quantity, line.rated.iter().flat_map(|part| part.regions.values()).sum::<i64>());
            }
        }
        let of_bills = Money::sum(bills.iter().flat_map(|bill| &bill.lines).map(|line| line.contracted)).unwrap();
        prop_assert_eq!(of_bills, Money::sum(closed.charges.iter().map(|charge| charge.contracted)).unwrap());
        let ids: BTreeSet<_> = bills.iter().flat_map(|bill| &bill.lines).map(|line| line.external_id).collect();
        prop_assert_eq!(ids.len(), bills.iter().map(|bill| bill.lines.len()).sum::<usize>());
        let json = serde_json::to_string(&bills).unwrap();
        prop_assert_eq!(serde_json::from_str::<Vec<Invoice>>(&json).unwrap(), bills);
    }

    /// Drawing never exceeds a credit's balance or what is owed, and takes what expires first.
    #[test]
    fn credits_are_drawn_in_order_and_never_exceeded(spent in prop::collection::vec(0..4_000_i64, 1..8), first in 1..60_i64, second in 1..60_i64) {
        let credit = |id: &str, amount: i64, rest: &str| format!(
            "[[contract.credit]]\nid = \"{id}\"\nkind = \"granted\"\namount = \"{amount}\"\nfrom = \"2026-01-01T00:00:00Z\"\n{rest}\n"
        );
        let text = CONTRACTS.replacen(
            "tax_rate = \"19\"",
            &format!("tax_rate = \"19\"\n{}{}", credit("never", second, ""), credit("soon", first, "expires = \"2027-12-01T00:00:00Z\"")),
            1,
        );
        let contracts = Contracts::parse(&text, "c").unwrap();
        let (mut state, mut month) = (CreditState::default(), period("2026-01"));
        for thousands in spent {
            let usage = event("acme", 1, &month.to_string(), "other", [0, 0, 1_000 * thousands]);
            let closed = close(&month.to_string(), &[usage]);
            let (bills, next) = invoices(&month.to_string(), &closed.charges, &contracts, &state);
            let of = |kind| Money::sum(bills.iter().flat_map(|bill| &bill.lines).filter(|line| line.kind == kind).map(|line| line.amount)).unwrap();
            let (used, drawn) = (of(LineKind::Usage), of(LineKind::CreditDraw).negated());
            prop_assert!(drawn >= Money::ZERO && drawn <= used);
            let credits = &next.0["acme"];
            prop_assert!(credits.values().all(|credit| credit.drawn <= credit.amount));
            let left = |id: &str| credits[id].amount.minus(credits[id].drawn).unwrap();
            prop_assert!(credits["never"].drawn == Money::ZERO || left("soon") == Money::ZERO);
            prop_assert!(drawn == used || left("soon").plus(left("never")).unwrap() == Money::ZERO);
            (state, month) = (next, month.next());
        }
    }
}

#[test]
fn the_hidden_name_of_a_tenant_changes_no_total() {
    let rows: Vec<_> = (0..20)
        .map(|n| event("stranger", n, "2026-10", "other", [n, 2 * n, 3 * n]))
        .collect();
    let erase = |row: &BillingRow| {
        let mut row = row.clone();
        row.tenant_id = "erased-1".parse().unwrap();
        row.payload_hash = payload_hash(&row);
        row
    };
    let erased: Vec<_> = rows.iter().map(erase).collect();
    let total = |rows: &[BillingRow]| {
        let closed = close("2026-10", rows);
        let (bills, _) = invoices("2026-10", &closed.charges, &contracts(), &CreditState::default());
        bills
            .iter()
            .map(|bill| (bill.number.clone(), bill.total))
            .collect::<Vec<_>>()
    };
    assert!(!total(&rows).is_empty());
    assert_eq!(total(&rows), total(&erased));
}

#[test]
fn a_later_price_changes_no_earlier_charge() {
    let rows: Vec<_> = (0..20)
        .map(|n| event("acme", n, "2026-10", "other", [n, 2 * n, 3 * n]))
        .collect();
    let later = PRICES
        .replace("2026-01-01.1", "later")
        .replace("2020-01-01", "2026-10-01")
        .replace("\"9.00\"", "\"90.00\"");
    let with = book().with(&later, "later.toml").unwrap();
    let before = close("2026-10", &rows);
    let after = try_close_with((&with, &contracts()), "2026-10", &rows, &[], &Booked::new()).unwrap();
    assert_eq!((before.batches, before.charges), (after.batches, after.charges));
    let now = usage_row(
        &result("acme", 1),
        false,
        &with,
        &contracts(),
        "2026-11-24T01:00:03Z".parse().unwrap(),
    )
    .unwrap();
    assert_eq!(now.price_version, "later");
}

#[test]
fn fee_minimum_purchase_and_tax_are_on_the_invoice() {
    let text = CONTRACTS.replacen(
        "tax_rate = \"19\"",
        "tax_rate = \"19\"\nfee_per_month = \"500.00\"\nminimum_per_month = \"100.00\"\n[[contract.credit]]\nid = \"p\"\nkind = \"prepaid\"\namount = \"50\"\nfrom = \"2026-10-01T00:00:00Z\"\n",
        1,
    );
    let contracts = Contracts::parse(&text, "c").unwrap();
    let closed = close(
        "2026-10",
        &[event("acme", 1, "2026-10", "debian-sections", [0, 0, 2_000_000])],
    );
    let (bills, state) = invoices("2026-10", &closed.charges, &contracts, &CreditState::default());
    let lines: Vec<_> = bills[0]
        .lines
        .iter()
        .map(|line| (line.kind, line.amount.to_string()))
        .collect();
    // 2 million tokens at 5.00: the negotiated price comes before the list price.
    let expected = [
        (LineKind::Usage, "10"),
        (LineKind::Fee, "500"),
        (LineKind::Minimum, "90"),
        (LineKind::CreditPurchase, "50"),
        (LineKind::CreditDraw, "-10"),
    ];
    assert_eq!(lines, expected.map(|(kind, amount)| (kind, amount.to_owned())));
    let bill = &bills[0];
    assert_eq!(
        (bill.subtotal.to_string(), bill.tax.to_string(), bill.total.to_string()),
        ("640".into(), "121.6".into(), "761.6".into())
    );
    assert_eq!(bill.due_at.duration_since(bill.issued_at).as_hours(), 30 * 24);
    // In the next month nothing is used and nothing bought again; globex has no fee and no invoice.
    let (bills, _) = invoices("2026-11", &[], &contracts, &state);
    let lines: Vec<_> = bills
        .iter()
        .flat_map(|bill| &bill.lines)
        .map(|line| (line.kind, line.amount.to_string()))
        .collect();
    assert_eq!(
        lines,
        [(LineKind::Fee, "500".to_owned()), (LineKind::Minimum, "100".to_owned())]
    );
}

#[test]
fn a_row_of_a_later_month_or_of_unknown_terms_closes_nothing() {
    let later = event("acme", 1, "2026-11", "other", [1, 1, 1]);
    let error = try_close("2026-10", &[later], &[], &Booked::new()).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("is of 2026-11, which is not a month up to 2026-10"),
        "{error}"
    );
    let mut unknown = event("acme", 1, "2026-10", "other", [1, 1, 1]);
    unknown.price_version = "lost".into();
    unknown.payload_hash = payload_hash(&unknown);
    let error = try_close("2026-10", &[unknown], &[], &Booked::new()).err().unwrap();
    assert!(
        error
            .to_string()
            .contains("the ledger names version lost of price book public"),
        "{error}"
    );
}

#[test]
fn the_same_correction_twice_is_one_and_two_different_ones_are_a_conflict() {
    let row = event("acme", 1, "2026-10", "other", [10, 0, 5]);
    let now = "2026-11-05T00:00:00Z".parse().unwrap();
    let make = |of: &BillingRow, change| {
        let reason = "counted twice".to_owned();
        correction_rows(
            of,
            &Correction {
                event_id: of.event_id,
                change,
                reason,
            },
            now,
        )
    };
    let replaced = make(&row, Change::Replace([10, 0, 3])).unwrap();
    assert_eq!(new_rows(replaced.clone(), &[]).unwrap(), replaced);
    assert!(new_rows(replaced.clone(), &replaced).unwrap().is_empty());
    for other in [Change::Replace([10, 0, 4]), Change::Reverse] {
        let error = new_rows(make(&row, other).unwrap(), &replaced).unwrap_err();
        assert!(error.to_string().contains("was corrected otherwise already"), "{error}");
    }
    let reversed = make(&row, Change::Reverse).unwrap();
    assert!(new_rows(make(&row, Change::Replace([1, 0, 1])).unwrap(), &reversed).is_err());
    // The replacement can be corrected in its turn.
    let again = make(&replaced[1], Change::Replace([9, 0, 3])).unwrap();
    assert_eq!(new_rows(again.clone(), &replaced).unwrap(), again);
    assert_eq!(again.iter().map(|row| row.correction_seq).collect::<Vec<_>>(), [2, 2]);
    let adjusted = make(
        &row,
        Change::Adjust {
            tokens: [-2, 0, 0],
            number: 1,
        },
    )
    .unwrap();
    assert_eq!(new_rows(adjusted.clone(), &replaced).unwrap(), adjusted);
    assert!(
        make(&replaced[0], Change::Reverse)
            .unwrap_err()
            .to_string()
            .contains("is a reversal row")
    );
    let error = make(&row, Change::Replace([-1, 0, 0])).unwrap_err();
    assert!(error.to_string().contains("must not be negative"), "{error}");
}
