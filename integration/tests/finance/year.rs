//! Makes a year of business, the same for the same seed, in the tables that workers write.
//!
//! A thousand tenants of very different size in five regions and four currencies; a third came through
//! partners, some only during the year, and one in a hundred has no contract. Prices change three times. A
//! few requests fail, and a few are delivered twice. Rows go the way that a worker's go: staged as Parquet,
//! named by an intent, committed to both Delta tables.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use billing::contract::Contracts;
use billing::event::usage_row;
use billing::price_book::PriceBook;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use pipeline::intent::Intent;
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::Tables;
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

const TENANTS: u64 = 1_000;
const CURRENCIES: [&str; 4] = ["EUR", "USD", "JPY", "KWD"];
const REGIONS: [&str; 5] = ["eu-central", "eu-north", "us-east", "ap-south", "me-central"];
const COUNTRIES: [&str; 20] = [
    "DE", "US", "JP", "KW", "FR", "GB", "AT", "CH", "NL", "SE", "IT", "ES", "PL", "CA", "IN", "SG", "AE", "BR", "AU",
    "IE",
];
const MODELS: [&str; 3] = ["debian-sections", "bitnet-b1.58-2B-4T", "falcon3-7b-1.58"];
/// Requests in one message.
const PER_MESSAGE: u64 = 100;
/// Days staged at a time.
const DAYS_AT_ONCE: usize = 3;
const DAYS: u64 = 365;

/// First version of each price book file, and how its prices relate to those of the example.
const VERSIONS: [(&str, &str, u32); 4] = [
    ("2025-01-01.1", "2020-01-01T00:00:00Z", 100),
    ("2026-01-01.1", "2026-01-01T00:00:00Z", 110),
    ("2026-05-15.1", "2026-05-15T00:00:00Z", 95),
    ("2026-09-01.1", "2026-09-01T00:00:00Z", 103),
];

/// A year of business on this machine.
pub(crate) struct Year {
    /// Where everything lies.
    pub(crate) folder: PathBuf,
    /// Requests in it.
    pub(crate) events: u64,
}

impl Year {
    /// The zone of the tables.
    pub(crate) const ZONE: &str = "world";
    /// The last month of it.
    pub(crate) const LAST: &str = "2026-10";

    /// Makes the year in `folder`, or finds it there.
    pub(crate) async fn make(folder: &Path, events: u64) -> Result<Year> {
        let year = Year {
            folder: folder.to_owned(),
            events,
        };
        let done = folder.join("complete");
        if done.exists() {
            return Ok(year);
        }
        fs::create_dir_all(year.prices())?;
        for (version, from, percent) in VERSIONS {
            fs::write(
                year.prices().join(format!("{version}.toml")),
                prices(version, from, percent)?,
            )?;
        }
        fs::write(year.contracts(), contracts())?;
        year.write_tables().await?;
        fs::write(done, "")?;
        Ok(year)
    }

    /// A file for each version of the price book.
    pub(crate) fn prices(&self) -> PathBuf {
        self.folder.join("prices")
    }

    /// The contracts.
    pub(crate) fn contracts(&self) -> PathBuf {
        self.folder.join("contracts.toml")
    }

    /// The store that holds the tables.
    pub(crate) fn store(&self) -> String {
        format!("file://{}/store", self.folder.display())
    }

    /// Every version of the price book, and every contract.
    pub(crate) fn terms(&self) -> Result<(PriceBook, Contracts)> {
        let mut book = None;
        for (version, _, _) in VERSIONS {
            let text = fs::read_to_string(self.prices().join(format!("{version}.toml")))?;
            book = Some(match book {
                None => PriceBook::parse(&text, version)?,
                Some(book) => PriceBook::with(book, &text, version)?,
            });
        }
        let contracts = Contracts::parse(&fs::read_to_string(self.contracts())?, "contracts.toml")?;
        let book = book.expect("there are versions");
        contracts.check(&book)?;
        Ok((book, contracts))
    }

    async fn write_tables(&self) -> Result<()> {
        let store = Store::open(&self.store())?;
        let tables = Tables::create(&store, Self::ZONE).await?;
        let sink = Sink::new(store, Self::ZONE);
        let terms = Arc::new(self.terms()?);
        let staged = stream::iter(0..DAYS).map(|day| {
            let (sink, terms, events) = (sink.clone(), terms.clone(), self.events);
            async move {
                let chunk = tokio::task::spawn_blocking(move || day_of(day, events, &terms)).await??;
                let files = sink.stage(&chunk).await?;
                anyhow::Ok(Arc::new(Intent::new(&chunk, files, "generator")))
            }
        });
        let mut staged = staged.buffered(DAYS_AT_ONCE).ready_chunks(30);
        while let Some(intents) = staged.next().await {
            let intents: Vec<_> = intents.into_iter().collect::<Result<_>>()?;
            for table in Table::ALL {
                let stuck = tables.commit(table, &intents).await?;
                ensure!(stuck.is_empty(), "{stuck:?}");
                tables.checkpoint_if_due(table).await?;
            }
        }
        Ok(())
    }
}

fn day_of(day: u64, events: u64, (book, contracts): &(PriceBook, Contracts)) -> Result<Chunk> {
    // Whole messages a day.
    let offset_at = |day: u64| (events / PER_MESSAGE) * day / DAYS;
    let (from, to) = (offset_at(day), offset_at(day + 1));
    let mut outcomes = Vec::new();
    for request in from * PER_MESSAGE..to * PER_MESSAGE {
        let result = request_of(request, day, (request - from * PER_MESSAGE, (to - from) * PER_MESSAGE))?;
        // What ended late in a month is ingested in the next one.
        let ingested_at = result.finished_at + SignedDuration::from_secs(2);
        let billing = usage_row(&result, false, book, contracts, ingested_at)?;
        outcomes.push(Outcome { result, billing });
    }
    Ok(Chunk {
        partition: PartitionId {
            topic: "bitnet.requests.world.bulk".to_owned(),
            epoch: 1,
            partition: 0,
        },
        from: from as i64,
        to: to as i64,
        outcomes,
        dedup_keys: Vec::new(),
        dead_letters: Vec::new(),
    })
}

fn request_of(request: u64, day: u64, (nth, of): (u64, u64)) -> Result<ResultRow> {
    let mut random = Random(request);
    // A few tenants make most of the requests.
    let tenant = TENANTS * random.below(1_000) * random.below(1_000) * random.below(1_000) / 1_000_000_000;
    let start: Timestamp = "2025-11-01T00:00:00Z".parse()?;
    let micros = day * 86_400_000_000 + 86_400_000_000 * nth / of + random.below(1_000);
    let finished_at = start + SignedDuration::from_micros(micros as i64);
    let position = Position {
        topic: "bitnet.requests.world.bulk".to_owned(),
        epoch: 1,
        partition: 0,
        offset: (request / PER_MESSAGE) as i64,
    };
    let batch_index = (request % PER_MESSAGE) as u32;
    let status = match random.below(400) {
        0..8 => Status::Error,
        8 | 9 => Status::Duplicate,
        10 => Status::Expired,
        _ => Status::Ok,
    };
    let answered = status == Status::Ok;
    let input_tokens = 40 + random.below(40) * random.below(100);
    let home = REGIONS[(tenant % 5) as usize];
    let tier = [
        ServiceTier::Batch,
        ServiceTier::Batch,
        ServiceTier::Standard,
        ServiceTier::Interactive,
    ];
    Ok(ResultRow {
        job_id: format!("job-{tenant:04}-{day:03}").parse()?,
        batch_seq: 0,
        custom_id: format!("r-{request}").parse()?,
        result_id: result_id(&position, batch_index),
        tenant_id: tenant_id(tenant).parse()?,
        project_id: format!("project-{}", random.below(3)).parse()?,
        residency_zone: Year::ZONE.to_owned(),
        region: if random.below(10) == 0 {
            REGIONS[random.below(5) as usize]
        } else {
            home
        }
        .to_owned(),
        model_id: MODELS[(random.below(6) / 2) as usize % 3].to_owned(),
        model_digest: Some("5f".repeat(32)),
        tokenizer_digest: None,
        endpoint: Endpoint::ChatCompletions,
        service_tier: tier[random.below(4) as usize],
        status,
        error_code: None,
        error_message: None,
        finish_reason: answered.then(|| "stop".to_owned()),
        output_text: answered.then(|| "libs".to_owned()),
        response: None,
        embedding: None,
        scores: None,
        input_tokens: input_tokens as i64,
        cached_tokens: if random.below(3) == 0 {
            input_tokens as i64 / 2
        } else {
            0
        },
        output_tokens: if answered { 1 + random.below(300) as i64 } else { 0 },
        submitted_at: finished_at - SignedDuration::from_secs(60),
        admitted_at: None,
        first_token_at: None,
        finished_at,
        worker_id: "generator".to_owned(),
        position,
        batch_index,
    })
}

fn tenant_id(tenant: u64) -> String {
    format!("tenant-{tenant:04}")
}

/// The example's prices, so many per cent of them.
fn prices(version: &str, from: &str, percent: u32) -> Result<String> {
    let mut out = String::new();
    for line in include_str!("../../../config/prices.toml").lines() {
        if line.starts_with("version =") {
            writeln!(out, "version = \"{version}\"")?;
        } else if line.starts_with("effective_from =") {
            writeln!(out, "effective_from = \"{from}\"")?;
        } else {
            let mut parts = line.split("price = \"");
            out.push_str(parts.next().unwrap_or_default());
            for part in parts {
                let (price, rest) = part.split_once('"').expect("a price is quoted");
                let price: billing::money::Money = price.parse()?;
                let changed = billing::money::Money::from_parts(price.parts() / 100 * i128::from(percent))?;
                write!(out, "price = \"{changed}\"{rest}")?;
            }
            out.push('\n');
        }
    }
    // Steps that this year reaches.
    Ok(out.replace("up_to = 1_000_000_000", "up_to = 50_000"))
}

fn contracts() -> String {
    let mut out = String::from("unit_tokens = 1_000_000\n");
    for tenant in (0..TENANTS).filter(|tenant| tenant % 100 != 99) {
        let currency = CURRENCIES[(tenant % 4) as usize];
        let (segment, fee) = match tenant % 10 {
            0 => ("enterprise", 900),
            1..4 => ("mid_market", 120),
            _ => ("smb", 0),
        };
        let from = match tenant {
            0..800 => "2020-01-01T00:00:00Z".to_owned(),
            _ => format!("2026-{:02}-01T00:00:00Z", 1 + tenant % 10),
        };
        let _ = write!(
            out,
            "\n[[contract]]\ntenant_id = \"{id}\"\nversion = \"{id}.1\"\neffective_from = \"{from}\"\n\
             segment = \"{segment}\"\ncurrency = \"{currency}\"\ncountry = \"{country}\"\ntax_category = \"O\"\n",
            id = tenant_id(tenant),
            country = COUNTRIES[(tenant % 20) as usize],
        );
        if tenant % 3 == 0 {
            let _ = writeln!(out, "partner = \"partner-{}\"", tenant % 7);
        }
        if fee > 0 {
            let _ = writeln!(out, "minimum_per_month = \"{fee}\"");
        }
        if tenant % 10 == 0 {
            let _ = write!(
                out,
                "[[contract.price]]\nsku_id = \"*/batch/output\"\nmeter = \"output_tokens\"\nmodel = \"graduated\"\n\
                 currency.{currency} = [{{ up_to = 20_000, price = \"4.5\" }}, {{ price = \"3.141592653589\" }}]\n"
            );
        }
    }
    out
}

/// SplitMix64 (Steele, Lea, Flood 2014), seeded by the request, so that each is the same whoever makes it.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * u128::from(bound)) >> 64) as u64
    }
}
