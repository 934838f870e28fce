//! The reports a controller reads: what they say, and that they find what was tampered with.

mod common;

use std::collections::BTreeMap;

use billing::event::{payload_hash, usage_row};
use billing::report::reconcile::{Expected, Finding, Reconciliation, reconcile};
use billing::report::usage::{Filter, UsageReport, usage};
use billing::report::{Batches, InMemory, Invoiced, ReportError, Table, render};
use common::{book, contracts, event, kept, lines, result};
use schemas::billing::BillingRow;
use schemas::result::{ResultRow, Status};
use schemas::{billing as events, result as results};

/// 120 requests of three tenants, of which `stranger` has no contract.
fn month() -> (Vec<ResultRow>, Vec<BillingRow>) {
    let mut all: Vec<_> = (0..120)
        .map(|n| result(["acme", "globex", "stranger"][n as usize % 3], n))
        .collect();
    all[9].status = Status::Error;
    all[12].status = Status::Duplicate;
    let ledger = all.iter().map(event).collect();
    (all, ledger)
}

fn report(ledger: &[BillingRow], filter: &Filter) -> UsageReport<'static> {
    let table = InMemory(ledger.chunks(50).map(|rows| events::to_batch(rows).unwrap()).collect());
    usage(
        &table,
        kept(book()),
        kept(contracts()),
        kept(Invoiced::default()),
        filter,
    )
    .unwrap()
}

fn reconciled(all: &[ResultRow], ledger: &[BillingRow], expected: &Expected) -> Reconciliation {
    let of_results = InMemory(all.chunks(50).map(|rows| results::to_batch(rows).unwrap()).collect());
    let of_events = InMemory(ledger.chunks(50).map(|rows| events::to_batch(rows).unwrap()).collect());
    reconcile(&of_results, &of_events, expected, &book(), &contracts()).unwrap()
}

/// What is found after `change`, as text.
fn breaks(change: impl Fn(&mut Vec<ResultRow>, &mut Vec<BillingRow>)) -> Vec<String> {
    let (mut all, mut ledger) = month();
    change(&mut all, &mut ledger);
    let report = reconciled(&all, &ledger, &Expected::new());
    assert!(!report.passed());
    let text = render::reconciliation(&report);
    assert!(
        text.ends_with(&format!("NOT reconciled: {} breaks.\n", report.findings)),
        "{text}"
    );
    report.shown.iter().map(Finding::to_string).collect()
}

#[test]
fn each_tenant_pays_its_own_price_in_its_own_currency() {
    let (_, ledger) = month();
    let report = report(&ledger, &Filter::default());
    let billed: Vec<_> = report
        .totals
        .iter()
        .map(|total| {
            let currency = total.currency.unwrap();
            let free: i64 = total.free_requests.values().sum();
            (
                total.tenant.as_str(),
                total.charged.0,
                free,
                total.contracted.to_string(),
                total.billed.to_minor(currency),
                currency.code(),
            )
        })
        .collect();
    // acme: 38 × 45 × 1.60 + 38 × 16 × 0.50 + 38 × 3 × 5.00 per million, and so on.
    assert_eq!(
        billed,
        [
            (
                "acme",
                [1_710, 608, 114, 38],
                2,
                "0.00361".to_owned(),
                "0.00".to_owned(),
                "EUR"
            ),
            (
                "globex",
                [1_800, 640, 120, 40],
                0,
                "0.005002".to_owned(),
                "0.00".to_owned(),
                "USD"
            ),
            (
                "stranger",
                [1_800, 640, 120, 40],
                0,
                "0.00464".to_owned(),
                "0.00".to_owned(),
                "EUR"
            ),
        ]
    );
    let lines = lines(&report);
    assert_eq!((lines.len(), report.line_count), (9, 9));
    assert_eq!(lines[0].list.to_string(), "0.00342");
    assert_eq!(
        report.at_list.iter().map(|tenant| tenant.as_str()).collect::<Vec<_>>(),
        ["stranger"]
    );
    assert_eq!((report.events, report.repeated, report.quarantine.rows), (120, 0, 0));
}

#[test]
fn a_line_is_rounded_once() {
    let mut large = result("globex", 1);
    (large.input_tokens, large.cached_tokens, large.output_tokens) = (1_000_000, 0, 0);
    // 2.15 + 0.0043 = 2.1543, and not 2.15 + 0.00.
    let mut small = result("globex", 2);
    (small.input_tokens, small.cached_tokens, small.output_tokens) = (2_000, 0, 0);
    let report = report(
        &[event(&large), event(&small), event(&result("globex", 3))],
        &Filter::default(),
    );
    let line = &lines(&report)[0];
    assert_eq!(
        (line.quantity, line.contracted.to_string().as_str()),
        (1_002_045, "2.15439675")
    );
    assert_eq!(line.billed.to_string(), "2.15");
}

#[test]
fn a_filter_takes_one_tenant_and_one_month() {
    let (_, mut ledger) = month();
    let december = ResultRow {
        finished_at: "2026-12-01T00:00:00Z".parse().unwrap(),
        ..result("acme", 500)
    };
    ledger.push(event(&december));
    let months = |filter: &Filter| -> Vec<(String, String)> {
        report(&ledger, filter)
            .totals
            .iter()
            .map(|total| (total.tenant.to_string(), total.period.clone()))
            .collect()
    };
    let acme = Filter {
        tenant: Some("acme".parse().unwrap()),
        ..Filter::default()
    };
    assert_eq!(
        months(&acme),
        [("acme".into(), "2026-11".into()), ("acme".into(), "2026-12".into())]
    );
    let december = Filter {
        period: Some("2026-12".into()),
        ..Filter::default()
    };
    assert_eq!(months(&december), [("acme".into(), "2026-12".into())]);
    assert_eq!(
        months(&Filter {
            period: Some("2027-01".into()),
            ..acme
        }),
        []
    );
}

#[test]
fn the_sum_over_tenants_is_the_sum_over_all() {
    let (_, ledger) = month();
    let whole = report(&ledger, &Filter::default());
    let mut all = Vec::new();
    for tenant in ["acme", "globex", "stranger"] {
        let own = report(
            &ledger,
            &Filter {
                tenant: Some(tenant.parse().unwrap()),
                ..Filter::default()
            },
        );
        let own = lines(&own);
        assert!(own.iter().all(|line| line.tenant.as_str() == tenant));
        all.extend(own);
    }
    assert_eq!(all, lines(&whole));
}

#[test]
fn rows_again_count_once_and_a_second_payload_never() {
    let (_, mut ledger) = month();
    let before = report(&ledger, &Filter::default());
    ledger.extend_from_within(..30);
    let mut other = ledger[0].clone();
    other.output_tokens = 1_000_000_000;
    other.payload_hash = payload_hash(&other);
    other.ingested_at = "2026-11-25T00:00:00Z".parse().unwrap();
    ledger.insert(0, other.clone());
    let mut edited = ledger[6].clone();
    edited.tenant_id = "globex".parse().unwrap();
    ledger.insert(0, edited);
    let after = report(&ledger, &Filter::default());
    assert_eq!((lines(&after), &after.totals), (lines(&before), &before.totals));
    assert_eq!((after.events, after.repeated, after.quarantine.rows), (120, 30, 2));
    assert!(after.quarantine.shown.iter().any(|row| row.event_id == other.event_id));
    let text = render::usage_table(&after).unwrap();
    assert!(
        text.contains("2 rows are quarantined and in no total:") && text.contains("30 repeated rows"),
        "{text}"
    );
}

#[test]
fn a_late_price_change_leaves_earlier_charges_alone() {
    let (_, mut ledger) = month();
    let before = report(&ledger, &Filter::default());
    let dearer = common::PRICES
        .replace("2026-01-01.1", "2026-12-01.1")
        .replace("2020-01-01", "2026-12-01")
        .replace("price = \"", "price = \"9");
    let book = book().with(&dearer, "later.toml").unwrap();
    let december = ResultRow {
        finished_at: "2026-12-01T00:00:00Z".parse().unwrap(),
        ..result("globex", 500)
    };
    ledger.push(usage_row(&december, false, &book, &contracts(), december.finished_at).unwrap());
    let table = InMemory(vec![events::to_batch(&ledger).unwrap()]);
    let (contracts, nothing) = (contracts(), Invoiced::default());
    let after = usage(&table, &book, &contracts, &nothing, &Filter::default()).unwrap();
    let (mut of_november, before) = (lines(&after), lines(&before));
    of_november.retain(|line| line.period == "2026-11");
    assert_eq!(of_november, before);
    assert_eq!(after.line_count, before.len() + 3);
    // Without the later book, its rows cannot be rated, and the report says which book is missing.
    let error = usage(&table, &common::book(), &contracts, &nothing, &Filter::default()).unwrap_err();
    assert!(
        matches!(&error, ReportError::Terms { what, .. } if what == "version 2026-12-01.1 of price book public"),
        "{error}"
    );
}

#[test]
fn an_event_and_its_reversal_come_to_nothing() {
    let (_, mut ledger) = month();
    let before = report(&ledger, &Filter::default());
    let mut twice = event(&result("acme", 900));
    ledger.push(twice.clone());
    twice.event_kind = events::EventKind::Reversal;
    twice.event_id = events::event_id(&twice.tenant_id, &twice.job_id, &twice.custom_id, twice.event_kind, 1);
    for count in [
        &mut twice.input_uncached_tokens,
        &mut twice.input_cached_tokens,
        &mut twice.output_tokens,
        &mut twice.requests,
    ] {
        *count = -*count;
    }
    twice.payload_hash = payload_hash(&twice);
    ledger.push(twice);
    let after = report(&ledger, &Filter::default());
    assert_eq!((lines(&after), after.totals), (lines(&before), before.totals));
}

#[test]
fn the_table_and_the_csv_say_the_same() {
    let (_, ledger) = month();
    let report = report(&ledger, &Filter::default());
    let text = render::usage_table(&report).unwrap();
    for part in [
        "│ acme     ┆ 2026-11 ┆",
        " 1,710 ",
        " 0.002736 ",
        "Rated at list, without a contract: stranger.",
        "Not charged, acme 2026-11: delivered_before 1, request_failed 1.",
        "Price book public, version 2026-01-01.1",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let mut csv = Vec::new();
    let [lines, _] = render::usage_sheets(&report);
    render::csv(lines, &mut csv).unwrap();
    let mut reader = csv::Reader::from_reader(csv.as_slice());
    let rows: Vec<BTreeMap<String, String>> = reader.deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), report.line_count);
    assert_eq!(rows[0]["sku_id"], "debian-sections/batch/input");
    assert_eq!(
        (rows[0]["quantity"].as_str(), rows[0]["contracted_amount"].as_str()),
        ("1710", "0.002736")
    );
    assert_eq!(
        (rows[0]["rated_at"].as_str(), rows[1]["rated_at"].as_str()),
        ("negotiated", "list")
    );
    assert_eq!(
        (rows[8]["tenant_id"].as_str(), rows[8]["contract_version"].as_str()),
        ("stranger", "")
    );
}

#[test]
fn a_report_about_nothing_says_so() {
    let empty = report(&[], &Filter::default());
    assert_eq!((empty.line_count, empty.totals.len()), (0, 0));
    assert!(
        render::usage_table(&empty)
            .unwrap()
            .contains("Totals by tenant and month")
    );
    let report = reconciled(&[], &[], &Expected::new());
    assert!(report.passed() && render::reconciliation(&report).contains("Results: 0."));
}

#[test]
fn a_month_that_agrees_reconciles() {
    let (all, ledger) = month();
    let key = |tenant: &str| (tenant.parse().unwrap(), format!("job-of-{tenant}").parse().unwrap());
    // One of acme's 40 rows is a repeated delivery, which answers no request.
    let expected = Expected::from([(key("acme"), 39), (key("globex"), 40)]);
    let report = reconciled(&all, &ledger, &expected);
    assert!(report.passed(), "{:?}", report.shown);
    assert_eq!((report.results, report.events, report.jobs), (120, 120, 2));
    let euro = &report.money[0];
    assert_eq!((euro.rated_results, euro.rated), (euro.rated, euro.rated_results));
    assert_eq!(euro.rated.plus(euro.rounding), Ok(euro.invoiced));
    let text = render::reconciliation(&report);
    assert!(
        text.ends_with("Reconciled: the ledger says what the results say.\n"),
        "{text}"
    );
    assert!(text.contains("Rated at list, without a contract: stranger."), "{text}");

    let expected = Expected::from([(key("acme"), 41), (key("nobody"), 1)]);
    let report = reconciled(&all, &ledger, &expected);
    let found: Vec<_> = report.shown.iter().map(Finding::to_string).collect();
    assert_eq!(
        found,
        [
            "job job-of-acme of acme: 41 requests, 39 with a result",
            "job job-of-nobody of nobody: 1 requests, 0 with a result"
        ]
    );
}

#[test]
fn a_missing_an_extra_and_a_double_event_are_found() {
    let id = |n| result("x", n).result_id;
    let found = breaks(|_, ledger| drop(ledger.remove(30)));
    assert!(
        found.contains(&format!(
            "result {} (acme job-of-acme row-30): 1 rows in results, 0 in billing_events",
            id(30)
        )),
        "{found:?}"
    );
    assert!(
        found.contains(&"output_tokens of acme: results 114, ledger 111".to_owned()),
        "{found:?}"
    );
    let found = breaks(|_, ledger| ledger.push(event(&result("globex", 700))));
    assert!(
        found.contains(&format!(
            "result {} (globex job-of-globex row-700): 0 rows in results, 1 in billing_events",
            id(700)
        )),
        "{found:?}"
    );
    let found = breaks(|_, ledger| ledger.push(ledger[40].clone()));
    assert_eq!(
        found,
        [format!(
            "result {} (globex job-of-globex row-40): 1 rows in results, 2 in billing_events",
            id(40)
        )]
    );
    let found = breaks(|all, _| all.push(all[41].clone()));
    let twice = format!(
        "result {} (stranger job-of-stranger row-41): 2 rows in results, 1 in billing_events",
        id(41)
    );
    assert_eq!(found[0], twice);
    assert!(
        found.contains(&"output_tokens of stranger: results 123, ledger 120".to_owned()),
        "{found:?}"
    );
}

#[test]
fn an_edited_row_is_found_whichever_field_it_is() {
    type Edit = fn(&mut BillingRow);
    let edits: [(&str, Edit); 9] = [
        ("tenant_id must be \"acme\", but is \"globex\";", |row| {
            row.tenant_id = "globex".parse().unwrap()
        }),
        ("input_cached_tokens must be \"16\", but is \"17\";", |row| {
            row.input_cached_tokens += 1
        }),
        ("billing_currency must be \"EUR\", but is \"USD\";", |row| {
            row.billing_currency = "USD".into()
        }),
        ("price_version must be \"2026-01-01.1\", but is \"2020\";", |row| {
            row.price_version = "2020".into()
        }),
        ("service_tier must be \"batch\", but is \"standard\";", |row| {
            row.service_tier = schemas::request::ServiceTier::Standard
        }),
        ("usage_period must be \"2026-11\", but is \"2026-10\";", |row| {
            row.usage_period = "2026-10".into()
        }),
        ("region must be \"eu\", but is \"us\";", |row| row.region = "us".into()),
        ("billable must be \"true\", but is \"false\";", |row| {
            row.billable = false
        }),
        ("contract_version must be \"acme-2026.1\", but is \"null\";", |row| {
            row.contract_version = None
        }),
    ];
    for (expected, edit) in edits {
        // Once with the old hash, once by someone who knows how to make a new one.
        for rehash in [false, true] {
            let (mut all, mut ledger) = month();
            edit(&mut ledger[33]);
            if rehash {
                ledger[33].payload_hash = payload_hash(&ledger[33]);
            }
            all.reverse();
            let report = reconciled(&all, &ledger, &Expected::new());
            let found: Vec<_> = report.shown.iter().map(Finding::to_string).collect();
            assert!(
                !report.passed() && found.iter().any(|text| text.contains(expected)),
                "{expected} {found:?}"
            );
        }
    }
}

#[test]
fn an_answer_cannot_be_passed_off_as_a_repetition() {
    let found = breaks(|all, ledger| {
        ledger[36] = usage_row(&all[36], true, &book(), &contracts(), all[36].finished_at).unwrap();
    });
    assert!(
        found.iter().any(|text| text.contains("billable must be \"true\"")),
        "{found:?}"
    );
    // A refused one can.
    let (mut all, mut ledger) = month();
    all[36].status = Status::Error;
    ledger[36] = usage_row(&all[36], true, &book(), &contracts(), all[36].finished_at).unwrap();
    assert!(reconciled(&all, &ledger, &Expected::new()).passed());
}

#[test]
fn a_custom_id_used_in_two_batches_is_charged_once_and_shown() {
    let found = breaks(|all, ledger| {
        let again = ResultRow {
            custom_id: all[0].custom_id.clone(),
            ..result("acme", 800)
        };
        ledger.push(event(&again));
        all.push(again);
    });
    assert!(
        found.iter().any(|text| text.contains("another row of this event")),
        "{found:?}"
    );
    assert!(
        found.contains(&"requests of acme: results 39, ledger 38".to_owned()),
        "{found:?}"
    );
}

#[test]
fn many_breaks_are_all_counted_and_a_hundred_shown() {
    let (all, _) = month();
    let report = reconciled(&all, &[], &Expected::new());
    assert!(
        report.findings >= 120 && report.shown.len() < 120,
        "{} {}",
        report.findings,
        report.shown.len()
    );
    assert!(render::reconciliation(&report).contains("BREAK  and 20 more"));
}

struct Broken;

impl Table for Broken {
    fn pieces(&self) -> usize {
        3
    }

    fn read(&self, _: usize, _: &[&'static str]) -> Batches {
        Box::new([Err("gone".into())].into_iter())
    }
}

#[test]
fn columns_that_are_not_needed_may_be_left_out_and_others_are_missed() {
    let (all, ledger) = month();
    let batch = results::to_batch(&all).unwrap();
    let needed: Vec<_> = results::required_columns()
        .iter()
        .map(|name| batch.schema().index_of(name).unwrap())
        .collect();
    let of_results = InMemory(vec![batch.project(&needed).unwrap()]);
    let of_events = InMemory(vec![events::to_batch(&ledger).unwrap()]);
    let none = Expected::new();
    assert!(
        reconcile(&of_results, &of_events, &none, &book(), &contracts())
            .unwrap()
            .passed()
    );
    let too_few = InMemory(vec![batch.project(&needed[1..]).unwrap()]);
    let error = reconcile(&too_few, &of_events, &none, &book(), &contracts()).unwrap_err();
    assert!(matches!(error, ReportError::Row { table: "results", .. }), "{error}");
    let error = usage(&Broken, &book(), &contracts(), &Invoiced::default(), &Filter::default()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read billing_events");
}
