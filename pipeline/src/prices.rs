//! The price book and contracts in force: the operator's files, or the examples in the binary.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use billing::contract::Contracts;
use billing::price_book::PriceBook;
use billing::source::FileError;

use crate::settings::BillingSettings;

const PRICES: &str = include_str!("../../config/prices.toml");
const CONTRACTS: &str = include_str!("../../config/contracts.toml");

/// Why requests cannot be rated.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// A file of the settings cannot be read.
    #[error("cannot read {setting} = {}", path.display())]
    Read {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not a price book, or not a list of contracts that fits it.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What rating needs.
#[derive(Debug, Clone)]
pub struct Prices {
    /// Every version of the price book.
    pub book: PriceBook,
    /// Every version of every contract.
    pub contracts: Contracts,
}

impl Prices {
    /// Reads and checks both files.
    ///
    /// # Errors
    /// See [`PricesError`].
    pub fn load(settings: &BillingSettings) -> Result<Prices, PricesError> {
        let (text, name) = read("billing.prices", settings.prices.as_deref(), PRICES)?;
        let book = PriceBook::parse(&text, &name)?;
        let (text, name) = read("billing.contracts", settings.contracts.as_deref(), CONTRACTS)?;
        let contracts = Contracts::parse(&text, &name)?;
        contracts.check(&book)?;
        Ok(Prices { book, contracts })
    }
}

/// The file's text, and what to call it in errors.
fn read(setting: &'static str, path: Option<&Path>, bundled: &str) -> Result<(String, String), PricesError> {
    let Some(path) = path else {
        return Ok((bundled.to_owned(), format!("bundled {setting}")));
    };
    let text = fs::read_to_string(path).map_err(|source| PricesError::Read {
        setting,
        path: path.to_owned(),
        source,
    })?;
    Ok((text, path.display().to_string()))
}
