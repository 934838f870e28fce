//! Writes the files that `tests/old_files.rs` reads, for a new version of a table. Files that are there
//! already are kept: that old files still read is what the test is for.

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs::File;
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use schemas::{billing, result};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    write("results.v1.parquet", &result::to_batch(&common::result_rows())?)?;
    write(
        "billing_events.v1.parquet",
        &billing::to_batch(&common::billing_rows())?,
    )
}

fn write(name: &str, batch: &RecordBatch) -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old_files").join(name);
    let file = match File::create_new(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            println!("kept {}", path.display());
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.close()?;
    println!("wrote {}", path.display());
    Ok(())
}
