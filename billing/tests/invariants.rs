//! Laws of `docs/finance.md` that have no test file of their own, for currencies with no, two and three decimals;
//! and that the document's table names a property test for each law.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, RecordBatch};
use arrow::datatypes::Decimal128Type;
use bigdecimal::BigDecimal;
use billing::close::rated::{Booked, Charge};
use billing::contract::Contracts;
use billing::event::{payload_hash, usage_row};
use billing::invoice::{CreditState, Invoice};
use billing::money::{MONEY_PARTS_MAX, Money};
use billing::price_book::PriceBook;
use billing::rate::{Model, PricePoint, Step, rate};
use billing::report::focus::{FocusVersion, Unbilled, cost_and_usage};
use billing::report::reconcile::{Expected, reconcile};
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{InMemory, Invoiced};
use common::{CONTRACTS, PRICES, REGIONS, by_region, closing, kept, result};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use proptest::prelude::*;
use schemas::billing::{BillingRow, to_batch};
use schemas::request::ServiceTier;
use schemas::result::{ResultRow, Status};

/// Billed in EUR, USD, JPY and KWD, and without a contract.
const TENANTS: [&str; 5] = ["acme", "globex", "hikari", "kuwaiti", "stranger"];
const OCTOBER: &str = "2026-10-17T09:00:00Z";

/// The example's prices with steps that small quantities reach, from 2020 on.
fn prices() -> String {
    PRICES.replace("1_000_000_000", "100")
}

fn book() -> PriceBook {
    PriceBook::parse(&prices(), "prices.toml").unwrap()
}

fn contracts() -> Contracts {
    let more = [("hikari", "JPY", "JP"), ("kuwaiti", "KWD", "KW")].map(|(tenant, currency, country)| {
        format!(
            "\n[[contract]]\ntenant_id = \"{tenant}\"\nversion = \"{tenant}.1\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
             segment = \"smb\"\ncurrency = \"{currency}\"\ncountry = \"{country}\"\ntax_category = \"O\"\n"
        )
    });
    let contracts = format!("{}{}", CONTRACTS.replace("100_000_000", "100"), more.concat());
    Contracts::parse(&contracts, "contracts.toml").unwrap()
}

prop_compose! {
    /// A request of some tenant that ended somehow in October.
    fn request()(
        tenant in 0..TENANTS.len(),
        region in prop::sample::select(&REGIONS[..]),
        tier in prop::sample::select(&ServiceTier::ALL[..]),
        status in prop::sample::select(vec![Status::Ok, Status::Ok, Status::Ok, Status::Error, Status::Expired, Status::Duplicate]),
        input in 0..300_i64,
        cached in 0..=100_i64,
        output in 0..300_i64,
    ) -> ResultRow {
        ResultRow {
            region: region.to_owned(),
            service_tier: tier,
            status,
            input_tokens: input,
            cached_tokens: input * cached / 100,
            output_tokens: output,
            finished_at: OCTOBER.parse().unwrap(),
            ..result(TENANTS[tenant], 0)
        }
    }
}

/// Requests of one month, numbered.
fn requests() -> impl Strategy<Value = Vec<ResultRow>> {
    prop::collection::vec(request(), 1..40).prop_map(|all| {
        let numbered = (0..).zip(all);
        let named = numbered.map(|(n, request)| {
            let ResultRow {
                custom_id,
                result_id,
                position,
                ..
            } = result(request.tenant_id.as_str(), n);
            ResultRow {
                custom_id,
                result_id,
                position,
                ..request
            }
        });
        named.collect()
    })
}

fn ledger_with(book: &PriceBook, requests: &[ResultRow]) -> Vec<BillingRow> {
    let row = |request: &ResultRow| usage_row(request, false, book, &contracts(), request.finished_at).unwrap();
    requests.iter().map(row).collect()
}

fn ledger(requests: &[ResultRow]) -> Vec<BillingRow> {
    ledger_with(&book(), requests)
}

fn table(rows: &[BillingRow]) -> InMemory {
    InMemory(rows.chunks(7).map(|rows| to_batch(rows).unwrap()).collect())
}

fn report(rows: &[BillingRow], tenant: Option<&str>) -> UsageReport<'static> {
    let filter = Filter {
        tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        ..Filter::default()
    };
    usage(
        &table(rows),
        kept(book()),
        kept(contracts()),
        kept(Invoiced::default()),
        &filter,
    )
    .unwrap()
}

fn exact(money: Money) -> BigDecimal {
    BigDecimal::from_str(&money.to_string()).unwrap()
}

/// A month as it is closed, with the bytes of its files.
struct Closed {
    batches: Vec<RecordBatch>,
    charges: Vec<Charge>,
    invoices: Vec<Invoice>,
    bytes: Vec<u8>,
}

fn close(book: &PriceBook, month: &str, rows: &[BillingRow], earlier: &[RecordBatch], booked: &Booked) -> Closed {
    let contracts = contracts();
    let closed = closing::try_close_with((book, &contracts), month, rows, earlier, booked).unwrap();
    let closing::Closed { batches, charges, .. } = closed;
    let (invoices, _) = closing::invoices(month, &charges, &contracts, &CreditState::default());
    let mut bytes = serde_json::to_vec(&invoices).unwrap();
    if let Some(first) = batches.first() {
        let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), None).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        bytes.extend(writer.into_inner().unwrap());
    }
    Closed {
        batches,
        charges,
        invoices,
        bytes,
    }
}

fn close_october(rows: &[BillingRow]) -> Closed {
    close(&book(), "2026-10", rows, &[], &Booked::new())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each result has one event and each event one result; one that is lost, doubled or made up is a break.
    #[test]
    fn each_result_has_one_event_and_each_event_one_result(all in requests(), at in any::<prop::sample::Index>()) {
        let results = InMemory(vec![schemas::result::to_batch(&all).unwrap()]);
        let passes = |rows: &[BillingRow]| {
            let report = reconcile(&results, &table(rows), &Expected::new(), &book(), &contracts()).unwrap();
            prop_assert_eq!(report.results, all.len() as u64);
            Ok(report.passed())
        };
        let rows = ledger(&all);
        let ids: BTreeSet<_> = rows.iter().map(|row| row.event_id).collect();
        prop_assert_eq!(ids.len(), all.len());
        prop_assert!(passes(&rows)?);
        let at = at.index(rows.len());
        let mut lost = rows.clone();
        lost.remove(at);
        prop_assert!(!passes(&lost)?);
        let mut made_up = result("acme", 1_000);
        made_up.finished_at = OCTOBER.parse().unwrap();
        for more in [rows[at].clone(), ledger(&[made_up]).remove(0)] {
            prop_assert!(!passes(&[rows.clone(), vec![more]].concat())?);
        }
    }

    /// One unit more costs the price of its step, on both sides of every step's end.
    #[test]
    fn steps_meet_at_every_boundary(prices in prop::collection::vec(1..1_000_000_000_i64, 2..6), width in 1..1_000_i64) {
        let last = prices.len() - 1;
        let price = |parts: i64| format!("{}.{:06}", parts / 1_000_000, parts % 1_000_000);
        let steps = prices.iter().enumerate().map(|(at, parts)| Step {
            up_to: (at < last).then_some((at as i64 + 1) * width),
            price: price(*parts).parse().unwrap(),
        });
        let point = PricePoint { model: Model::Graduated, per_units: 1_000_000, steps: steps.collect() };
        let at = |quantity| exact(rate(&point, quantity).unwrap());
        let unit = |parts: i64| BigDecimal::from_str(&price(parts)).unwrap() / BigDecimal::from(1_000_000);
        for (step, pair) in prices.windows(2).enumerate() {
            let end = (step as i64 + 1) * width;
            prop_assert_eq!(at(end) - at(end - 1), unit(pair[0]));
            prop_assert_eq!(at(end + 1) - at(end), unit(pair[1]));
        }
    }

    /// Prices that begin later change no charge, no invoice and no byte of what is closed.
    #[test]
    fn a_later_price_changes_no_earlier_charge(all in requests(), first_digit in 1..10_u32) {
        let later = prices()
            .replace("2026-01-01.1", "later")
            .replace("2020-01-01", "2026-10-18")
            .replace("price = \"", &format!("price = \"{first_digit}"));
        let with = book().with(&later, "later.toml").unwrap();
        let (before, after) = (ledger(&all), ledger_with(&with, &all));
        prop_assert_eq!(&before, &after);
        let closed = close(&with, "2026-10", &after, &[], &Booked::new());
        prop_assert_eq!(closed.bytes, close_october(&before).bytes);
    }

    /// What comes after a month was closed is charged in the next one; the month made again from its lock has
    /// the same bytes, in whatever order its rows are read.
    #[test]
    fn closed_files_never_change((first, second) in (requests(), requests()), cut in any::<prop::sample::Index>()) {
        let all: Vec<_> = [first, second].concat().into_iter().zip(0..).map(|(request, n)| ResultRow {
            custom_id: format!("row-{n}").parse().unwrap(),
            result_id: result("acme", n).result_id,
            ..request
        }).collect();
        let rows = ledger(&all);
        let (in_time, late) = rows.split_at(cut.index(rows.len()));
        let october = close_october(in_time);
        let mut booked = Booked::new();
        october.invoices.iter().for_each(|invoice| invoice.book(&mut booked));
        let november = close(&book(), "2026-11", late, &october.batches, &booked);
        let again: Vec<_> = in_time.iter().rev().cloned().collect();
        prop_assert_eq!(&close_october(&again).bytes, &october.bytes);
        // Together they charge what the month would have charged, had nothing come late.
        let sum = |all: &[&Closed]| {
            let mut sums: BTreeMap<_, BigDecimal> = BTreeMap::new();
            for charge in all.iter().flat_map(|closed| &closed.charges) {
                *sums.entry(charge.key.clone()).or_default() += exact(charge.contracted);
            }
            sums
        };
        prop_assert_eq!(sum(&[&october, &november]), sum(&[&close_october(&rows)]));
    }

    /// The lines of all tenants are those of each, and none of them is of another.
    #[test]
    fn tenants_add_up_to_the_platform_and_no_row_crosses_them(all in requests()) {
        let rows = ledger(&all);
        let whole = report(&rows, None);
        let mut lines = Vec::new();
        for tenant in TENANTS {
            let own = report(&rows, Some(tenant));
            let own = common::lines(&own);
            prop_assert!(own.iter().all(|line| line.tenant.as_str() == tenant));
            lines.extend(own);
        }
        let whole = common::lines(&whole);
        prop_assert_eq!(&lines, &whole);
        let tokens: i64 = all.iter().filter(|one| one.status == Status::Ok).map(|one| one.input_tokens + one.output_tokens).sum();
        prop_assert_eq!(lines.iter().map(|line| line.quantity).sum::<i64>(), tokens);
        let invoices = close_october(&rows).invoices;
        let billed = |lines: &mut dyn Iterator<Item = Money>| lines.map(exact).sum::<BigDecimal>();
        let of_invoices = billed(&mut invoices.iter().flat_map(|invoice| &invoice.lines).map(|line| line.amount));
        prop_assert_eq!(of_invoices, billed(&mut whole.iter().map(|line| line.billed)));
    }

    /// ListCost = ListUnitPrice × PricingQuantity to the last digit, the contracted one too, and no cost twice.
    #[test]
    fn list_cost_is_list_unit_price_times_pricing_quantity(all in requests(), new in any::<bool>()) {
        let (book, contracts, invoiced) = (book(), contracts(), Invoiced::default());
        let report = usage(&table(&ledger(&all)), &book, &contracts, &invoiced, &by_region()).unwrap();
        let version = if new { FocusVersion::V1_4 } else { FocusVersion::V1_2 };
        let unbilled = Unbilled { report: &report, invoiced: &invoiced, closed_through: None, month: None };
        let rows = common::rows(cost_and_usage(&common::issuer([]), Some(unbilled), version, &book, &contracts));
        let number = |row: &common::Row, column: &str| BigDecimal::from_str(&row[column]).unwrap();
        let (mut list, mut billed) = (BigDecimal::default(), BigDecimal::default());
        for row in &rows {
            billed += number(row, "BilledCost");
            if row["ChargeCategory"] == "Usage" {
                let quantity = number(row, "PricingQuantity");
                prop_assert_eq!(number(row, "ListCost"), number(row, "ListUnitPrice") * &quantity);
                prop_assert_eq!(number(row, "ContractedCost"), number(row, "ContractedUnitPrice") * &quantity);
                list += number(row, "ListCost");
            }
        }
        let sum = |of: fn(&billing::report::Line) -> Money| common::lines(&report).iter().map(|line| exact(of(line))).sum::<BigDecimal>();
        prop_assert_eq!(list, sum(|line| line.list));
        prop_assert_eq!(billed, sum(|line| line.billed));
    }

    /// Another pseudonym in all rows of a tenant changes no quantity and no amount.
    #[test]
    fn erasing_a_tenants_identity_changes_no_total(all in requests()) {
        let rows = ledger(&all);
        let erased = rows.iter().map(|row| {
            let mut row = row.clone();
            if row.tenant_id.as_str() == "stranger" {
                row.tenant_id = "erased-1".parse().unwrap();
                row.job_id = "erased".parse().unwrap();
                row.payload_hash = payload_hash(&row);
            }
            row
        });
        let erased: Vec<_> = erased.collect();
        let totals = |rows: &[BillingRow]| {
            let mut totals: Vec<_> = report(rows, None).totals.into_iter().map(|total| {
                (total.currency, total.charged, total.list, total.contracted, total.billed)
            }).collect();
            totals.sort_by_key(|total| format!("{total:?}"));
            let mut payable: Vec<_> = close_october(rows).invoices.iter().map(|invoice| invoice.total).collect();
            payable.sort();
            (totals, payable)
        };
        prop_assert_eq!(totals(&rows), totals(&erased));
    }

    /// Every amount up to ±(10³⁸−1) parts comes back from a Parquet file.
    #[test]
    fn every_amount_comes_back_from_parquet(digits in prop::collection::vec(0..39_u32, 1..50), parts in any::<i128>()) {
        let widest = [MONEY_PARTS_MAX, -MONEY_PARTS_MAX];
        let amounts = digits.iter().map(|digits| parts % 10_i128.pow(*digits)).chain(widest);
        let amounts: Vec<Money> = amounts.map(|parts| Money::from_parts(parts).unwrap()).collect();
        let column = Decimal128Array::from_iter_values(amounts.iter().map(|amount| amount.parts()));
        let column: ArrayRef = Arc::new(column.with_precision_and_scale(38, 18).unwrap());
        let batch = RecordBatch::try_from_iter([("amount", column)]).unwrap();
        let mut writer = ArrowWriter::try_new(tempfile::tempfile().unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let file = writer.into_inner().unwrap();
        let read = ParquetRecordBatchReader::try_new(file, 1_024).unwrap().next().unwrap().unwrap();
        let read = read.column(0).as_primitive::<Decimal128Type>().values().to_vec();
        let read: Vec<Money> = read.into_iter().map(|parts| Money::from_parts(parts).unwrap()).collect();
        prop_assert_eq!(read, amounts);
    }
}

#[test]
fn the_document_names_a_property_test_for_each_law() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("../docs/finance.md")).unwrap();
    let (_, laws) = document.split_once("| law | property test |\n|---|---|\n").unwrap();
    let laws: Vec<&str> = laws.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(laws.len(), 21);
    for law in laws {
        let tests: Vec<&str> = law.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{law}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test}: file::test"));
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            let properties: String = text
                .split("proptest! {")
                .skip(1)
                .map(|block| block.split("\n}\n").next().unwrap())
                .collect();
            assert!(
                properties.contains(&format!("fn {name}(")),
                "{file} has no property {name}"
            );
        }
    }
}
