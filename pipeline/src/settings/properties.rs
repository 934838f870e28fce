//! `kafka.properties.*`: librdkafka properties by their own names, dots and all.
//!
//! TOML reads `ssl.ca.location = "x"` as nested tables and `"ssl.ca.location" = "x"` as one key; both
//! mean the same here. Secrets are hidden wherever the properties are printed.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const HIDDEN: &str = "(hidden)";

/// librdkafka properties by name. `Debug` and `Serialize` hide secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KafkaProperties(BTreeMap<String, String>);

impl KafkaProperties {
    /// Every property, secrets included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter()
            .map(|(name, value)| (name, if is_secret(name) { HIDDEN } else { value }))
    }
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for KafkaProperties {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.shown())
    }
}

impl<'de> Deserialize<'de> for KafkaProperties {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut flat = BTreeMap::new();
        for (name, written) in BTreeMap::<String, Written>::deserialize(from)? {
            flatten(name, written, &mut flat).map_err(D::Error::custom)?;
        }
        Ok(KafkaProperties(flat))
    }
}

/// Anything that may carry a password, a key or a user's name.
fn is_secret(name: &str) -> bool {
    let shown_sasl = ["sasl.mechanism", "sasl.mechanisms"];
    (name.starts_with("sasl.") && !shown_sasl.contains(&name))
        || ["password", "secret", "pem", "token"]
            .iter()
            .any(|part| name.contains(part))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Nested(BTreeMap<String, Written>),
}

fn flatten(name: String, written: Written, flat: &mut BTreeMap<String, String>) -> Result<(), String> {
    let value = match written {
        Written::Bool(value) => value.to_string(),
        Written::Integer(value) => value.to_string(),
        Written::Float(value) => value.to_string(),
        Written::Text(value) => value,
        Written::Nested(inner) => {
            for (part, written) in inner {
                flatten(format!("{name}.{part}"), written, flat)?;
            }
            return Ok(());
        }
    };
    match flat.insert(name.clone(), value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is given twice, quoted and as nested tables; keep one")),
    }
}
