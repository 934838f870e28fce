//! Which price versions and contracts are published, by the SHA-256 of what they say. What is published
//! never changes: the same name with another content is refused, before anything is rated with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contract::Contracts;
use crate::price_book::PriceBook;

/// Names of what is published, each with its SHA-256 in hexadecimal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// By price book and version: the hash of the version's file.
    pub prices: BTreeMap<String, BTreeMap<String, String>>,
    /// By tenant and contract version: the hash of what the contract says.
    pub contracts: BTreeMap<String, BTreeMap<String, String>>,
}

/// A published name whose content is another now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {version} of {of} was published with SHA-256 {published}, but now has {found}; a published version \
     never changes: restore the file, and put the change into a version of its own"
)]
pub struct Changed {
    /// `price version` or `contract`.
    pub what: &'static str,
    /// Its name.
    pub version: String,
    /// The price book or the tenant.
    pub of: String,
    /// Its hash when it was published.
    pub published: String,
    /// Its hash now.
    pub found: String,
}

impl Published {
    /// What `book` and `contracts` say.
    pub fn of(book: &PriceBook, contracts: &Contracts) -> Self {
        let mut published = Published::default();
        let versions = book
            .versions()
            .iter()
            .map(|one| (one.version.clone(), one.sha256.clone()));
        published.prices.insert(book.id.clone(), versions.collect());
        for contract in contracts.all() {
            let of_tenant = published.contracts.entry(contract.tenant_id.to_string()).or_default();
            of_tenant.insert(contract.version.clone(), contract.sha256.clone());
        }
        published
    }

    /// What of `now` is not published yet.
    ///
    /// # Errors
    /// Every published version and contract that says something else now.
    pub fn missing(&self, now: &Published) -> Result<Published, Vec<Changed>> {
        let mut changed = Vec::new();
        let missing = Published {
            prices: missing("price version", &self.prices, &now.prices, &mut changed),
            contracts: missing("contract", &self.contracts, &now.contracts, &mut changed),
        };
        if changed.is_empty() { Ok(missing) } else { Err(changed) }
    }

    /// Takes in what somebody else published; a name that is known already keeps its hash.
    pub fn add(&mut self, other: Published) {
        for (mine, theirs) in [(&mut self.prices, other.prices), (&mut self.contracts, other.contracts)] {
            for (of, versions) in theirs {
                let known = mine.entry(of).or_default();
                for (version, hash) in versions {
                    known.entry(version).or_insert(hash);
                }
            }
        }
    }

    /// Whether it names nothing.
    pub fn is_empty(&self) -> bool {
        self.prices
            .values()
            .chain(self.contracts.values())
            .all(BTreeMap::is_empty)
    }
}

type Hashes = BTreeMap<String, BTreeMap<String, String>>;

fn missing(what: &'static str, published: &Hashes, now: &Hashes, changed: &mut Vec<Changed>) -> Hashes {
    let mut missing = Hashes::new();
    for (of, version, found) in now
        .iter()
        .flat_map(|(of, versions)| versions.iter().map(move |(version, hash)| (of, version, hash)))
    {
        match published.get(of).and_then(|versions| versions.get(version)) {
            None => {
                missing
                    .entry(of.clone())
                    .or_default()
                    .insert(version.clone(), found.clone());
            }
            Some(hash) if hash == found => {}
            Some(hash) => changed.push(Changed {
                what,
                version: version.clone(),
                of: of.clone(),
                published: hash.clone(),
                found: found.clone(),
            }),
        }
    }
    missing
}
