//! Makes a year of business, the same for the same number of events, in the tables that workers write.
//!
//! A thousand tenants of very different size in five regions and four currencies; a third came through
//! partners, some only during the year, and one in a hundred has no contract. Prices change three times. A
//! few requests fail, a few are delivered twice, and a few of each month are written after its close. Before
//! and after each close some are taken back, replaced and adjusted. Rows go the way that a worker's go: staged
//! as Parquet, named by an intent, committed to both Delta tables; months are closed by `bitnet`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, ensure};
use billing::contract::Contracts;
use billing::correct::{Change, Correction};
use billing::event::usage_row;
use billing::period::Period;
use billing::price_book::PriceBook;
use futures::{StreamExt, stream};
use jiff::SignedDuration;
use pipeline::chunk::{Chunk, Outcome, PartitionId};
use pipeline::corrections;
use pipeline::intent::Intent;
use pipeline::sink::{Sink, Table};
use pipeline::store::Store;
use pipeline::tables::Tables;

use super::requests::{Day, TOPIC, ZONE};
use super::run::{Ran, done};
use super::terms::{RATES, VERSIONS, contracts, prices};

/// Days staged at a time.
const DAYS_AT_ONCE: usize = 3;
/// Of so many requests one is taken back, one replaced and one adjusted before the close, and as many after it.
const CORRECTED_OF: u64 = 2_000;

/// A year of business on this machine.
pub(crate) struct Year {
    /// Where everything lies.
    pub(crate) folder: PathBuf,
    /// Requests in it.
    pub(crate) events: u64,
}

impl Year {
    /// The last month of it.
    pub(crate) const LAST: &str = "2026-10";

    /// Makes the year in `folder`, or finds it there; how its twelve closes ran.
    pub(crate) async fn make(folder: &Path, events: u64) -> Result<(Year, Vec<Ran>)> {
        let year = Year {
            folder: folder.to_owned(),
            events,
        };
        let complete = folder.join("closes.json");
        if complete.exists() {
            return Ok((year, serde_json::from_slice(&fs::read(complete)?)?));
        }
        ensure!(
            !folder.exists(),
            "{} is half made; remove it and run again",
            folder.display()
        );
        fs::create_dir_all(year.prices())?;
        for (version, from, percent) in VERSIONS {
            fs::write(
                year.prices().join(format!("{version}.toml")),
                prices(version, from, percent)?,
            )?;
        }
        fs::write(year.contracts(), contracts())?;
        fs::write(year.rates(), RATES)?;
        let closes = year.write_tables().await?;
        fs::write(complete, serde_json::to_vec(&closes)?)?;
        Ok((year, closes))
    }

    /// A file for each version of the price book.
    pub(crate) fn prices(&self) -> PathBuf {
        self.folder.join("prices")
    }

    /// The contracts.
    pub(crate) fn contracts(&self) -> PathBuf {
        self.folder.join("contracts.toml")
    }

    /// Rates of exchange.
    pub(crate) fn rates(&self) -> PathBuf {
        self.folder.join("rates.toml")
    }

    /// The store that holds the tables.
    pub(crate) fn store(&self) -> String {
        format!("file://{}/store", self.folder.display())
    }

    /// Its months, in order.
    pub(crate) fn months(&self) -> Result<Vec<Period>> {
        let mut months: Vec<Period> = Day::all(self.events)
            .map(|day| Ok(Period::of(day.start()?)))
            .collect::<Result<_>>()?;
        months.dedup();
        Ok(months)
    }

    /// Every version of the price book, and every contract.
    fn terms(&self) -> Result<Terms> {
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
        Ok(Terms { book, contracts })
    }

    async fn write_tables(&self) -> Result<Vec<Ran>> {
        let store = Store::open(&self.store())?;
        let tables = Tables::create(&store, ZONE).await?;
        let sink = Sink::new(store.clone(), ZONE);
        let terms = Arc::new(self.terms()?);
        let mut closes = Vec::new();
        let mut month_before: Vec<Day> = Vec::new();
        for month in self.months()? {
            let of_month = |day: &Day| day.start().is_ok_and(|start| Period::of(start) == month);
            let days: Vec<Day> = Day::all(self.events).filter(of_month).collect();
            write(&days, &sink, &tables, &terms).await?;
            let mut asked = corrections_of(&days, 0, &terms)?;
            asked.extend(corrections_of(&month_before, CORRECTED_OF / 2, &terms)?);
            if !asked.is_empty() {
                let now = month.end() + SignedDuration::from_hours(1);
                corrections::apply(store.clone(), ZONE, &asked, now, false).await?;
            }
            closes.push(done(self, &["billing", "close", &month.to_string()])?);
            month_before = days;
        }
        Ok(closes)
    }
}

struct Terms {
    book: PriceBook,
    contracts: Contracts,
}

async fn write(days: &[Day], sink: &Sink, tables: &Tables, terms: &Arc<Terms>) -> Result<()> {
    let staged = stream::iter(days.to_vec()).map(|day| {
        let (sink, terms) = (sink.clone(), terms.clone());
        async move {
            let chunk = tokio::task::spawn_blocking(move || chunk_of(day, &terms)).await??;
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

fn chunk_of(day: Day, terms: &Terms) -> Result<Chunk> {
    let (from, to) = day.offsets();
    let mut outcomes = Vec::new();
    for request in day.requests() {
        let done = day.request(request)?;
        let billing = usage_row(&done.result, false, &terms.book, &terms.contracts, done.ingested_at)?;
        let result = done.result;
        outcomes.push(Outcome { result, billing });
    }
    Ok(Chunk {
        partition: PartitionId {
            topic: TOPIC.to_owned(),
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

/// Three of every [`CORRECTED_OF`] requests, from number `from` on, if they were charged.
fn corrections_of(days: &[Day], from: u64, terms: &Terms) -> Result<Vec<Correction>> {
    let mut corrections = Vec::new();
    for day in days {
        for request in day.requests() {
            let nth = request % CORRECTED_OF;
            if !(from..from + 3).contains(&nth) {
                continue;
            }
            let done = day.request(request)?;
            let row = usage_row(&done.result, false, &terms.book, &terms.contracts, done.ingested_at)?;
            if !row.billable {
                continue;
            }
            let output = row.output_tokens;
            let (change, reason) = match nth - from {
                0 => (Change::Reverse, "answered another question"),
                1 => (
                    Change::Replace([row.input_uncached_tokens, row.input_cached_tokens, output / 2]),
                    "half of the answer was ours",
                ),
                _ => (
                    Change::Adjust {
                        tokens: [7, 0, -(output / 3)],
                        number: 1,
                    },
                    "goodwill",
                ),
            };
            corrections.push(Correction {
                event_id: row.event_id,
                change,
                reason: reason.to_owned(),
            });
        }
    }
    Ok(corrections)
}
