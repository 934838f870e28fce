//! A workbook for spreadsheet programs. They compute in binary floats of 15 digits, so amounts are rounded to
//! the minor unit of their currency, and the exact ones are in CSV and Parquet.

use std::io::Write;

use rust_xlsxwriter::{Color, DocProperties, ExcelDateTime, Format, FormatAlign, Workbook, Worksheet, XlsxError};

use crate::money::{Currency, Money};
use crate::report::sheet::{Cell, Kind, Sheet};

/// Rows that a sheet of the format holds, the heading included.
const ROWS_MAX: u32 = 1_048_576;
/// Decimals that are shown at most.
const DECIMALS_MAX: usize = 9;

/// Why a workbook could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorkbookError {
    /// Spreadsheet programs would not open it.
    #[error("a sheet holds at most {ROWS_MAX} rows; write CSV or Parquet, or ask for one month or tenant")]
    Rows,
    /// What the writer said.
    #[error("cannot write the workbook")]
    Write(#[from] XlsxError),
}

/// Writes each sheet, row by row, and a last one with `notes`.
pub fn xlsx(sheets: Vec<Sheet<'_>>, notes: &[(String, String)], out: impl Write + Send) -> Result<(), WorkbookError> {
    let mut workbook = Workbook::new();
    // The same report is the same file.
    let epoch = ExcelDateTime::from_ymd(2000, 1, 1)?;
    workbook.set_properties(
        &DocProperties::new()
            .set_title("bitnet report")
            .set_creation_datetime(&epoch),
    );
    let heading = Format::new()
        .set_bold()
        .set_background_color(Color::RGB(0x001F_3A5F))
        .set_font_color(Color::White);
    let formats = std::array::from_fn(number_format);
    for sheet in sheets {
        let page = workbook.add_worksheet_with_constant_memory()?;
        page.set_name(sheet.name)?;
        page.set_freeze_panes(1, 0)?;
        for (at, column) in (0u16..).zip(sheet.columns) {
            page.set_column_width(at, width(column.name, column.kind))?;
        }
        for (at, column) in (0u16..).zip(sheet.columns) {
            let align = match column.kind {
                Kind::Number | Kind::Exact => FormatAlign::Right,
                _ => FormatAlign::Left,
            };
            page.write_string_with_format(0, at, column.name, &heading.clone().set_align(align))?;
        }
        let mut last = 0;
        for row in sheet.rows {
            last += 1;
            if last == ROWS_MAX {
                return Err(WorkbookError::Rows);
            }
            for (at, cell) in (0u16..).zip(&row.map_err(XlsxError::from)?) {
                write(page, (last, at), cell, &formats)?;
            }
        }
        page.autofilter(0, 0, last, sheet.columns.len().saturating_sub(1) as u16)?;
    }
    let page = workbook.add_worksheet_with_constant_memory()?;
    page.set_name("Sources")?;
    page.set_column_width(0, 28)?;
    page.set_column_width(1, 90)?;
    for (row, (name, value)) in (0u32..).zip(notes) {
        page.write_string(row, 0, name)?;
        page.write_string(row, 1, value)?;
    }
    Ok(workbook.save_to_writer(out)?)
}

fn width(name: &str, kind: Kind) -> f64 {
    let least = match kind {
        Kind::Text => 18,
        Kind::Number | Kind::Exact => 15,
        Kind::Date => 11,
        Kind::Time => 21,
    };
    name.len().max(least) as f64 + 2.0
}

/// Number formats by decimals.
type Formats = [Format; DECIMALS_MAX + 1];

fn write(page: &mut Worksheet, (row, at): (u32, u16), cell: &Cell, formats: &Formats) -> Result<(), XlsxError> {
    match cell {
        Cell::Empty => return Ok(()),
        Cell::Text(text) => page.write_string(row, at, text)?,
        // A float counts exactly up to 2⁵³.
        Cell::Number(number) => page.write_number_with_format(row, at, *number as f64, &formats[0])?,
        Cell::Exact(amount, currency) => {
            let decimals = currency.map_or(DECIMALS_MAX, |currency| currency.minor_digits() as usize);
            let format = &formats[decimals.min(DECIMALS_MAX)];
            page.write_number_with_format(row, at, to_float(*amount, *currency), format)?
        }
        Cell::Date(date) => page.write_string(row, at, date.to_string())?,
        Cell::Time(time) => page.write_string(row, at, time.to_string())?,
    };
    Ok(())
}

/// The float nearest to the amount, rounded to its minor unit first.
fn to_float(amount: Money, currency: Option<Currency>) -> f64 {
    let amount = currency.map_or(amount, |currency| amount.rounded(currency).unwrap_or(amount));
    amount.to_string().parse().unwrap_or(f64::NAN)
}

fn number_format(decimals: usize) -> Format {
    let places = "0".repeat(decimals);
    Format::new().set_num_format(match decimals {
        0 => "#,##0".to_owned(),
        _ => format!("#,##0.{places}"),
    })
}
