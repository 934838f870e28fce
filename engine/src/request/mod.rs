//! Request bodies to jobs: each endpoint reads the fields it knows and refuses all others by name.

mod fields;
mod sampling;
mod output;
mod text;

use serde_json::{Value, json};

use self::fields::{Fields, brief};
use self::text::{Limits, read_tokens};
use crate::grammar::{Grammars, Tokens};
use crate::job::{Choice, Endpoint, Generate, Job, Pooling, RequestError, Score, Work};
use crate::template::ChatTemplate;

/// Choices of one score request.
const CHOICES_MAX: usize = 1024;
/// Alternatives beside each token of a chat completion, and of a text completion, as OpenAI bounds them.
const TOP_LOGPROBS_MAX: (i64, i64) = (20, 5);
/// Answers to one request, as OpenAI bounds them.
const N_MAX: i64 = 128;
/// OpenAI's default for text completions.
const COMPLETION_TOKENS: usize = 16;

/// What a model tells about the requests it can answer.
pub(crate) struct Reader<'a> {
    pub(crate) tokens: Tokens<'a>,
    pub(crate) template: Option<&'a ChatTemplate>,
    pub(crate) grammars: &'a Grammars,
    pub(crate) context_length: usize,
}

impl Reader<'_> {
    /// Reads one body. `request_key` decides the seed where the body has none.
    pub(crate) fn read(&self, endpoint: Endpoint, body: &Value, request_key: &str) -> Result<Job, RequestError> {
        let mut fields = Fields::new(body, "")?;
        fields.str("model")?; // the caller chose the model by it
        fields.str("user")?; // an end user's name, for abuse reports; it changes nothing
        let job = match endpoint {
            Endpoint::Completions => self.completion(&mut fields, request_key)?,
            Endpoint::ChatCompletions => self.chat(&mut fields, request_key)?,
            Endpoint::Embeddings => self.embedding(&mut fields)?,
            Endpoint::Score => self.score(&mut fields)?,
        };
        fields.finish()?;
        Ok(job)
    }

    fn completion(&self, fields: &mut Fields<'_>, request_key: &str) -> Result<Job, RequestError> {
        refuse_unsupported(fields)?;
        let choices = fields.integer("n", 1, N_MAX)?.unwrap_or(1);
        fields.only("best_of", &[json!(choices)])?;
        fields.only("suffix", &[json!("")])?;
        let value = fields.required("prompt")?;
        let (prompt, text) = read_tokens(self, "prompt", value)?;
        let echo = fields.bool("echo")?.unwrap_or(false);
        let top_logprobs = fields
            .integer("logprobs", 0, TOP_LOGPROBS_MAX.1)?
            .map(|count| count as usize);
        let limits = Limits {
            context_length: self.context_length,
            prompt_len: prompt.len(),
        };
        let min = i64::from(!echo); // with echo, the prompt's own log-probabilities may be all that is wanted
        let asked = fields.integer("max_tokens", min, i64::MAX)?;
        let tokens_max = limits.answer("max_tokens", asked, COMPLETION_TOKENS)?;
        let echo = match (echo, text) {
            (false, _) => None,
            (true, Some(text)) => Some(text),
            (true, None) => Some(self.text_of(&prompt)?),
        };
        let work = Generate {
            chat: false,
            choices: choices as usize,
            tokens_max,
            stop: text::stop_strings(fields)?,
            top_logprobs,
            echo,
            constraint: output::read(self, fields)?,
            sampling: sampling::read(fields, self.tokens.vocabulary, request_key)?,
        };
        Ok(Job::new(prompt, Work::Generate(Box::new(work))))
    }

    fn chat(&self, fields: &mut Fields<'_>, request_key: &str) -> Result<Job, RequestError> {
        refuse_unsupported(fields)?;
        let choices = fields.integer("n", 1, N_MAX)?.unwrap_or(1);
        fields.only("tools", &[json!([])])?;
        fields.only("tool_choice", &[json!("none")])?;
        let rendered = render_chat(self.template, fields.required("messages")?)?;
        let prompt = text::encode(self, "messages", &rendered, false)?;

        let wanted = fields.bool("logprobs")?.unwrap_or(false);
        let top = fields
            .integer("top_logprobs", 0, TOP_LOGPROBS_MAX.0)?
            .map(|count| count as usize);
        if top.is_some() && !wanted {
            return Err(RequestError::invalid(
                "top_logprobs",
                "top_logprobs needs logprobs to be true",
            ));
        }
        let asked = match (
            fields.integer("max_completion_tokens", 1, i64::MAX)?,
            fields.integer("max_tokens", 1, i64::MAX)?,
        ) {
            (Some(_), Some(_)) => {
                let message = "max_tokens and max_completion_tokens are both given; leave max_tokens out";
                return Err(RequestError::invalid("max_tokens", message));
            }
            (new, old) => new.or(old),
        };
        let limits = Limits {
            context_length: self.context_length,
            prompt_len: prompt.len(),
        };
        let tokens_max = limits.answer("max_completion_tokens", asked, usize::MAX)?;
        let work = Generate {
            chat: true,
            choices: choices as usize,
            tokens_max,
            stop: text::stop_strings(fields)?,
            top_logprobs: wanted.then_some(top.unwrap_or(0)),
            echo: None,
            constraint: output::read(self, fields)?,
            sampling: sampling::read(fields, self.tokens.vocabulary, request_key)?,
        };
        Ok(Job::new(prompt, Work::Generate(Box::new(work))))
    }

    fn embedding(&self, fields: &mut Fields<'_>) -> Result<Job, RequestError> {
        fields.only("encoding_format", &[json!("float")])?;
        fields.only("dimensions", &[])?;
        let (prompt, _) = read_tokens(self, "input", fields.required("input")?)?;
        let pooling = match fields.str("pooling")? {
            None | Some("mean") => Pooling::Mean,
            Some("last") => Pooling::Last,
            Some(other) => {
                let other = brief(&json!(other));
                let message = format!("pooling is {other}, but must be \"mean\" or \"last\"");
                return Err(RequestError::invalid("pooling", message));
            }
        };
        Ok(Job::new(prompt, Work::Embed(pooling)))
    }

    fn score(&self, fields: &mut Fields<'_>) -> Result<Job, RequestError> {
        let (prompt, text) = read_tokens(self, "prompt", fields.required("prompt")?)?;
        let value = fields.required("choices")?;
        let texts = match value.as_array() {
            Some(texts) if (1..=CHOICES_MAX).contains(&texts.len()) => texts,
            _ => {
                let message = format!(
                    "choices is {}, but must be a list of 1 to {CHOICES_MAX} strings",
                    brief(value)
                );
                return Err(RequestError::invalid("choices", message));
            }
        };
        let limits = Limits {
            context_length: self.context_length,
            prompt_len: prompt.len(),
        };
        let mut choices = Vec::with_capacity(texts.len());
        for (index, value) in texts.iter().enumerate() {
            let param = format!("choices[{index}]");
            let Some(choice) = value.as_str().filter(|choice| !choice.is_empty()) else {
                let message = format!("{param} is {}, but must be a string that is not empty", brief(value));
                return Err(RequestError::invalid(param, message));
            };
            let tokens = self.continuation(&prompt, text.as_deref(), choice, &param)?;
            limits.continuation(&param, tokens.len())?;
            choices.push(Choice {
                text: choice.to_owned(),
                tokens,
            });
        }
        Ok(Job::new(prompt, Work::Score(Score { choices })))
    }

    /// The text of a prompt that was given as tokens.
    fn text_of(&self, prompt: &[u32]) -> Result<String, RequestError> {
        let text = self.tokens.tokenizer.decode(prompt);
        text.map_err(|error| RequestError::invalid("prompt", format!("prompt cannot be echoed: {error}")))
    }

    /// The tokens of `choice` behind the prompt: those of both together less the prompt's, where the prompt's are their
    /// beginning (as lm-evaluation-harness splits them), else those of the choice alone.
    fn continuation(
        &self,
        prompt: &[u32],
        text: Option<&str>,
        choice: &str,
        param: &str,
    ) -> Result<Vec<u32>, RequestError> {
        if let Some(text) = text {
            let whole = text::encode(self, param, &format!("{text}{choice}"), true)?;
            if let Some(tokens) = whole.strip_prefix(prompt).filter(|tokens| !tokens.is_empty()) {
                return Ok(tokens.to_vec());
            }
        }
        text::encode(self, param, choice, false)
    }
}

/// The prompt of OpenAI's `messages`.
pub(crate) fn render_chat(template: Option<&ChatTemplate>, messages: &Value) -> Result<String, RequestError> {
    let messages = text::messages(messages)?;
    let Some(template) = template else {
        let message = "the model has no chat template; use /v1/completions";
        return Err(RequestError::new("unsupported_endpoint", "messages", message));
    };
    let invalid = |error| RequestError::invalid("messages", format!("the chat template refuses them: {error}"));
    template.render(&messages).map_err(invalid)
}

/// Fields of OpenAI's completions that may only have their default.
fn refuse_unsupported(fields: &mut Fields<'_>) -> Result<(), RequestError> {
    fields.only("stream", &[json!(false)])?;
    fields.only("stream_options", &[])
}

#[cfg(test)]
mod tests;
