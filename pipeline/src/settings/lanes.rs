//! `worker.lanes`: a list in TOML, or comma-separated text, as the environment gives it.

use schemas::request::ServiceTier;
use serde::{Deserialize, Deserializer, Serializer, de::Error};

const TIERS: [ServiceTier; 3] = [ServiceTier::Interactive, ServiceTier::Standard, ServiceTier::Batch];

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    List(Vec<String>),
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ServiceTier>, D::Error> {
    let names = match Written::deserialize(from)? {
        Written::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
        Written::List(names) => names,
    };
    let mut tiers = Vec::new();
    for name in names {
        let Some(tier) = TIERS.into_iter().find(|tier| tier.lane() == name) else {
            return Err(D::Error::custom(format!(
                "unknown lane {name:?}, expected interactive, standard or bulk"
            )));
        };
        if !tiers.contains(&tier) {
            tiers.push(tier);
        }
    }
    Ok(tiers)
}

pub(super) fn serialize<S: Serializer>(tiers: &[ServiceTier], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(tiers.iter().map(|tier| tier.lane()))
}
