//! The fields that say what an answer must look like: OpenAI's `response_format` and vLLM's structured outputs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Reader;
use super::fields::{Fields, brief};
use crate::grammar::Constraint;
use crate::job::RequestError;

/// Longest schema or expression, in bytes.
const CONSTRAINT_LEN_MAX: usize = 1 << 16;
const CHOICES_MAX: usize = 1024;

/// Reads them; one at most may be given. The constraint is compiled, so that one that cannot be followed is refused.
pub(super) fn read(reader: &Reader<'_>, fields: &mut Fields<'_>) -> Result<Option<Arc<Constraint>>, RequestError> {
    let mut found = Vec::new();
    if let Some(value) = fields.value("response_format") {
        let constraint = response_format(value)?;
        found.extend(constraint.map(|constraint| ("response_format".to_owned(), constraint)));
    }
    if let Some(value) = fields.value("structured_outputs") {
        let mut inner = Fields::new(value, "structured_outputs")?;
        found.extend(vllm(&mut inner, ["json", "regex", "choice"])?);
        if inner.bool("json_object")? == Some(true) {
            found.push((inner.path("json_object"), any_object()));
        }
        inner.finish()?;
    }
    found.extend(vllm(fields, ["guided_json", "guided_regex", "guided_choice"])?);
    if let [(first, _), (second, _), ..] = &found[..] {
        let message = format!("{first} and {second} are both given; leave one out");
        return Err(RequestError::invalid(second.clone(), message));
    }
    let Some((param, constraint)) = found.pop() else {
        return Ok(None);
    };
    let constraint = Arc::new(constraint);
    let refused = |error| RequestError::invalid(param.clone(), format!("{param} cannot be followed: {error}"));
    reader.grammars.start(reader.tokens, &constraint).map_err(refused)?;
    Ok(Some(constraint))
}

fn any_object() -> Constraint {
    Constraint::Json(r#"{"type":"object"}"#.to_owned())
}

/// `{"type": "text" | "json_object"}` or `{"type": "json_schema", "json_schema": {"name", "schema", …}}`.
fn response_format(value: &Value) -> Result<Option<Constraint>, RequestError> {
    let mut fields = Fields::new(value, "response_format")?;
    fields.required("type")?;
    let constraint = match fields.str("type")? {
        Some("text") => None,
        Some("json_object") => Some(any_object()),
        Some("json_schema") => {
            let mut inner = Fields::new(fields.required("json_schema")?, "response_format.json_schema")?;
            inner.str("name")?;
            inner.str("description")?;
            inner.bool("strict")?; // it always is
            let schema = match inner.value("schema") {
                Some(schema) => json_schema(schema, &inner.path("schema"))?,
                None => any_object(),
            };
            inner.finish()?;
            Some(schema)
        }
        other => {
            let message = format!(
                "response_format.type is {}, but must be \"text\", \"json_object\" or \"json_schema\"",
                brief(&json!(other))
            );
            return Err(RequestError::invalid("response_format.type", message));
        }
    };
    fields.finish()?;
    Ok(constraint)
}

/// vLLM's three kinds, by these names.
fn vllm(fields: &mut Fields<'_>, names: [&'static str; 3]) -> Result<Vec<(String, Constraint)>, RequestError> {
    let [json, regex, choice] = names;
    let mut found = Vec::new();
    if let Some(value) = fields.value(json) {
        let path = fields.path(json);
        found.push((path.clone(), json_schema(value, &path)?));
    }
    if let Some(expression) = fields.str(regex)? {
        let path = fields.path(regex);
        check_length(&path, expression)?;
        found.push((path, Constraint::Regex(expression.to_owned())));
    }
    if let Some(value) = fields.value(choice) {
        let path = fields.path(choice);
        found.push((path.clone(), Constraint::Choice(choices(value, &path)?)));
    }
    Ok(found)
}

/// A schema, as JSON or as JSON in a string.
fn json_schema(value: &Value, path: &str) -> Result<Constraint, RequestError> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Object(_) | Value::Bool(_) => value.to_string(),
        _ => {
            let message = format!("{path} is {}, but must be a JSON schema, an object", brief(value));
            return Err(RequestError::invalid(path, message));
        }
    };
    check_length(path, &text)?;
    Ok(Constraint::Json(text))
}

fn choices(value: &Value, path: &str) -> Result<Vec<String>, RequestError> {
    let wrong = || {
        let message = format!(
            "{path} is {}, but must be a list of 1 to {CHOICES_MAX} strings that are not empty",
            brief(value)
        );
        RequestError::invalid(path, message)
    };
    let list = value.as_array().filter(|list| (1..=CHOICES_MAX).contains(&list.len()));
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let texts: Vec<String> = list
        .ok_or_else(wrong)?
        .iter()
        .map(text)
        .collect::<Option<_>>()
        .ok_or_else(wrong)?;
    check_length(path, &texts.concat())?;
    Ok(texts)
}

fn check_length(path: &str, text: &str) -> Result<(), RequestError> {
    if text.len() <= CONSTRAINT_LEN_MAX {
        return Ok(());
    }
    let message = format!(
        "{path} has {} bytes, but at most {CONSTRAINT_LEN_MAX} are possible; shorten it",
        text.len()
    );
    Err(RequestError::invalid(path, message))
}
