//! How long a model takes to load, and how much memory: `cargo run --release -p engine --example load -- PATH`.

use std::path::Path;
use std::time::Instant;

use engine::{LoadOptions, Model, inspect};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a model's folder, or a GGUF file")?;
    let info = inspect(Path::new(&path))?;
    let started = Instant::now();
    let model = Model::load(Path::new(&path), &LoadOptions::default())?;
    let seconds = started.elapsed().as_secs_f64();
    let logits = model.logits(&[1])?;
    println!("{}", info.format);
    println!(
        "{seconds:.2} s to load {:.3} GB of files",
        info.files_bytes as f64 / 1e9
    );
    println!("{:.3} GB of weights by their headers", info.weights_bytes as f64 / 1e9);
    println!("{:.3} GB of memory at the peak", peak_bytes()? as f64 / 1e9);
    println!("{} logits, the first {}", logits.len(), logits[0]);
    Ok(())
}

/// The most memory that this process ever held (`VmHWM`, Linux).
fn peak_bytes() -> Result<u64, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}
