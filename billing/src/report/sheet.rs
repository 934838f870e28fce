//! A report as rows and typed columns, which every file format writes in its own way.

use std::io;

use jiff::Timestamp;
use jiff::civil::Date;

use crate::money::{Currency, Money};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A whole number.
    Number,
    /// An exact amount or quantity, up to 18 decimals.
    Exact,
    /// A day.
    Date,
    /// A moment, UTC.
    Time,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// What it holds; any of its cells may be empty.
    pub kind: Kind,
}

/// A cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// Nothing is known, or nothing applies.
    Empty,
    /// Text.
    Text(String),
    /// A whole number.
    Number(i64),
    /// An amount, and its currency if it is money. It is exact; what cannot show it so rounds it.
    Exact(Money, Option<Currency>),
    /// A day.
    Date(Date),
    /// A moment.
    Time(Timestamp),
}

/// A report to be written: its rows are made one at a time.
pub struct Sheet<'a> {
    /// Its name where a file may hold several.
    pub name: &'static str,
    /// Its columns.
    pub columns: &'a [Column],
    /// Its rows, as wide as there are columns. The error is of what they are read from.
    pub rows: Box<dyn Iterator<Item = io::Result<Vec<Cell>>> + 'a>,
}

impl Cell {
    /// Text, or an empty cell.
    pub fn text(text: Option<impl Into<String>>) -> Cell {
        text.map_or(Cell::Empty, |text| Cell::Text(text.into()))
    }
}

/// A column of this name and kind.
pub const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}
