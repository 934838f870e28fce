//! Typed access to a request body that leaves no field unread.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::job::RequestError;

/// Shown of the name of a field that nobody knows.
const NAME_CHARS_MAX: usize = 64;

/// A JSON object whose fields are taken one by one. Null counts as absent, as OpenAI's clients mean it.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    taken: BTreeSet<&'static str>,
    /// Stands before field names in errors, e.g. `messages[0].`.
    prefix: String,
}

impl<'a> Fields<'a> {
    /// The fields of `value`, which errors call `name` (nothing for the body itself).
    pub(super) fn new(value: &'a Value, name: &str) -> Result<Fields<'a>, RequestError> {
        let Value::Object(object) = value else {
            let what = if name.is_empty() { "the request body" } else { name };
            let message = format!("{what} is {}, but must be an object", kind(value));
            return Err(RequestError {
                code: "invalid_type",
                message,
                param: (!name.is_empty()).then(|| name.to_owned()),
            });
        };
        let prefix = if name.is_empty() {
            String::new()
        } else {
            format!("{name}.")
        };
        Ok(Fields {
            object,
            taken: BTreeSet::new(),
            prefix,
        })
    }

    /// The name of a field as errors show it.
    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A field of any type, unless it is absent or null.
    pub(super) fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.taken.insert(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<&'a Value, RequestError> {
        let missing = || {
            let path = self.path(key);
            RequestError::new("missing_required_parameter", path.clone(), format!("{path} is missing"))
        };
        self.object
            .get(key)
            .filter(|value| !value.is_null())
            .ok_or_else(missing)
            .inspect(|_| {
                self.taken.insert(key);
            })
    }

    pub(super) fn bool(&mut self, key: &'static str) -> Result<Option<bool>, RequestError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn str(&mut self, key: &'static str) -> Result<Option<&'a str>, RequestError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A whole number within bounds.
    pub(super) fn integer(&mut self, key: &'static str, min: i64, max: i64) -> Result<Option<i64>, RequestError> {
        let within = |value: &Value| value.as_i64().filter(|number| (min..=max).contains(number));
        let expected = if max == i64::MAX {
            format!("a whole number, at least {min}")
        } else {
            format!("a whole number from {min} to {max}")
        };
        self.typed(key, &expected, within)
    }

    /// A number within bounds.
    pub(super) fn number(&mut self, key: &'static str, min: f64, max: f64) -> Result<Option<f32>, RequestError> {
        let within = |value: &Value| {
            value
                .as_f64()
                .filter(|number| (min..=max).contains(number))
                .map(|number| number as f32)
        };
        self.typed(key, &format!("a number from {min} to {max}"), within)
    }

    /// Accepts a field that may only say what happens anyway.
    pub(super) fn only(&mut self, key: &'static str, allowed: &[Value]) -> Result<(), RequestError> {
        match self.value(key) {
            Some(value) if !allowed.contains(value) => {
                let path = self.path(key);
                let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
                let message = match &allowed[..] {
                    [] => format!("{path} is not supported; leave it out"),
                    _ => format!(
                        "{path} is {}, but only {} is supported",
                        brief(value),
                        allowed.join(" or ")
                    ),
                };
                Err(RequestError::new("unsupported_parameter", path, message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what was never asked for.
    pub(super) fn finish(self) -> Result<(), RequestError> {
        match self.object.keys().find(|key| !self.taken.contains(key.as_str())) {
            Some(key) => {
                let path = self.path(&key.chars().take(NAME_CHARS_MAX).collect::<String>());
                let message = format!("unknown field {path}; leave it out");
                Err(RequestError::new("unknown_parameter", path, message))
            }
            None => Ok(()),
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        get: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let path = self.path(key);
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || {
            RequestError::invalid(
                path.clone(),
                format!("{path} is {}, but must be {expected}", brief(value)),
            )
        };
        get(value).ok_or_else(wrong).map(Some)
    }
}

/// A value short enough for an error message.
pub(super) fn brief(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
        Value::String(text) if text.chars().count() > 40 => {
            format!("\"{}…\"", text.chars().take(40).collect::<String>())
        }
        _ => value.to_string(),
    }
}

/// What a value is, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
