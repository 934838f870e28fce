//! Key figures against figures worked out by hand, and what is missing or stale.

mod common;

use std::fmt::Write as _;

use billing::contract::Contracts;
use billing::event::usage_row;
use billing::period::Period;
use billing::report::kpi::{
    Figure, FxError, Inputs, KpiError, KpiReport, Rates, Split, Value, kpi, kpi_sheet, kpi_table,
};
use billing::report::usage::{Filter, usage};
use billing::report::{By, InMemory, Invoiced, render};
use common::{book, result};
use schemas::billing as events;
use schemas::result::ResultRow;

/// alpha pays 100 a month, then 150; beta left after September; gamma came through a partner in October.
const CONTRACTS: [(&str, &str, &str, &str, &str, &str); 4] = [
    (
        "alpha",
        "a.1",
        "2024-01-01",
        "2026-03-01",
        "enterprise",
        "fee_per_month = \"100\"\ncountry = \"DE\"",
    ),
    (
        "alpha",
        "a.2",
        "2026-03-01",
        "",
        "enterprise",
        "fee_per_month = \"150\"\ncountry = \"DE\"",
    ),
    (
        "beta",
        "b.1",
        "2024-01-01",
        "2026-10-01",
        "smb",
        "minimum_per_month = \"50\"\ncountry = \"FR\"",
    ),
    (
        "gamma",
        "g.1",
        "2026-10-01",
        "",
        "mid_market",
        "fee_per_month = \"30\"\ncountry = \"AT\"\npartner = \"initech\"",
    ),
];

fn contracts() -> Contracts {
    let mut text = "unit_tokens = 1_000_000\n".to_owned();
    for (tenant, version, from, until, segment, rest) in CONTRACTS {
        let _ = write!(
            text,
            "[[contract]]\ntenant_id = \"{tenant}\"\nversion = \"{version}\"\neffective_from = \"{from}T00:00:00Z\"\n\
             segment = \"{segment}\"\ncurrency = \"EUR\"\ntax_category = \"O\"\n{rest}\n"
        );
        if !until.is_empty() {
            let _ = writeln!(text, "effective_until = \"{until}T00:00:00Z\"");
        }
    }
    Contracts::parse(&text, "contracts.toml").unwrap()
}

/// One request a month and tenant since August 2025: a million tokens of output, 6 EUR at list.
fn ledger(contracts: &Contracts) -> InMemory {
    let mut rows = Vec::new();
    for month in 0..15 {
        let (year, of_year) = (2025 + (7 + month) / 12, 1 + (7 + month) % 12);
        for (place, tenant) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
            if (tenant == "beta" && (year, of_year) >= (2026, 10))
                || (tenant == "gamma" && (year, of_year) < (2026, 10))
            {
                continue;
            }
            let row = ResultRow {
                finished_at: format!("{year}-{of_year:02}-15T12:00:00Z").parse().unwrap(),
                input_tokens: 0,
                cached_tokens: 0,
                output_tokens: 1_000_000,
                region: ["eu", "us"][place % 2].into(),
                ..result(tenant, month * 3 + place as i64)
            };
            rows.push(usage_row(&row, false, &book(), contracts, row.finished_at).unwrap());
        }
    }
    InMemory(vec![events::to_batch(&rows).unwrap()])
}

fn figures(inputs: &Inputs, currency: &str, rates: Option<&Rates>) -> Result<KpiReport, KpiError> {
    let contracts = contracts();
    let by = By {
        region: true,
        ..By::default()
    };
    let filter = Filter {
        by,
        ..Filter::default()
    };
    let (book, nothing) = (book(), Invoiced::default());
    let report = usage(&ledger(&contracts), &book, &contracts, &nothing, &filter).unwrap();
    let period: Period = "2026-10".parse().unwrap();
    kpi(&report, period, currency.parse().unwrap(), &contracts, rates, inputs)
}

fn inputs() -> Inputs {
    let text = "[month.2026-10]\nsales_and_marketing = \"500.00\"\ngross_margin = \"0.8\"\n";
    Inputs::parse(text, "inputs.toml").unwrap()
}

fn find<'a>(report: &'a KpiReport, name: &str, split: &Split) -> &'a Figure {
    let found = report
        .figures
        .iter()
        .find(|figure| figure.name == name && figure.split == *split);
    found.unwrap_or_else(|| panic!("{name} of {split:?}"))
}

#[test]
fn every_definition_gives_the_figure_worked_out_by_hand() {
    let report = figures(&inputs(), "EUR", None).unwrap();
    let expected = [
        // alpha 150 and gamma 30; beta is gone.
        ("MRR", "180.00", "180", ""),
        // September: alpha 150 and beta 50.
        ("MRR growth", "-0.1000", "-20", "200"),
        ("ARR", "2160.00", "2160", ""),
        // Usage 2 × 6, fees 180.
        ("Annualised net revenue", "2304.00", "2304", ""),
        // Of October 2025's alpha 100 and beta 50, alpha pays 150 now.
        ("NRR, committed", "1.0000", "150", "150"),
        ("GRR", "0.6667", "100", "150"),
        // Then: 3 × (106 + 6); now alpha 3 × 156, beta 2 × 6.
        ("NRR, trailing 3 months of net revenue", "1.4286", "480", "336"),
        // alpha: 4 × 106 + 8 × 156 = 1672; beta 11 × 6 = 66; gamma 36.
        ("Customer concentration", "0.9425", "1672", "1774"),
        // By usage alone: eu 12 × 6 and gamma's 6, us 11 × 6.
        ("Region concentration", "0.5417", "78", "144"),
        ("Countries", "3", "", ""),
        ("Partner share of new customers", "1.0000", "1", "1"),
        ("CAC", "500.00", "500", "1"),
        // ARPA 90 × 0.8 = 72, churn 1 of 2.
        ("LTV", "144.00", "72", "0.5"),
        ("LTV / CAC", "0.2880", "144", "500"),
    ];
    for (name, value, numerator, denominator) in expected {
        let figure = find(&report, name, &Split::All);
        let side = |side: Option<billing::money::Money>| side.map_or_else(String::new, |side| side.to_string());
        let found = (
            figure.shown(report.currency),
            side(figure.numerator),
            side(figure.denominator),
        );
        assert_eq!(
            found,
            (value.to_owned(), numerator.to_owned(), denominator.to_owned()),
            "{name}: {:?}",
            figure.missing
        );
    }
    let partner = Split::Partner(Some("initech".to_owned()));
    assert_eq!(find(&report, "MRR", &partner).shown(report.currency), "30.00");
    assert_eq!(
        find(&report, "MRR", &Split::Partner(None)).shown(report.currency),
        "150.00"
    );
    assert_eq!(
        find(&report, "Countries", &Split::Region("us".to_owned())).value,
        Some(Value::Count(1))
    );
}

#[test]
fn what_is_missing_says_so_and_is_never_zero() {
    let report = figures(&Inputs::none(), "EUR", None).unwrap();
    for (name, missing) in [
        ("CAC", "sales_and_marketing of 2026-10"),
        ("LTV", "gross_margin of 2026-10"),
        ("LTV / CAC", "CAC or LTV"),
    ] {
        let figure = find(&report, name, &Split::All);
        assert_eq!(
            (figure.shown(report.currency), figure.missing.as_deref()),
            ("missing".to_owned(), Some(missing)),
            "{name}"
        );
    }
    let region = Split::Region("eu".to_owned());
    assert_eq!(
        find(&report, "MRR", &region).missing.as_deref(),
        Some("contracts name no region")
    );
    assert!(kpi_table(&report).contains("missing"));
    let mut csv = Vec::new();
    render::csv(kpi_sheet(&report), &mut csv).unwrap();
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.contains("2026-10,CAC,all,all,missing,"), "{csv}");
    assert_eq!(
        report.input_sha256,
        figures(&Inputs::none(), "EUR", None).unwrap().input_sha256
    );
    assert_ne!(
        report.input_sha256,
        figures(&inputs(), "EUR", None).unwrap().input_sha256
    );
}

/// Rates of the last day of each month, but of none in between.
fn rates(without: &str) -> Rates {
    let mut text = "source = \"test\"\nbase = \"EUR\"\nmax_age_days = 5\n".to_owned();
    for year in 2024..2027 {
        for month in 1..13 {
            let day = format!("{year}-{month:02}-{}", if month == 2 { 27 } else { 30 });
            if day != without {
                let _ = writeln!(text, "[[rate]]\ndate = \"{day}\"\ncurrency.USD = \"1.25\"");
            }
        }
    }
    Rates::parse(&text, "rates.toml").unwrap()
}

#[test]
fn amounts_are_converted_at_a_dated_rate_and_a_stale_one_fails() {
    let report = figures(&inputs(), "USD", Some(&rates(""))).unwrap();
    assert_eq!(find(&report, "MRR", &Split::All).shown(report.currency), "225.00");
    assert!(
        report
            .notes
            .iter()
            .any(|(name, value)| name == "Exchange rates, date" && value == "2026-10-31")
    );
    let error = figures(&inputs(), "USD", Some(&rates("2026-10-30"))).unwrap_err();
    let text = "the last rate of USD on or before 2026-10-31 in rates.toml is of 2026-09-30, more than 5 days before";
    assert!(error.to_string().starts_with(text), "{error}");
    let error = figures(&inputs(), "USD", None).unwrap_err();
    assert!(matches!(error, KpiError::Fx(FxError::File { .. })), "{error}");
    let error = figures(&inputs(), "JPY", Some(&rates(""))).unwrap_err();
    assert!(matches!(error, KpiError::Fx(FxError::Missing { .. })), "{error}");
}

#[test]
fn a_file_that_is_not_rates_is_named_with_the_place() {
    for (text, problem) in [
        ("source = 1", "rates.toml: "),
        (
            "source = \"x\"\nbase = \"XYZ\"\nmax_age_days = 1\nrate = []",
            "rates.toml: base: ",
        ),
        (
            "source = \"x\"\nbase = \"EUR\"\nmax_age_days = 1\n[[rate]]\ndate = \"2026-10-30\"\ncurrency.USD = \"0\"",
            "rates.toml: rate of USD on 2026-10-30: must be above zero",
        ),
    ] {
        let error = Rates::parse(text, "rates.toml").unwrap_err();
        assert!(error.to_string().starts_with(problem), "{error}");
    }
    let error = Inputs::parse("[month.2026-13]\n", "inputs.toml").unwrap_err();
    assert_eq!(error.to_string(), "inputs.toml: month");
}
