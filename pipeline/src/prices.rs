//! The price book and contracts in force: the operator's files, or the examples in the binary.

pub mod published;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use billing::contract::Contracts;
use billing::price_book::PriceBook;
use billing::source::{FileError, FileErrors};

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
    /// A folder of price versions has none.
    #[error("{setting} = {}: no file *.toml is in this folder; put one in for each version of the book", path.display())]
    Empty {
        /// The setting that names it.
        setting: &'static str,
        /// The folder.
        path: PathBuf,
    },
    /// A file is not a price book, or not a list of contracts that fits it.
    #[error(transparent)]
    File(#[from] FileErrors),
}

/// What rating needs.
#[derive(Debug, Clone)]
pub struct Prices {
    /// Every version of the price book.
    pub book: PriceBook,
    /// Every version of every contract.
    pub contracts: Contracts,
}

/// A file's text and what to call it in errors.
struct Text {
    text: String,
    name: String,
}

impl Prices {
    /// Reads and checks the files. `billing.prices` may be a folder with a file for each version.
    ///
    /// # Errors
    /// See [`PricesError`]; all that is wrong with the files is said at once.
    pub fn load(settings: &BillingSettings) -> Result<Prices, PricesError> {
        let versions = texts("billing.prices", settings.prices.as_deref(), PRICES)?;
        let contracts = texts("billing.contracts", settings.contracts.as_deref(), CONTRACTS)?;
        let mut problems = Vec::new();
        let book = book(&versions, &mut problems);
        let mut read = Vec::new();
        for Text { text, name } in &contracts {
            match Contracts::parse(text, name) {
                Ok(contracts) => read.push(contracts),
                Err(FileErrors(found)) => problems.extend(found),
            }
        }
        match (book, read.pop()) {
            (Some(book), Some(contracts)) if problems.is_empty() => {
                contracts.check(&book)?;
                Ok(Prices { book, contracts })
            }
            _ => Err(FileErrors(problems).into()),
        }
    }
}

/// The book of all versions that can be read.
fn book(versions: &[Text], problems: &mut Vec<FileError>) -> Option<PriceBook> {
    let mut book: Option<PriceBook> = None;
    for Text { text, name } in versions {
        let read = match &book {
            None => PriceBook::parse(text, name),
            Some(book) => book.clone().with(text, name),
        };
        match read {
            Ok(read) => book = Some(read),
            Err(FileErrors(found)) => problems.extend(found),
        }
    }
    book
}

/// The file, or every `*.toml` of the folder in the order of their names.
fn texts(setting: &'static str, path: Option<&Path>, bundled: &str) -> Result<Vec<Text>, PricesError> {
    let Some(path) = path else {
        return Ok(vec![Text {
            text: bundled.to_owned(),
            name: format!("bundled {setting}"),
        }]);
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PricesError::Read { setting, path, source }
    };
    let mut files = vec![path.to_owned()];
    if path.is_dir() && setting == "billing.prices" {
        let entries = fs::read_dir(path).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
        files = entries.map_err(failed(path))?.iter().map(fs::DirEntry::path).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        if files.is_empty() {
            let path = path.to_owned();
            return Err(PricesError::Empty { setting, path });
        }
    }
    let texts = files.iter().map(|file| {
        let text = fs::read_to_string(file).map_err(failed(file))?;
        let name = file.display().to_string();
        Ok(Text { text, name })
    });
    texts.collect()
}

/// Everything that is wrong with `files`, whichever are price versions and whichever contracts; the second
/// value says how many of each there are.
///
/// # Errors
/// When a file cannot be read.
pub fn check(files: &[PathBuf]) -> Result<(Vec<FileError>, [usize; 2]), PricesError> {
    let mut texts = Vec::new();
    for path in files {
        let (setting, name) = ("FILE", path.display().to_string());
        let text = fs::read_to_string(path).map_err(|source| PricesError::Read {
            setting,
            path: path.clone(),
            source,
        })?;
        texts.push(Text { text, name });
    }
    let lists_contracts = |text: &Text| {
        let first = text.text.lines().find(|line| line.starts_with("[["));
        first.is_some_and(|line| line.starts_with("[[contract"))
    };
    let (contracts, versions): (Vec<_>, Vec<_>) = texts.into_iter().partition(lists_contracts);
    let mut problems = Vec::new();
    let book = book(&versions, &mut problems);
    for Text { text, name } in &contracts {
        let checked = Contracts::parse(text, name).and_then(|contracts| match &book {
            Some(book) => contracts.check(book),
            None => Ok(()),
        });
        problems.extend(checked.err().map(|FileErrors(found)| found).unwrap_or_default());
    }
    Ok((problems, [versions.len(), contracts.len()]))
}
