//! From logits to a token.

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// 0 takes the likeliest token.
    pub(crate) temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub(crate) top_k: usize,
    /// Keep the likeliest tokens that together have this probability.
    pub(crate) top_p: f32,
    /// Keep tokens at least this probable, relative to the likeliest one.
    pub(crate) min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer (CTRL, arXiv 1909.05858).
    pub(crate) repetition_penalty: f32,
    /// Subtracted once from the logit of every token of the answer (OpenAI).
    pub(crate) presence_penalty: f32,
    /// Subtracted from it per occurrence (OpenAI).
    pub(crate) frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: u64,
}
