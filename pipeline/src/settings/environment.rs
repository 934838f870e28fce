//! `BITNET__SECTION__KEY` from the environment, as a layer of the `config` crate.
//!
//! That crate's own reader is not used: it takes a dot in a variable's name for nesting, so that a
//! librdkafka property could not be named, and an index such as `[9]` for a list to allocate.

use std::collections::HashMap;
use std::ffi::OsString;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::SettingsError;

const PREFIX: &str = "BITNET__";
const PROPERTIES: &str = "PROPERTIES__";

/// The variables of ours, section by section.
#[derive(Debug, Clone)]
pub struct Layer(HashMap<String, Section>);

#[derive(Debug, Clone, Default)]
struct Section {
    keys: HashMap<String, Value>,
    properties: HashMap<String, Value>,
}

impl Layer {
    /// Picks the variables that start with `BITNET__`; a misshapen name or value of those is an error.
    pub fn of(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Layer, SettingsError> {
        let mut sections: HashMap<String, Section> = HashMap::new();
        for (name, value) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
                continue;
            };
            let value = value.into_string().map_err(|value| SettingsError::Variable {
                name: name.to_owned(),
                problem: format!("is not UTF-8 ({})", value.to_string_lossy()),
            })?;
            let misshapen = || SettingsError::Variable {
                name: name.to_owned(),
                problem: "names no setting".to_owned(),
            };
            let (section, key) = name[PREFIX.len()..].split_once("__").ok_or_else(misshapen)?;
            let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let value = Value::new(Some(&name.to_owned()), ValueKind::String(value));
            if !plain(section) {
                return Err(misshapen());
            }
            let entry = sections.entry(section.to_ascii_lowercase()).or_default();
            if let Some(property) = key
                .strip_prefix(PROPERTIES)
                .filter(|_| section.eq_ignore_ascii_case("kafka"))
            {
                entry
                    .properties
                    .insert(property.to_ascii_lowercase().replace('_', "."), value);
            } else if plain(key) {
                entry.keys.insert(key.to_ascii_lowercase(), value);
            } else {
                return Err(misshapen());
            }
        }
        Ok(Layer(sections))
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let section = |section: &Section| {
            let mut keys = section.keys.clone();
            if !section.properties.is_empty() {
                keys.insert("properties".to_owned(), section.properties.clone().into());
            }
            Value::from(keys)
        };
        Ok(self
            .0
            .iter()
            .map(|(name, keys)| (name.clone(), section(keys)))
            .collect())
    }
}
