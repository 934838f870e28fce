//! CSV (RFC 4180): amounts exact, empty where there is nothing.

use std::io;

use crate::report::sheet::{Cell, Sheet};

/// Writes a heading and every row.
pub fn csv(sheet: Sheet<'_>, out: impl io::Write) -> csv::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(sheet.columns.iter().map(|column| column.name))?;
    for row in sheet.rows {
        csv.write_record(row?.iter().map(text))?;
    }
    csv.flush().map_err(csv::Error::from)
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Empty => String::new(),
        Cell::Text(text) => text.clone(),
        Cell::Number(number) => number.to_string(),
        Cell::Exact(amount, _) => amount.to_string(),
        Cell::Date(date) => date.to_string(),
        // FOCUS: YYYY-MM-DDTHH:mm:ssZ.
        Cell::Time(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    }
}
