//! Prompts, messages and stop strings, and the limits on their lengths.

use serde_json::{Value, json};

use super::Reader;
use super::fields::{Fields, brief};
use crate::job::RequestError;

/// OpenAI's bound.
const STOP_STRINGS_MAX: usize = 4;
const STOP_LEN_MAX: usize = 1024;
const MESSAGES_MAX: usize = 4096;

/// A prompt as tokens, and its text if it was text: a string, a list of token ids, or a list of one of these.
pub(super) fn read_tokens(
    reader: &Reader<'_>,
    param: &'static str,
    value: &Value,
) -> Result<(Vec<u32>, Option<String>), RequestError> {
    let value = match value.as_array().map(Vec::as_slice) {
        Some([one]) if !one.is_number() => one,
        Some([one, ..]) if !one.is_number() => {
            let message = format!(
                "{param} is a list of several prompts, but only one a request is supported; send one request each"
            );
            return Err(RequestError::new("unsupported_parameter", param, message));
        }
        _ => value,
    };
    match value {
        Value::String(text) => Ok((encode(reader, param, text, true)?, Some(text.clone()))),
        Value::Array(ids) if !ids.is_empty() => {
            check_length(reader, param, ids.len())?;
            let id = |value: &Value| {
                value
                    .as_u64()
                    .filter(|id| *id < reader.tokens.vocabulary as u64)
                    .map(|id| id as u32)
            };
            let wrong = |value: &Value| {
                let message = format!(
                    "{param} holds {}, but token ids go from 0 to {}",
                    brief(value),
                    reader.tokens.vocabulary - 1
                );
                RequestError::invalid(param, message)
            };
            let tokens = ids.iter().map(|value| id(value).ok_or_else(|| wrong(value)));
            Ok((tokens.collect::<Result<_, _>>()?, None))
        }
        _ => {
            let message = format!(
                "{param} is {}, but must be a string or a list of token ids that is not empty",
                brief(value)
            );
            Err(RequestError::invalid(param, message))
        }
    }
}

/// Tokens of a text that fits the context.
pub(super) fn encode(reader: &Reader<'_>, param: &str, text: &str, special: bool) -> Result<Vec<u32>, RequestError> {
    let tokenizer = reader.tokens.tokenizer;
    check_length(reader, param, tokenizer.tokens_min(text.len()))?; // before spending time on a text that cannot fit
    let invalid = |error| RequestError::invalid(param, format!("{param} cannot be tokenized: {error}"));
    let tokens = tokenizer.encode(text, special).map_err(invalid)?;
    check_length(reader, param, tokens.len())?;
    if tokens.is_empty() {
        return Err(RequestError::invalid(
            param,
            format!("{param} has no tokens; give at least one character"),
        ));
    }
    match tokens.iter().find(|token| **token as usize >= reader.tokens.vocabulary) {
        Some(token) => {
            let message = format!(
                "{param} has the token {token}, which the model of {} tokens lacks",
                reader.tokens.vocabulary
            );
            Err(RequestError::invalid(param, message))
        }
        None => Ok(tokens),
    }
}

fn check_length(reader: &Reader<'_>, param: &str, tokens: usize) -> Result<(), RequestError> {
    if tokens <= reader.context_length {
        return Ok(());
    }
    let message = format!(
        "{param} has {tokens} tokens or more, but the model's context is {} tokens; shorten it",
        reader.context_length
    );
    Err(RequestError::new("context_length_exceeded", param, message))
}

/// What the context leaves for tokens behind the prompt.
pub(super) struct Limits {
    pub(super) context_length: usize,
    pub(super) prompt_len: usize,
}

impl Limits {
    /// Tokens to write: those asked for, which must fit, else `default` or as many as fit.
    pub(super) fn answer(&self, param: &str, asked: Option<i64>, default: usize) -> Result<usize, RequestError> {
        let room = self.context_length - self.prompt_len;
        match asked.map(|asked| usize::try_from(asked).unwrap_or(usize::MAX)) {
            Some(asked) if asked > room => Err(self.exceeded(param, asked)),
            Some(asked) => Ok(asked),
            None if room == 0 => Err(self.exceeded(param, 1)),
            None => Ok(default.min(room)),
        }
    }

    /// Checks a continuation of so many tokens.
    pub(super) fn continuation(&self, param: &str, tokens: usize) -> Result<(), RequestError> {
        if tokens > self.context_length - self.prompt_len {
            Err(self.exceeded(param, tokens))
        } else {
            Ok(())
        }
    }

    fn exceeded(&self, param: &str, further: usize) -> RequestError {
        let Limits {
            context_length,
            prompt_len,
        } = self;
        let message = format!(
            "the prompt has {prompt_len} tokens and {param} adds {further}, but the model's context is {context_length} tokens; shorten one"
        );
        RequestError::new("context_length_exceeded", param, message)
    }
}

/// `stop`: a string or a list of them. Empty ones would stop before anything is written, so they are refused.
pub(super) fn stop_strings(fields: &mut Fields<'_>) -> Result<Vec<String>, RequestError> {
    let Some(value) = fields.value("stop") else {
        return Ok(Vec::new());
    };
    let good = |value: &Value| {
        value
            .as_str()
            .filter(|text| (1..=STOP_LEN_MAX).contains(&text.len()))
            .map(str::to_owned)
    };
    let strings = match value {
        Value::Array(values) if values.len() <= STOP_STRINGS_MAX => values.iter().map(good).collect::<Option<Vec<_>>>(),
        single => good(single).map(|text| vec![text]),
    };
    strings.ok_or_else(|| {
        let message = format!(
            "stop is {}, but must be a string of 1 to {STOP_LEN_MAX} bytes or a list of up to {STOP_STRINGS_MAX} of them",
            brief(value)
        );
        RequestError::invalid("stop", message)
    })
}

/// `messages` in the form that templates read: `role`, `content` as text, and `name` if there is one.
pub(super) fn messages(value: &Value) -> Result<Value, RequestError> {
    let list = match value.as_array() {
        Some(list) if (1..=MESSAGES_MAX).contains(&list.len()) => list,
        _ => {
            let message = format!(
                "messages is {}, but must be a list of 1 to {MESSAGES_MAX} messages",
                brief(value)
            );
            return Err(RequestError::invalid("messages", message));
        }
    };
    list.iter()
        .enumerate()
        .map(|(index, value)| message(value, &format!("messages[{index}]")))
        .collect()
}

fn message(value: &Value, name: &str) -> Result<Value, RequestError> {
    let mut fields = Fields::new(value, name)?;
    fields.required("role")?;
    let role = fields.str("role")?.unwrap_or_default();
    if !["system", "developer", "user", "assistant"].contains(&role) {
        let role = brief(&json!(role));
        let message =
            format!("{name}.role is {role}, but must be \"system\", \"developer\", \"user\" or \"assistant\"");
        return Err(RequestError::invalid(format!("{name}.role"), message));
    }
    let role = if role == "developer" { "system" } else { role }; // OpenAI's newer word for it
    let mut message = json!({ "role": role, "content": content(fields.required("content")?, name)? });
    if let Some(speaker) = fields.str("name")? {
        message["name"] = json!(speaker);
    }
    fields.finish()?;
    // In the order of the request, as Python keeps it: some templates print a message whole.
    let given = value.as_object().into_iter().flat_map(|object| object.keys());
    Ok(given
        .filter_map(|key| Some((key.clone(), message.get(key)?.clone())))
        .collect())
}

/// The text of a message: a string, or a list of text parts.
fn content(value: &Value, name: &str) -> Result<String, RequestError> {
    let param = format!("{name}.content");
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| {
                (part["type"] == "text")
                    .then(|| part["text"].as_str().map(str::to_owned))
                    .flatten()
            };
            let parts: Option<String> = parts.iter().map(text).collect();
            let message =
                format!("{param} has a part that is not text; only {{\"type\": \"text\"}} parts are supported");
            parts.ok_or_else(|| RequestError::new("unsupported_parameter", param, message))
        }
        _ => {
            let message = format!(
                "{param} is {}, but must be a string or a list of text parts",
                brief(value)
            );
            Err(RequestError::invalid(param, message))
        }
    }
}
