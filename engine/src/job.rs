//! What travels through the engine: an endpoint and a body become a [`Job`], and a job becomes a
//! [`Completion`](crate::Completion).

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::grammar::Constraint;
use crate::sampler::Sampling;

/// Names one submitted job; the caller chooses it and gets it back with every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Who goes first. Within one priority the job that has waited longest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Someone waits for the answer. May push running work of the other two back into the queue.
    Interactive,
    /// Between the other two.
    Standard,
    /// Nightly work.
    Bulk,
}

/// The kinds of request that a model answers, by OpenAI's paths (`/v1/score` is ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Messages through the model's chat template. Fields: `messages`, `max_completion_tokens` (or `max_tokens`), `n`,
    /// `stop`, `logprobs`, `top_logprobs`, and those of sampling and of structured output.
    ChatCompletions,
    /// A plain prompt. Fields: `prompt` (text, token ids, or a list of one of them), `max_tokens`, `n`, `echo`,
    /// `logprobs`, `stop`; those of sampling: `temperature`, `top_p`, `top_k`, `min_p`, `seed`, `presence_penalty`,
    /// `frequency_penalty`, `repetition_penalty`, `logit_bias`; and one of structured output: `response_format`, or
    /// vLLM's `structured_outputs`, `guided_json`, `guided_regex`, `guided_choice`.
    Completions,
    /// One vector for a text, from the hidden states after the last norm. Fields: `input`, and `pooling`, `"mean"`
    /// (as without it) or `"last"`.
    Embeddings,
    /// The log-likelihood of given continuations of one prompt, which is computed once for all. Fields: `prompt`,
    /// `choices` (a list of texts).
    Score,
}

impl Endpoint {
    /// All endpoints, in the order of the documentation.
    pub const ALL: [Endpoint; 4] = [
        Endpoint::ChatCompletions,
        Endpoint::Completions,
        Endpoint::Embeddings,
        Endpoint::Score,
    ];

    /// The path that names it in OpenAI's Batch format, e.g. `/v1/completions`.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "/v1/chat/completions",
            Endpoint::Completions => "/v1/completions",
            Endpoint::Embeddings => "/v1/embeddings",
            Endpoint::Score => "/v1/score",
        }
    }

    /// The endpoint of a path, if there is one.
    pub fn from_path(path: &str) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// A checked request: tokens, limits and sampling are settled, so it can no longer fail for its content.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) prompt: Vec<u32>,
    pub(crate) work: Work,
    /// Those of the prompt that are billed as cached.
    pub(crate) cached_tokens: usize,
}

impl Job {
    pub(crate) fn new(prompt: Vec<u32>, work: Work) -> Job {
        Job {
            prompt,
            work,
            cached_tokens: 0,
        }
    }

    /// The first position whose result is wanted: those before it need no computing if their keys and values are known.
    pub(crate) fn wanted_from(&self) -> usize {
        match &self.work {
            Work::Generate(task) if task.echo.is_some() && task.top_logprobs.is_some() => 0,
            Work::Embed(Pooling::Mean) => 0,
            _ => self.prompt.len() - 1,
        }
    }

    /// Tokens that the request brings along: the prompt, and for a score every continuation.
    pub fn input_tokens(&self) -> usize {
        let continuations = match &self.work {
            Work::Score(score) => score.choices.iter().map(|choice| choice.tokens.len()).sum(),
            Work::Generate(_) | Work::Embed(_) => 0,
        };
        self.prompt.len() + continuations
    }

    /// The most tokens that it may write.
    pub fn output_tokens_max(&self) -> usize {
        match &self.work {
            Work::Generate(generate) => generate.choices * generate.tokens_max,
            Work::Embed(_) | Work::Score(_) => 0,
        }
    }

    /// The most positions that it ever holds in the KV cache at once.
    pub fn cache_tokens_max(&self) -> usize {
        let further = match &self.work {
            Work::Generate(generate) => generate.tokens_max.saturating_sub(1), // the last token is written, not read
            Work::Embed(_) => 0,
            Work::Score(score) => score
                .choices
                .iter()
                .map(|choice| choice.tokens.len() - 1)
                .max()
                .unwrap_or(0),
        };
        self.prompt.len() + further
    }
}

/// What is asked of the prompt.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Generate(Box<Generate>),
    Embed(Pooling),
    Score(Score),
}

/// Write tokens after the prompt.
#[derive(Clone, Debug)]
pub(crate) struct Generate {
    /// The response body is a chat completion rather than a text completion.
    pub(crate) chat: bool,
    /// Texts to write, one after another; the seed of each is one more than that of the one before, as in vLLM.
    pub(crate) choices: usize,
    /// Of each text.
    pub(crate) tokens_max: usize,
    /// None of them empty.
    pub(crate) stop: Vec<String>,
    /// Report the log-probability of each token and of this many best ones beside it.
    pub(crate) top_logprobs: Option<usize>,
    /// The prompt's text, to stand before the answer.
    pub(crate) echo: Option<String>,
    pub(crate) constraint: Option<Arc<Constraint>>,
    pub(crate) sampling: Sampling,
}

/// Which hidden states make the vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    Mean,
    Last,
}

/// Rate continuations of the prompt, each on its own.
#[derive(Clone, Debug)]
pub(crate) struct Score {
    pub(crate) choices: Vec<Choice>,
}

/// One continuation; `tokens` is never empty.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
}

/// Why a request is refused. Its JSON form is OpenAI's error object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// OpenAI's `code`, e.g. `context_length_exceeded`, `unknown_parameter`, `unsupported_parameter`.
    pub code: &'static str,
    /// What is wrong, with the value and the remedy.
    pub message: String,
    /// The body field at fault, e.g. `messages[2].role`.
    pub param: Option<String>,
}

impl RequestError {
    pub(crate) fn new(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> RequestError {
        RequestError {
            code,
            message: message.into(),
            param: Some(param.into()),
        }
    }

    /// A field that is present and wrong.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> RequestError {
        RequestError::new("invalid_value", param, message)
    }

    /// OpenAI's `type`: every refusal here is the request's own doing.
    pub fn kind(&self) -> &'static str {
        "invalid_request_error"
    }

    /// OpenAI's error body: `{"error": {"message", "type", "param", "code"}}`.
    pub fn body(&self) -> Value {
        json!({ "error": { "message": self.message, "type": self.kind(), "param": self.param, "code": self.code } })
    }
}
