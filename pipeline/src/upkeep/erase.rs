//! Erases what a tenant asked and was answered; rows, ids, tokens and the ledger stay as they are.
//!
//! Texts lie in three places of a store: in files of `results` that the newest version names, in files that
//! it does not name (any more), and in the inputs of jobs. The first are written anew without the texts and
//! replaced in the log, and only then deleted; so whatever stops this, the table is whole, and what is left
//! to do shows in the store alone. A file that was replaced and not yet deleted is one of the second kind.

pub mod inputs;
mod subject;

use std::collections::{HashMap, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::ObjectMeta;
use object_store::path::Path;

use super::files::{Inventory, NamedBy, delete};
use super::{RETENTION, UpkeepError, reading, replace};
use crate::chunk::PartitionId;
use crate::claim_check::error_chain;
use crate::committer::{CommitSettings, Committer};
use crate::intent::Intents;
use crate::sink::{DataFile, EncodeError, Sink, StagedFile, Table};
use crate::store::{self, Store};
use crate::tables::{Equals, Replaced, Replacement, TableError, TableFile, Tables, open_file};

use subject::Held;
pub use subject::Subject;

/// How often the table is looked through, while workers go on answering the tenant.
const ROUNDS_MAX: u32 = 10;
/// Files written anew at a time, and in one log entry.
const REWRITES_MAX: usize = 4;
const FILES_PER_ENTRY: usize = 256;
/// How names of rewritten files begin. Those of workers begin with `part`.
const STEM: &str = "erased";
const WORKERS_STEM: &str = "part-";

/// What was erased, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Erased {
    /// Rows of the newest version whose texts went.
    pub rows: u64,
    /// Files of the newest version that were written anew for that.
    pub rewritten: u64,
    /// Files with such texts that were deleted.
    pub deleted: u64,
    /// What still holds such texts.
    pub left: Vec<Left>,
}

/// A file that may still hold texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Which, relative to the store.
    pub path: String,
    /// Why, and what to do.
    pub reason: String,
}

/// A file of the newest version that held texts.
struct Rewritten {
    from: TableFile,
    /// What takes its place; nothing in a dry run.
    to: Option<StagedFile>,
    /// Rows that lost their texts.
    rows: u64,
}

/// Erases in one zone.
pub struct Eraser<'a> {
    /// The store.
    pub store: &'a Store,
    /// The zone.
    pub zone: &'a str,
    /// Its tables.
    pub tables: &'a Tables,
    /// Whose texts.
    pub subject: &'a Subject,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Eraser<'_> {
    /// Erases texts from `results`, and files that hold them. Needs a multi-threaded Tokio runtime.
    ///
    /// # Errors
    /// See [`UpkeepError`]. The same call completes what was begun.
    pub async fn results(&self, now: Timestamp) -> Result<Erased, UpkeepError> {
        if !self.dry_run {
            self.apply_sealed().await?;
        }
        let mut erased = Erased::default();
        self.newest(&mut erased).await?;
        self.others(now, &mut erased).await?;
        Ok(erased)
    }

    /// What is sealed comes into the table anyway; so it does before the table is looked through.
    async fn apply_sealed(&self) -> Result<(), UpkeepError> {
        let settings = CommitSettings::default();
        let committer = Committer::open(self.store.clone(), self.zone, "table-erase", settings).await?;
        for partition in Intents::new(self.store.clone(), self.zone).partitions().await? {
            committer.recover(&partition).await?;
        }
        Ok(())
    }

    /// The files of the newest version, until a look finds no texts in any.
    async fn newest(&self, erased: &mut Erased) -> Result<(), UpkeepError> {
        let filter = Equals {
            column: "tenant_id".to_owned(),
            value: self.subject.tenant.to_string(),
        };
        let mut done: HashSet<String> = HashSet::new();
        for _ in 0..ROUNDS_MAX {
            let mut files = self.tables.files(Table::Results, Some(&filter)).await?;
            files.retain(|file| !done.contains(&file.path));
            if files.is_empty() {
                return Ok(());
            }
            for files in files.chunks(FILES_PER_ENTRY) {
                let rewrites = stream::iter(files).map(|file| self.rewrite(file));
                let rewritten: Vec<_> = rewrites.buffer_unordered(REWRITES_MAX).try_collect().await?;
                let rewritten: Vec<Rewritten> = rewritten.into_iter().flatten().collect();
                if self.replace(&rewritten).await? == Replaced::Overtaken {
                    continue;
                }
                erased.rows += rewritten.iter().map(|file| file.rows).sum::<u64>();
                erased.rewritten += rewritten.len() as u64;
                erased.deleted += rewritten.len() as u64;
                done.extend(rewritten.into_iter().filter_map(|file| Some(file.to?.path)));
                done.extend(files.iter().map(|file| file.path.clone()));
            }
        }
        erased.left.push(Left {
            path: format!("{}/{}", self.zone, Table::Results.name()),
            reason: "gets new answers to this tenant all the time; end its jobs, then run this again".to_owned(),
        });
        Ok(())
    }

    /// Writes a file anew if it holds texts, but for a dry run.
    async fn rewrite(&self, file: &TableFile) -> Result<Option<Rewritten>, UpkeepError> {
        let place = self.tables.place(Table::Results, &file.path)?;
        let Some(Held { rows, .. }) = self.subject.look(self.store, &place, file.size).await? else {
            return Ok(None);
        };
        let to = match self.dry_run {
            true => None,
            false => Some(self.without_texts(&place, file).await?),
        };
        let from = file.clone();
        Ok(Some(Rewritten { from, to, rows }))
    }

    async fn without_texts(&self, place: &Path, file: &TableFile) -> Result<StagedFile, UpkeepError> {
        let failed = |source: EncodeError| UpkeepError::Rewrite {
            path: self.store.relative(place),
            source,
        };
        let reader = open_file(self.store, place, file.size, reading()).await?;
        let rows = reader.metadata().file_metadata().num_rows().unsigned_abs();
        let new = DataFile::new(Table::Results, reader.schema().clone(), rows);
        let mut new = new.map_err(|error| failed(error.into()))?;
        let mut batches = reader.build().map_err(|source| TableError::file(place, source))?;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|source| TableError::file(place, source))?;
            let written = tokio::task::block_in_place(|| new.write(&self.subject.without_texts(&batch)?));
            written.map_err(failed)?;
        }
        let new = new.finish(file.partition_value.clone(), STEM).map_err(failed)?;
        Sink::new(self.store.clone(), self.zone).put(&new).await?;
        Ok(new.file)
    }

    /// Puts the new files into the table, then deletes the old ones.
    async fn replace(&self, rewritten: &[Rewritten]) -> Result<Replaced, UpkeepError> {
        let replacement = Replacement {
            removed: rewritten.iter().map(|file| file.from.path.clone()).collect(),
            added: rewritten.iter().filter_map(|file| file.to.clone()).collect(),
            changes_rows: true,
        };
        if replacement.added.is_empty() {
            return Ok(Replaced::Done);
        }
        let replaced = replace(self.store, self.tables, Table::Results, &replacement).await?;
        if replaced == Replaced::Done {
            let old = replacement.removed.iter();
            let old = old.map(|path| self.tables.place(Table::Results, path));
            delete(self.store, old.collect::<Result<Vec<_>, _>>()?).await?;
        }
        Ok(replaced)
    }

    /// Files that the newest version does not name.
    async fn others(&self, now: Timestamp, erased: &mut Erased) -> Result<(), UpkeepError> {
        // Before the files are looked at: what a worker applies later must not count as applied.
        let partitions = Intents::new(self.store.clone(), self.zone).partitions().await?;
        let watermarks = self.tables.watermarks(Table::Results, &partitions).await?;
        let watermarks: HashMap<PartitionId, i64> = partitions.into_iter().zip(watermarks).collect();
        let Inventory { named, unnamed } = Inventory::take(self.store, self.zone, self.tables, Table::Results).await?;
        let sealed = named.iter().filter(|(_, (_, by))| *by == NamedBy::Intent);
        for place in self
            .holding(sealed.map(|(place, (file, _))| (place, file.size)), erased)
            .await?
            .into_keys()
        {
            erased.left.push(Left {
                path: self.store.relative(&place),
                reason: "is sealed and not in the table yet; a run that erases brings it in first".to_owned(),
            });
        }
        let held = self
            .holding(unnamed.iter().map(|meta| (&meta.location, meta.size)), erased)
            .await?;
        let held: Vec<(ObjectMeta, Held)> = unnamed
            .into_iter()
            .filter_map(|meta| held.get(&meta.location).cloned().map(|held| (meta, held)))
            .collect();
        let young = held
            .iter()
            .map(|(meta, _)| store::modified(meta))
            .filter(|at| *at > now - RETENTION);
        let removed = match young.min() {
            Some(since) => self.tables.removed_since(Table::Results, since).await?,
            None => HashSet::new(),
        };
        let mut gone = Vec::new();
        for (meta, held) in held {
            let is_old = store::modified(&meta) <= now - RETENTION;
            let is_workers = meta
                .location
                .filename()
                .is_some_and(|name| name.starts_with(WORKERS_STEM));
            let is_passed = watermarks
                .get(&held.partition)
                .is_some_and(|watermark| held.offset < *watermark);
            if is_old || removed.contains(&meta.location) || is_workers && is_passed {
                gone.push(meta.location);
                continue;
            }
            let until = (store::modified(&meta) + RETENTION).strftime("%F %R");
            erased.left.push(Left {
                path: self.store.relative(&meta.location),
                reason: format!(
                    "was written of late and is not in the table, but may yet come into it; run this again, \
                     if nothing else happens to it after {until} UTC"
                ),
            });
        }
        erased.deleted += gone.len() as u64;
        if !self.dry_run {
            delete(self.store, gone).await?;
        }
        Ok(())
    }

    /// Which of these files hold texts. One that cannot be read may, and is left.
    async fn holding<'a>(
        &self,
        files: impl Iterator<Item = (&'a Path, u64)>,
        erased: &mut Erased,
    ) -> Result<HashMap<Path, Held>, UpkeepError> {
        let looks = stream::iter(files)
            .map(|(place, size)| async move { (place, self.subject.look(self.store, place, size).await) });
        let mut looks = looks.buffer_unordered(REWRITES_MAX);
        let mut holding = HashMap::new();
        while let Some((place, held)) = looks.next().await {
            match held {
                Ok(held) => holding.extend(held.map(|held| (place.clone(), held))),
                Err(TableError::Gone { .. }) => {}
                Err(error) if error.is_outage() => return Err(error.into()),
                Err(error) => erased.left.push(Left {
                    path: self.store.relative(place),
                    reason: format!(
                        "may hold such texts, for it cannot be read ({}); see what it is and delete it",
                        error_chain(&error)
                    ),
                }),
            }
        }
        Ok(holding)
    }
}
