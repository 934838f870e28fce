//! A small business of two months in the tables that workers write, of which the first is closed, and a copy
//! of it for everyone who wants to tamper with one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use billing::correct::{Change, Correction};
use billing::event::usage_row;
use integration::bitnet::binary;
use integration::stack::run_folder;
use jiff::{SignedDuration, Timestamp};
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use pipeline::close::Periods;
use pipeline::committer::{CommitSettings, Committer};
use pipeline::corrections;
use pipeline::prices::Prices;
use pipeline::settings::Settings;
use pipeline::store::Store;
use schemas::billing::BillingRow;
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

/// The zone of the tables.
pub(crate) const ZONE: &str = "eu";
/// The month that is closed, and the one that is not.
pub(crate) const CLOSED: &str = "2026-10";
pub(crate) const OPEN: &str = "2026-11";

/// Of two, three and no decimals; `stranger` has no contract.
const TENANTS: [&str; 5] = ["acme", "globex", "hikari", "kuwaiti", "stranger"];
/// Requests of each month; those of a chunk end in one file of each table.
const REQUESTS: i64 = 60;
const CHUNK: i64 = 30;

/// A store and what it is rated with.
pub(crate) struct Books {
    folder: PathBuf,
}

/// How `bitnet` ended.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// What is not as it should be, line by line.
    pub(crate) fn breaks(&self) -> Vec<&str> {
        self.stdout
            .lines()
            .filter_map(|line| line.strip_prefix("BREAK  "))
            .collect()
    }
}

impl Books {
    /// Two months of requests and corrections, the first of them closed, and one that came late.
    pub(crate) async fn make() -> Result<Books> {
        let books = Books {
            folder: run_folder("trust")?,
        };
        fs::write(books.folder.join("contracts.toml"), contracts())?;
        let prices = books.prices()?;
        let store = Store::open(&books.uri())?;
        let committer = Committer::open(store.clone(), ZONE, "worker-0", CommitSettings::default()).await?;
        let mut rows = Vec::new();
        for from in (0..2 * REQUESTS).step_by(CHUNK as usize) {
            let chunk = chunk(from, &prices)?;
            rows.extend(chunk.outcomes.iter().map(|outcome| outcome.billing.clone()));
            let sealed = committer.seal(&chunk).await?;
            committer.apply(&[sealed]).await?;
        }
        let in_time = [
            (&rows[20], Change::Reverse),
            (&rows[26], Change::Replace([45_000, 16_000, 1_000])),
            (
                &rows[32],
                Change::Adjust {
                    tokens: [-300, 0, 0],
                    number: 1,
                },
            ),
        ];
        correct(&store, &in_time, "2026-11-02T00:00:00Z").await?;
        books.close(CLOSED, "2026-11-04T00:00:00Z").await?;
        let late = [(&rows[41], Change::Replace([45_000, 16_000, 2_000]))];
        correct(&store, &late, "2026-11-20T00:00:00Z").await?;
        Ok(books)
    }

    /// The same again, to be tampered with.
    pub(crate) fn copy(&self) -> Result<Books> {
        let copy = Books {
            folder: run_folder("trust")?,
        };
        copy_folder(&self.folder, &copy.folder)?;
        Ok(copy)
    }

    /// Closes a month, as at this moment.
    pub(crate) async fn close(&self, month: &str, now: &str) -> Result<()> {
        let (periods, prices) = (Periods::new(Store::open(&self.uri())?), self.prices()?);
        let grace = SignedDuration::from_hours(72);
        periods.close(month.parse()?, &prices, &[], grace, now.parse()?).await?;
        Ok(())
    }

    /// Adds a contract with a new tenant, who pays a fee from long ago.
    pub(crate) fn sign(&self, tenant: &str) -> Result<()> {
        let file = self.folder.join("contracts.toml");
        let fee = "\nfee_per_month = \"5.00\"";
        Ok(fs::write(
            &file,
            fs::read_to_string(&file)? + &contract(tenant, "EUR", "DE") + fee,
        )?)
    }

    /// Price book and contracts.
    pub(crate) fn prices(&self) -> Result<Prices> {
        let mut settings = Settings::load(None)?;
        settings.billing.contracts = Some(self.folder.join("contracts.toml"));
        Ok(Prices::load(&settings.billing)?)
    }

    /// A file or folder of the store.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.folder.join("store").join(relative)
    }

    /// A file of the closed month.
    pub(crate) fn closed(&self, file: &str) -> PathBuf {
        self.path("_billing/periods").join(CLOSED).join(file)
    }

    /// Runs `bitnet` on the store.
    pub(crate) fn bitnet(&self, arguments: &[&str]) -> Result<Run> {
        let output = Command::new(binary()?)
            .args(arguments)
            .current_dir(&self.folder)
            .env("BITNET__STORE__URI", self.uri())
            .env("BITNET__WORKER__RESIDENCY_ZONE", ZONE)
            .env("BITNET__BILLING__CONTRACTS", self.folder.join("contracts.toml"))
            .output()?;
        Ok(Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout)?,
            stderr: String::from_utf8(output.stderr)?,
        })
    }

    /// What `bitnet` prints, which must be a success.
    pub(crate) fn printed(&self, arguments: &[&str]) -> Result<String> {
        let run = self.bitnet(arguments)?;
        ensure!(run.code == Some(0), "{arguments:?}: {}{}", run.stdout, run.stderr);
        Ok(run.stdout)
    }

    fn uri(&self) -> String {
        format!("file://{}/store", self.folder.display())
    }
}

async fn correct(store: &Store, asked: &[(&BillingRow, Change)], now: &str) -> Result<()> {
    let asked = asked.iter().map(|(row, change)| Correction {
        event_id: row.event_id,
        change: *change,
        reason: "measured wrong".to_owned(),
    });
    let asked: Vec<_> = asked.collect();
    corrections::apply(store.clone(), ZONE, &asked, now.parse()?, false).await?;
    Ok(())
}

/// The requests from this one on, all of one month.
fn chunk(from: i64, prices: &Prices) -> Result<Chunk> {
    let outcomes = (from..from + CHUNK).map(|n| {
        let result = request(n)?;
        let billing = usage_row(&result, false, &prices.book, &prices.contracts, result.finished_at)?;
        anyhow::Ok(Outcome { result, billing })
    });
    Ok(Chunk {
        partition: PartitionId {
            topic: "bitnet.requests.eu.bulk".to_owned(),
            epoch: 1,
            partition: 0,
        },
        from,
        to: from + CHUNK,
        outcomes: outcomes.collect::<Result<_>>()?,
        dedup_keys: Vec::new(),
        dead_letters: Vec::new(),
    })
}

/// Request `n`, of the first month or the second.
fn request(n: i64) -> Result<ResultRow> {
    let month = if n < REQUESTS { CLOSED } else { OPEN };
    let finished_at: Timestamp = format!("{month}-{:02}T09:00:00.25Z", 1 + n % REQUESTS / 3).parse()?;
    let position = Position {
        topic: "bitnet.requests.eu.bulk".to_owned(),
        epoch: 1,
        partition: 0,
        offset: n,
    };
    let tenant = TENANTS[n as usize % TENANTS.len()];
    let status = if n % 20 == 7 { Status::Error } else { Status::Ok };
    Ok(ResultRow {
        job_id: format!("job-of-{tenant}").parse()?,
        batch_seq: 0,
        custom_id: format!("row-{n}").parse()?,
        result_id: result_id(&position, 0),
        tenant_id: tenant.parse()?,
        project_id: "search".parse()?,
        residency_zone: ZONE.to_owned(),
        region: if n % 3 == 0 { "eu-north" } else { "eu-central" }.to_owned(),
        model_id: "debian-sections".to_owned(),
        model_digest: Some("5f".repeat(32)),
        tokenizer_digest: None,
        endpoint: Endpoint::ChatCompletions,
        service_tier: ServiceTier::Batch,
        status,
        error_code: None,
        error_message: None,
        finish_reason: (status == Status::Ok).then(|| "stop".to_owned()),
        output_text: (status == Status::Ok).then(|| format!("Dear Ms {tenant}, your number is {n}")),
        response: None,
        embedding: None,
        scores: None,
        input_tokens: 61_000 + n,
        cached_tokens: 16_000,
        output_tokens: if status == Status::Ok { 3_001 + 7 * n } else { 0 },
        submitted_at: finished_at - SignedDuration::from_secs(60),
        admitted_at: None,
        first_token_at: None,
        finished_at,
        worker_id: "worker-0".to_owned(),
        position,
        batch_index: 0,
    })
}

/// The example's contracts, with a fee, a minimum and a credit, and two tenants more.
fn contracts() -> String {
    let example = include_str!("../../../config/contracts.toml");
    let acme = "tax_rate = \"19\"\nfee_per_month = \"500.00\"\nminimum_per_month = \"10.00\"";
    let mut out = example.replacen("tax_rate = \"19\"", acme, 1);
    out.push_str(
        "[[contract.credit]]\nid = \"globex-welcome\"\nkind = \"granted\"\namount = \"1.50\"\nfrom = \"2026-01-01T00:00:00Z\"\n",
    );
    for (tenant, currency, country) in [("hikari", "JPY", "JP"), ("kuwaiti", "KWD", "KW")] {
        out.push_str(&contract(tenant, currency, country));
    }
    out
}

fn contract(tenant: &str, currency: &str, country: &str) -> String {
    format!(
        "\n[[contract]]\ntenant_id = \"{tenant}\"\nversion = \"{tenant}-2026.1\"\neffective_from = \"2020-01-01T00:00:00Z\"\n\
         segment = \"smb\"\ncurrency = \"{currency}\"\ncountry = \"{country}\"\ntax_category = \"O\"\n"
    )
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}
