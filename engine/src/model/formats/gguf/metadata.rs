//! The metadata of a GGUF file: values by key, with errors that name both.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::error::LoadError;

/// One value. Arrays of numbers are kept as f32: scores are, and types of tokens are small.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f32>),
}

/// All values of a file.
pub(super) struct Metadata {
    pub(super) path: PathBuf,
    pub(super) values: BTreeMap<String, Value>,
}

impl Metadata {
    /// An integer from 0 to 2⁶⁴ − 1, if the key is there.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>, LoadError> {
        self.get(key, "an integer of at least 0", |value| match value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// An integer that must be there; one beyond the address space is its largest.
    pub(super) fn size(&self, key: &str) -> Result<usize, LoadError> {
        let value = self.required(key, self.integer(key)?)?;
        Ok(usize::try_from(value).unwrap_or(usize::MAX))
    }

    /// A number, if the key is there.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        self.get(key, "a number", |value| match value {
            Value::Float(value) => Some(*value),
            Value::Integer(value) => Some(*value as f64),
            _ => None,
        })
    }

    /// True or false, if the key is there.
    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        self.get(key, "a bool", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A text, if the key is there.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        self.get(key, "a text", |value| match value {
            Value::Text(value) => Some(value.as_str()),
            _ => None,
        })
    }

    /// An array of texts, if the key is there.
    pub(super) fn texts(&self, key: &str) -> Result<Option<&[String]>, LoadError> {
        self.get(key, "an array of texts", |value| match value {
            Value::Texts(value) => Some(value.as_slice()),
            _ => None,
        })
    }

    /// An array of numbers, if the key is there.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<&[f32]>, LoadError> {
        self.get(key, "an array of numbers", |value| match value {
            Value::Numbers(value) => Some(value.as_slice()),
            _ => None,
        })
    }

    /// The value, or an error that names the key.
    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, LoadError> {
        value.ok_or_else(|| LoadError::invalid(&self.path, format!("{key} is missing from its metadata")))
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LoadError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => {
                let found = match value {
                    Value::Integer(value) => value.to_string(),
                    Value::Float(value) => value.to_string(),
                    Value::Bool(value) => value.to_string(),
                    Value::Text(_) => "a text".to_owned(),
                    Value::Texts(texts) => format!("an array of {} texts", texts.len()),
                    Value::Numbers(numbers) => format!("an array of {} numbers", numbers.len()),
                };
                Err(LoadError::invalid(
                    &self.path,
                    format!("{key} is {found}, but must be {expected}"),
                ))
            }
        }
    }
}
