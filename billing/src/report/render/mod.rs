//! Reports as people and programs read them. Amounts are exact wherever the format can hold them; those that
//! are billed have the decimals of their currency.

mod text;
mod csv;
mod xlsx;
mod parquet;
mod html;
mod usage;

pub use self::csv::csv;
pub use self::html::html;
pub use self::parquet::parquet;
pub use self::text::{reconciliation, usage_table};
pub use self::usage::{notes, usage_sheets};
pub use self::xlsx::{WorkbookError, xlsx};
