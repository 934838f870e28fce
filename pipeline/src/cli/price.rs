//! `bitnet price`: are price books and contracts right, and what does a request cost.

use std::io::{self, Write};
use std::path::PathBuf;

use billing::quote::{Question, Quote, QuoteError, QuoteItem, quote};
use billing::rate::Model;
use billing::sku::Meter;
use clap::{Args, Subcommand};
use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use super::{Exit, Failure};
use crate::prices::published::PublishError;
use crate::prices::{self, Prices};
use crate::settings::Settings;

/// Check price books and contracts, or explain a price
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  bitnet price check prices/*.toml contracts.toml
  bitnet price quote --model debian-sections --input-tokens 47054 --output-tokens 3089 --tenant acme")]
pub enum Price {
    /// Say everything that is wrong with price and contract files, with line and remedy
    #[command(after_help = "Examples:
  bitnet price check                              # the files of the settings
  bitnet price check prices/*.toml contracts.toml # exit 65 and one line for each problem")]
    Check(Check),
    /// Explain a price step by step
    #[command(after_help = "Examples:
  bitnet price quote --model debian-sections --input-tokens 47054 --output-tokens 3089 --tenant acme
  bitnet price quote --model debian-sections --output-tokens 1000 --output-before 100000000 --tenant acme")]
    Quote(Ask),
}

/// `bitnet price check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Price versions and contracts; by default those of the settings
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// `bitnet price quote`.
#[derive(Debug, Args)]
pub struct Ask {
    /// Model folder name
    #[arg(long)]
    model: String,
    /// Speed: interactive, standard or batch
    #[arg(long, default_value = "batch")]
    tier: ServiceTier,
    /// Who would be billed
    #[arg(long)]
    tenant: TenantId,
    /// When it would end; by default now
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    /// Prompt tokens that are computed
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    input_tokens: i64,
    /// Prompt tokens from the prefix cache
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    cached_input_tokens: i64,
    /// Tokens written
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    output_tokens: i64,
    /// Requests
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i64).range(0..))]
    requests: i64,
    /// Prompt tokens computed in the month before
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    input_before: i64,
    /// Cached prompt tokens in the month before
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    cached_input_before: i64,
    /// Tokens written in the month before
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    output_before: i64,
}

impl Price {
    pub(super) fn run(&self, settings: &Settings) -> Result<(), Failure> {
        match self {
            Price::Check(check) => check.run(settings),
            Price::Quote(ask) => ask.run(settings),
        }
    }
}

impl Check {
    fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.files.is_empty() {
            let Prices { book, contracts } = Prices::load(&settings.billing)?;
            let (versions, contracts) = (book.versions().len(), contracts.all().count());
            writeln!(
                out,
                "price book {}: {versions} versions; {contracts} contracts; nothing is wrong",
                book.id
            )?;
            return Ok(());
        }
        let (problems, [versions, contracts]) = prices::check(&self.files)?;
        for problem in &problems {
            writeln!(out, "{problem}")?;
        }
        if problems.is_empty() {
            writeln!(
                out,
                "nothing is wrong; price versions: {versions}, files of contracts: {contracts}"
            )?;
            return Ok(());
        }
        let count = problems.len();
        Err(Failure::new(
            Exit::BadInput,
            format!("{count} problems in {} files", self.files.len()),
        )
        .help("each line above says where and what to do"))
    }
}

impl Ask {
    fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let Prices { book, contracts } = Prices::load(&settings.billing)?;
        let question = Question {
            tenant: self.tenant.clone(),
            model_id: self.model.clone(),
            tier: self.tier,
            time: self.at.unwrap_or_else(jiff::Timestamp::now),
            quantities: [
                self.input_tokens,
                self.cached_input_tokens,
                self.output_tokens,
                self.requests,
            ],
            before: [self.input_before, self.cached_input_before, self.output_before, 0],
        };
        let quote = quote(&question, &book, &contracts)?;
        io::stdout().write_all(explained(&question, &book.id, &quote).as_bytes())?;
        Ok(())
    }
}

fn explained(question: &Question, book: &str, quote: &Quote) -> String {
    let Quote {
        currency,
        price_version,
        price_sha256,
        ..
    } = quote;
    let terms = match &quote.contract_version {
        Some(version) => format!("contract {version} of {}, in {currency}", question.tenant),
        None => format!(
            "{} has no contract then: list prices in {currency}, the book's default",
            question.tenant
        ),
    };
    let mut lines = vec![
        format!("At {}", question.time),
        format!("  price book {book}, version {price_version}, SHA-256 {price_sha256}"),
        format!("  {terms}"),
    ];
    for item in &quote.items {
        lines.extend(steps(item, quote));
    }
    lines.push("Total".to_owned());
    lines.push(format!(
        "  at list {}, at this tenant's prices {} {currency}",
        quote.list, quote.contracted
    ));
    let rounded = quote.rounded.to_minor(*currency);
    lines.push(format!(
        "  each line rounded once, half away from zero: {rounded} {currency}, before tax"
    ));
    lines.join("\n") + "\n"
}

fn steps(item: &QuoteItem, quote: &Quote) -> Vec<String> {
    let currency = quote.currency;
    let model = match item.point.model {
        Model::Flat => "flat".to_owned(),
        Model::Graduated => "graduated: each unit at the price of its step".to_owned(),
        Model::Volume => "volume: all units at the price of the step that the month's quantity falls into".to_owned(),
        Model::Package { units } => format!("packages of {units}, each one begun is charged"),
    };
    let (unit, origin) = (
        unit(item.sku.meter),
        if item.negotiated { "negotiated" } else { "list" },
    );
    let mut lines = vec![
        item.sku.to_string(),
        format!(
            "  {} {unit}, {} before in the month; {origin} price, {model}",
            item.quantity, item.before
        ),
    ];
    for portion in &item.portions {
        let bound = match item.point.steps[portion.step].up_to {
            Some(up_to) => format!("up to {up_to}"),
            None if portion.step > 0 => "above that".to_owned(),
            None => "every unit".to_owned(),
        };
        let per = match item.point.model {
            Model::Package { .. } => "a package".to_owned(),
            _ => format!("÷ {}", portion.per_units),
        };
        let (step, quantity, price) = (portion.step + 1, portion.quantity, portion.price);
        lines.push(format!(
            "  step {step} ({bound}): {quantity} × {price} {per} = {} {currency}",
            portion.amount
        ));
    }
    let rounded = item.rounded.to_minor(currency);
    lines.push(format!(
        "  {} {currency} (at list {}); as an invoice line {rounded} {currency}",
        item.contracted, item.list
    ));
    lines
}

fn unit(meter: Meter) -> &'static str {
    if meter.is_tokens() { "tokens" } else { "requests" }
}

impl From<QuoteError> for Failure {
    fn from(error: QuoteError) -> Failure {
        Failure::new(Exit::Usage, error).help("ask for another moment, or extend the files that billing.prices names")
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Failure {
        let exit = match &error {
            PublishError::Changed(_) | PublishError::Damaged { .. } => Exit::Usage,
            PublishError::Store { .. } => Exit::Outage,
        };
        Failure::new(exit, error)
    }
}
