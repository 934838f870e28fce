//! Prices and contracts of the year.

use std::fmt::Write as _;

use anyhow::Result;
use billing::money::Money;

pub(crate) const TENANTS: u64 = 1_000;
const CURRENCIES: [&str; 4] = ["EUR", "USD", "JPY", "KWD"];
const COUNTRIES: [&str; 20] = [
    "DE", "US", "JP", "KW", "FR", "GB", "AT", "CH", "NL", "SE", "IT", "ES", "PL", "CA", "IN", "SG", "AE", "BR", "AU",
    "IE",
];

/// Each version of the price book, its first moment, and its prices in per cent of the example's.
pub(crate) const VERSIONS: [(&str, &str, u32); 4] = [
    ("2025-01-01.1", "2020-01-01T00:00:00Z", 100),
    ("2026-01-01.1", "2026-01-01T00:00:00Z", 110),
    ("2026-05-15.1", "2026-05-15T00:00:00Z", 95),
    ("2026-09-01.1", "2026-09-01T00:00:00Z", 103),
];

/// Rates of exchange for the whole year.
pub(crate) const RATES: &str = r#"source = "made for this test"
base = "EUR"
max_age_days = 1_000

[[rate]]
date = "2025-01-01"
currency.USD = "1.25"
currency.JPY = "160"
currency.KWD = "0.32"
"#;

pub(crate) fn tenant_id(tenant: u64) -> String {
    format!("tenant-{tenant:04}")
}

/// The example's prices, so many per cent of them.
pub(crate) fn prices(version: &str, from: &str, percent: u32) -> Result<String> {
    let mut out = String::new();
    for line in include_str!("../../../config/prices.toml").lines() {
        if line.starts_with("version =") {
            writeln!(out, "version = \"{version}\"")?;
        } else if line.starts_with("effective_from =") {
            writeln!(out, "effective_from = \"{from}\"")?;
        } else {
            let mut parts = line.split("price = \"");
            out.push_str(parts.next().unwrap_or_default());
            for part in parts {
                let (price, rest) = part.split_once('"').expect("a price is quoted");
                let price: Money = price.parse()?;
                let changed = Money::from_parts(price.parts() / 100 * i128::from(percent))?;
                write!(out, "price = \"{changed}\"{rest}")?;
            }
            out.push('\n');
        }
    }
    // Steps that this year reaches.
    Ok(out.replace("up_to = 1_000_000_000", "up_to = 50_000"))
}

/// Everybody's contract: some pay a fee, some a minimum, those in euros tax; one in a hundred has none, and
/// a fifth came during the year.
pub(crate) fn contracts() -> String {
    let mut out = String::from("unit_tokens = 1_000_000\n");
    for tenant in (0..TENANTS).filter(|tenant| tenant % 100 != 99) {
        let currency = CURRENCIES[(tenant % 4) as usize];
        let (segment, due) = match tenant % 10 {
            0 => ("enterprise", "fee_per_month = \"900\""),
            1..4 => ("mid_market", "minimum_per_month = \"120\""),
            _ => ("smb", ""),
        };
        let tax = match currency {
            "EUR" => "tax_category = \"S\"\ntax_rate = \"19\"",
            _ => "tax_category = \"O\"",
        };
        let from = match tenant {
            0..800 => "2020-01-01T00:00:00Z".to_owned(),
            _ => format!("2026-{:02}-01T00:00:00Z", 1 + tenant % 10),
        };
        let _ = write!(
            out,
            "\n[[contract]]\ntenant_id = \"{id}\"\nversion = \"{id}.1\"\neffective_from = \"{from}\"\n\
             segment = \"{segment}\"\ncurrency = \"{currency}\"\ncountry = \"{country}\"\n{tax}\n{due}\n",
            id = tenant_id(tenant),
            country = COUNTRIES[(tenant % 20) as usize],
        );
        if tenant % 3 == 0 {
            let _ = writeln!(out, "partner = \"partner-{}\"", tenant % 7);
        }
        if tenant % 10 == 0 {
            let _ = write!(
                out,
                "[[contract.price]]\nsku_id = \"*/batch/output\"\nmeter = \"output_tokens\"\nmodel = \"graduated\"\n\
                 currency.{currency} = [{{ up_to = 20_000, price = \"4.5\" }}, {{ price = \"3.141592653589\" }}]\n"
            );
        }
    }
    out
}
