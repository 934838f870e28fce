//! One page that explains a month's charges: no script, no other file, light and dark, fit to print.

mod chart;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io;

use self::chart::{COLOURS, Series};
use super::notes;
use super::text::grouped;
use crate::money::{Currency, Money, MoneyError};
use crate::report::lines::Line;
use crate::report::sums::Meters;
use crate::report::usage::{Total, UsageReport};
use crate::sku::Meter;

/// By what billed amounts are ranked.
const RANKED: [&str; 4] = ["By tenant", "By model", "By service tier", "By token class"];
const MODEL: usize = 1;

/// Rows of a ranking, the rest together in one more.
const RANKED_MAX: usize = 8;
/// Tenants in the table, the rest together in one more.
const TENANTS_MAX: usize = 200;
/// Tenants that a note names.
const NAMED_MAX: usize = 20;

/// Writes the page. `title` says what it is about, such as a month.
pub fn html(report: &UsageReport<'_>, title: &str, mut out: impl io::Write) -> io::Result<()> {
    let page = page(report, title).map_err(io::Error::other)?;
    out.write_all(page.as_bytes())
}

/// What the charts of one currency show.
#[derive(Default)]
struct Charts {
    /// Billed amounts by name, in the order of [`RANKED`].
    ranked: [BTreeMap<String, Money>; 4],
    /// By day where the report tells days apart, else by month; and by model.
    times: BTreeMap<String, BTreeMap<String, Money>>,
}

impl Charts {
    fn add(&mut self, line: &Line) -> Result<(), MoneyError> {
        let model = &line.sku.model_id;
        let names = [
            line.tenant.as_str(),
            model,
            line.sku.tier.as_str(),
            &line.sku.meter.class().replace('_', " "),
        ];
        for (sums, name) in self.ranked.iter_mut().zip(names) {
            add(sums, name, line.billed)?;
        }
        let time = line.part.day.map_or_else(|| line.period.clone(), |day| day.to_string());
        add(self.times.entry(time).or_default(), model, line.billed)
    }
}

fn add(sums: &mut BTreeMap<String, Money>, name: &str, amount: Money) -> Result<(), MoneyError> {
    match sums.get_mut(name) {
        Some(sum) => *sum = sum.plus(amount)?,
        None => {
            sums.insert(name.to_owned(), amount);
        }
    }
    Ok(())
}

fn page(report: &UsageReport<'_>, title: &str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let _ = write!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Usage and charges, {0}</title>\
         <style>{1}</style></head><body><main><header><h1>Usage and charges</h1><p class=\"soft\">{0} · {2}</p></header>",
        escape(title),
        include_str!("html/style.css"),
        counted(report.events, "event"),
    );
    let currencies = report.totals.iter().filter_map(|total| total.currency);
    let mut charts: BTreeMap<Currency, Charts> = currencies.map(|currency| (currency, Charts::default())).collect();
    for line in report.lines() {
        let line = line?;
        charts.entry(line.currency).or_default().add(&line)?;
    }
    if charts.is_empty() {
        page.push_str("<h2>Nothing was charged</h2><p>No event of this report is billable.</p>");
    }
    for (currency, charts) in charts {
        page.push_str(&section(report, currency, &charts)?);
    }
    if report.quarantine.rows > 0 {
        let _ = write!(
            page,
            "<div class=\"card warn\"><h3>{} in quarantine</h3><p>They are in no figure on this page. \
             <code>bitnet report reconcile</code> says what is wrong with each.</p></div>",
            counted(report.quarantine.rows, "row")
        );
    }
    page.push_str("<footer><h2>Where these figures come from</h2><ul>");
    for (name, value) in notes(report) {
        let _ = write!(page, "<li>{}: {}</li>", escape(&name), named(&value));
    }
    page.push_str("</ul></footer></main></body></html>\n");
    Ok(page)
}

fn section(report: &UsageReport<'_>, currency: Currency, charts: &Charts) -> Result<String, MoneyError> {
    let totals: Vec<&Total> = report
        .totals
        .iter()
        .filter(|total| total.currency == Some(currency))
        .collect();
    let sum = |of: fn(&Total) -> Money| Money::sum(totals.iter().map(|total| of(total)));
    let (list, contracted, billed) = (sum(|t| t.list)?, sum(|t| t.contracted)?, sum(|t| t.billed)?);
    let count = |meter: Meter| {
        totals
            .iter()
            .map(|total| i128::from(total.charged.get(meter)))
            .sum::<i128>()
    };
    // So that list, less what is saved, and rounding add up to what is billed.
    let (list, contracted) = (list.rounded(currency)?, contracted.rounded(currency)?);
    let mut out = format!("<section><h2>Charges in {currency}</h2><div class=\"tiles\">");
    let tiles = [
        ("tile main", money(billed, currency), "billed"),
        ("tile", money(list, currency), "at list price"),
        ("tile", money(list.minus(contracted)?, currency), "saved by contracts"),
        ("tile", money(billed.minus(contracted)?, currency), "invoice rounding"),
        ("tile", grouped(count(Meter::Requests)), "requests charged"),
        (
            "tile",
            short(count(Meter::InputUncached) + count(Meter::InputCached) + count(Meter::Output)),
            "tokens charged",
        ),
    ];
    for (class, value, name) in tiles {
        let _ = write!(out, "<div class=\"{class}\"><b>{value}</b><span>{name}</span></div>");
    }
    let daily = report.by.day;
    let _ = write!(out, "</div>{}<div class=\"pair\">", over_time(charts, daily, currency)?);
    for (colour, (name, sums)) in RANKED.into_iter().zip(&charts.ranked).enumerate() {
        let rows = ranked(sums, RANKED_MAX)?;
        let _ = write!(
            out,
            "<div class=\"card\"><h3>{name}</h3>{}</div>",
            chart::bars(&rows, currency, colour)
        );
    }
    let _ = write!(out, "</div><br>{}</section>", tenants(&totals, currency)?);
    Ok(out)
}

/// By day, or by month.
fn over_time(charts: &Charts, daily: bool, currency: Currency) -> Result<String, MoneyError> {
    let of_models = ranked(&charts.ranked[MODEL], COLOURS - 1)?;
    let place = |model: &str| {
        of_models
            .iter()
            .position(|(name, _)| name == model)
            .unwrap_or(of_models.len() - 1)
    };
    let mut times: BTreeMap<&str, Vec<Money>> = BTreeMap::new();
    for (time, models) in &charts.times {
        let values = times.entry(time).or_insert_with(|| vec![Money::ZERO; of_models.len()]);
        for (model, amount) in models {
            let value = &mut values[place(model)];
            *value = value.plus(*amount)?;
        }
    }
    let series = of_models.iter().enumerate().map(|(index, (name, _))| Series {
        name: name.clone(),
        values: times.values().map(|values| values[index]).collect(),
    });
    let names: Vec<String> = times
        .keys()
        .map(|time| match time.get(8..).filter(|_| daily) {
            Some(day) => day.trim_start_matches('0').to_owned(),
            None => (*time).to_owned(),
        })
        .collect();
    Ok(format!(
        "<div class=\"card\"><h3>Billed by {}, {currency}</h3><div class=\"scroll\">{}</div></div>",
        if daily { "day" } else { "month" },
        chart::columns(&names, &series.collect::<Vec<_>>(), currency)
    ))
}

/// The largest of the sums; the others together in one more.
fn ranked(sums: &BTreeMap<String, Money>, most: usize) -> Result<Vec<(String, Money)>, MoneyError> {
    let mut rows: Vec<_> = sums.iter().map(|(name, amount)| (name.clone(), *amount)).collect();
    rows.sort_by(|(a, amount_a), (b, amount_b)| amount_b.cmp(amount_a).then_with(|| a.cmp(b)));
    if rows.len() > most {
        let rest = rows.split_off(most);
        let name = format!("{} others", grouped(rest.len()));
        rows.push((name, Money::sum(rest.into_iter().map(|(_, amount)| amount))?));
    }
    Ok(rows)
}

/// What each tenant used and owes, the largest first.
fn tenants(totals: &[&Total], currency: Currency) -> Result<String, MoneyError> {
    let mut of_tenant: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut all = Sum::default();
    for total in totals {
        of_tenant.entry(total.tenant.as_str()).or_default().add(total)?;
        all.add(total)?;
    }
    let mut rows: Vec<_> = of_tenant.into_iter().collect();
    rows.sort_by(|(a, sum_a), (b, sum_b)| sum_b.billed.cmp(&sum_a.billed).then_with(|| a.cmp(b)));
    let mut out = String::from(
        "<div class=\"card long\"><h3>Tenants</h3><div class=\"scroll\"><table><thead><tr><th>Tenant<th>Requests<th>Input\
         <th>Cached input<th>Output<th>List<th>Contracted<th>Billed</tr></thead><tbody>",
    );
    let more = rows.split_off(rows.len().min(TENANTS_MAX));
    for (tenant, sum) in &rows {
        sum.write(&mut out, tenant, currency)?;
    }
    if !more.is_empty() {
        let mut rest = Sum::default();
        for (_, sum) in &more {
            rest.join(sum)?;
        }
        rest.write(
            &mut out,
            &format!("{} others, see the CSV", grouped(more.len())),
            currency,
        )?;
    }
    out.push_str("</tbody><tfoot>");
    all.write(&mut out, "Total", currency)?;
    out.push_str("</tfoot></table></div></div>");
    Ok(out)
}

#[derive(Default)]
struct Sum {
    quantities: [i128; 4],
    list: Money,
    contracted: Money,
    billed: Money,
}

impl Sum {
    fn add(&mut self, total: &Total) -> Result<(), MoneyError> {
        let Meters(quantities) = total.charged;
        self.join(&Sum {
            quantities: quantities.map(i128::from),
            list: total.list,
            contracted: total.contracted,
            billed: total.billed,
        })
    }

    fn join(&mut self, other: &Sum) -> Result<(), MoneyError> {
        for (sum, quantity) in self.quantities.iter_mut().zip(other.quantities) {
            *sum += quantity;
        }
        self.list = self.list.plus(other.list)?;
        self.contracted = self.contracted.plus(other.contracted)?;
        self.billed = self.billed.plus(other.billed)?;
        Ok(())
    }

    fn write(&self, out: &mut String, name: &str, currency: Currency) -> Result<(), MoneyError> {
        let of = |meter: Meter| grouped(self.quantities[meter as usize]);
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}</tr>",
            escape(name),
            of(Meter::Requests),
            of(Meter::InputUncached),
            of(Meter::InputCached),
            of(Meter::Output),
            money(self.list.rounded(currency)?, currency),
            money(self.contracted.rounded(currency)?, currency),
            money(self.billed, currency),
        );
        Ok(())
    }
}

/// A list of names, as many as can be read.
fn named(value: &str) -> String {
    let names: Vec<&str> = value.split(", ").collect();
    match names.len().saturating_sub(NAMED_MAX) {
        0 => escape(value),
        more => format!(
            "{} and {} others",
            escape(&names[..NAMED_MAX].join(", ")),
            grouped(more)
        ),
    }
}

fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// With the currency's decimals and commas between thousands.
fn money(amount: Money, currency: Currency) -> String {
    grouped_decimal(&amount.to_minor(currency))
}

fn grouped_decimal(text: &str) -> String {
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", grouped(whole)),
        None => grouped(text),
    }
}

/// A large count in four characters or so: `12.3 M`.
fn short(count: i128) -> String {
    for (unit, name) in [(1_000_000_000_000, "T"), (1_000_000_000, "B"), (1_000_000, "M")] {
        if count >= unit {
            return format!("{}.{} {name}", count / unit, count % unit * 10 / unit);
        }
    }
    grouped(count)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
