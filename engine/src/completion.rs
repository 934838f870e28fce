//! The answer to a job, and its form as OpenAI's response body.

use serde_json::{Map, Value, json};

/// What a finished job gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Why it ended; of several texts, the first.
    pub finish_reason: FinishReason,
    /// The text written, the first of several; for a score, the text of the likeliest choice; nothing for an embedding.
    pub output_text: Option<String>,
    /// The vector of an embeddings request: as long as the hidden size, of Euclidean length 1.
    pub embedding: Option<Vec<f32>>,
    /// Natural log-likelihood of each choice of a score request, in the order asked.
    pub scores: Option<Vec<f64>>,
    /// What it cost.
    pub usage: Usage,
    pub(crate) detail: Detail,
}

/// Tokens, as they are billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, special tokens included; for a score, every choice's tokens too.
    pub input_tokens: usize,
    /// Those of them that are billed as cached, see [`count_cached`](crate::count_cached).
    pub cached_tokens: usize,
    /// Tokens written, the one that ended the text included.
    pub output_tokens: usize,
}

/// Why a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text, a stop string was met, or there was nothing to write.
    Stop,
    /// `max_tokens` were written.
    Length,
}

impl FinishReason {
    /// OpenAI's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// What only the response body shows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Detail {
    Text { choices: Vec<TextChoice> },
    Chat { choices: Vec<TextChoice> },
    Embedding,
    Score { choices: Vec<ScoredChoice> },
}

/// One of the texts written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextChoice {
    pub(crate) text: String,
    pub(crate) finish_reason: FinishReason,
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
}

/// A token with its log-probability, and the likeliest ones at its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenLogprob {
    pub(crate) token: TokenBytes,
    /// None for the first token of an echoed prompt.
    pub(crate) logprob: Option<f32>,
    pub(crate) top: Vec<(TokenBytes, f32)>,
    /// Where its text begins in that of the choice, in bytes; for a token that ends a character, where that begins.
    pub(crate) text_start: usize,
}

/// The bytes that one token stands for; not always whole characters.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenBytes(pub(crate) Vec<u8>);

impl TokenBytes {
    /// The text, or OpenAI's notation `bytes:\xe2\x80` where it is no text of its own.
    fn display(&self) -> String {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text.to_owned(),
            Err(_) => self
                .0
                .iter()
                .fold(String::from("bytes:"), |text, byte| format!("{text}\\x{byte:02x}")),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ScoredChoice {
    pub(crate) text: String,
    pub(crate) tokens: usize,
    /// Every token was the likeliest at its place.
    pub(crate) greedy: bool,
}

impl Completion {
    /// OpenAI's response body. `created_unix` is in seconds; the engine has no clock of its own.
    pub fn response(&self, id: &str, created_unix: i64, model: &str) -> Value {
        let (object, choices): (_, Value) = match &self.detail {
            Detail::Text { choices } => ("text_completion", choices.iter().enumerate().map(text_choice).collect()),
            Detail::Chat { choices } => ("chat.completion", choices.iter().enumerate().map(chat_choice).collect()),
            Detail::Embedding => return self.embedding_response(model),
            Detail::Score { choices } => ("score", self.score_choices(choices)),
        };
        json!({
            "id": id, "object": object, "created": created_unix, "model": model,
            "choices": choices, "usage": self.usage_body(),
        })
    }

    fn embedding_response(&self, model: &str) -> Value {
        let tokens = self.usage.input_tokens;
        json!({
            "object": "list", "model": model,
            "data": [{ "object": "embedding", "index": 0, "embedding": self.embedding }],
            "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
        })
    }

    fn score_choices(&self, choices: &[ScoredChoice]) -> Value {
        let scores = self.scores.iter().flatten();
        let rows = choices.iter().zip(scores).enumerate().map(|(index, (choice, score))| {
            json!({
                "index": index, "text": choice.text, "logprob": score,
                "tokens": choice.tokens, "is_greedy": choice.greedy,
            })
        });
        rows.collect()
    }

    fn usage_body(&self) -> Value {
        let Usage {
            input_tokens,
            cached_tokens,
            output_tokens,
        } = self.usage;
        json!({
            "prompt_tokens": input_tokens, "completion_tokens": output_tokens,
            "total_tokens": input_tokens + output_tokens,
            "prompt_tokens_details": { "cached_tokens": cached_tokens },
        })
    }
}

/// One choice of a text completion.
fn text_choice((index, choice): (usize, &TextChoice)) -> Value {
    json!({
        "index": index, "text": choice.text, "logprobs": choice.logprobs.as_deref().map(|tokens| text_logprobs(&choice.text, tokens)),
        "finish_reason": choice.finish_reason.as_str(),
    })
}

/// One choice of a chat completion.
fn chat_choice((index, choice): (usize, &TextChoice)) -> Value {
    let content = |tokens: &Vec<TokenLogprob>| tokens.iter().map(chat_logprob).collect::<Vec<_>>();
    let logprobs = choice
        .logprobs
        .as_ref()
        .map(|tokens| json!({ "content": content(tokens), "refusal": null }));
    json!({
        "index": index, "message": { "role": "assistant", "content": choice.text, "refusal": null },
        "logprobs": logprobs, "finish_reason": choice.finish_reason.as_str(),
    })
}

/// The `logprobs` of a text completion: parallel lists. Offsets count characters of `text`, none past its end, for a stop
/// string may have cut it.
fn text_logprobs(text: &str, tokens: &[TokenLogprob]) -> Value {
    let (mut offset, mut counted) = (0, 0);
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        let start = token.text_start.clamp(counted, text.len());
        let more = text.get(counted..start).unwrap_or_default();
        (offset, counted) = (offset + more.chars().count(), counted + more.len());
        offsets.push(offset);
    }
    let top = |token: &TokenLogprob| {
        if token.logprob.is_none() {
            return Value::Null;
        }
        Value::Object(
            token
                .top
                .iter()
                .map(|(token, logprob)| (token.display(), json!(logprob)))
                .collect::<Map<_, _>>(),
        )
    };
    json!({
        "tokens": tokens.iter().map(|token| token.token.display()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

/// One entry of a chat completion's `logprobs.content`.
fn chat_logprob(token: &TokenLogprob) -> Value {
    let entry = |token: &TokenBytes, logprob: Option<f32>| json!({ "token": token.display(), "logprob": logprob, "bytes": token.0 });
    let mut body = entry(&token.token, token.logprob);
    body["top_logprobs"] = token
        .top
        .iter()
        .map(|(token, logprob)| entry(token, Some(*logprob)))
        .collect();
    body
}
