//! From logits to a token, and to log-probabilities.
//!
//! A draw depends on the request's seed and on the number of the token in its answer, on nothing that was drawn before:
//! a sequence that is computed again after preemption draws the same.

use kernels::Kernel;
use kernels::float::{argmax, log_softmax, softmax};
use llguidance::toktrie::SimpleVob;

mod candidates;

use self::candidates::Candidate;

/// Tokens that are summed at once.
const PIECE: usize = 256;
/// Sums that run beside each other.
const LANES: usize = 8;

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

impl Sampling {
    /// The token with the model's own largest logit is taken.
    pub(crate) fn takes_largest(&self) -> bool {
        self.temperature == 0.0
            && self.logit_bias.is_empty()
            && (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) == (1.0, 0.0, 0.0)
    }
}

/// Draws tokens; holds memory that is used again from token to token.
pub(crate) struct Sampler {
    kernel: Kernel,
    logprobs: Vec<f32>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    pub(crate) fn new(kernel: Kernel) -> Sampler {
        Sampler {
            kernel,
            logprobs: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// Computes the model's own log-probabilities, before penalties and temperature: `[vocabulary]`.
    pub(crate) fn note(&mut self, logits: &[f32]) {
        self.logprobs.clear();
        self.logprobs.extend_from_slice(logits);
        log_softmax(self.kernel, &mut self.logprobs);
    }

    /// Those noted last.
    pub(crate) fn logprobs(&self) -> &[f32] {
        &self.logprobs
    }

    /// The likeliest token; 0 if the model gives none a finite logit.
    pub(crate) fn likeliest(&self, logits: &[f32]) -> u32 {
        argmax(self.kernel, logits).unwrap_or(0) as u32
    }

    /// Draws the token that follows `answer` from those `allowed` (all, where that is none), and leaves `logits` changed.
    pub(crate) fn draw(
        &mut self,
        sampling: &Sampling,
        prompt: &[u32],
        answer: &[u32],
        allowed: Option<&SimpleVob>,
        logits: &mut [f32],
    ) -> u32 {
        penalize(sampling, prompt, answer, logits);
        if let Some(allowed) = allowed {
            forbid_others(allowed, logits);
        }
        let likeliest = self.likeliest(logits);
        let max = logits[likeliest as usize];
        if sampling.temperature == 0.0 || !max.is_finite() {
            return likeliest;
        }
        if sampling.temperature != 1.0 {
            for logit in logits.iter_mut() {
                *logit = (*logit - max) / sampling.temperature;
            }
        }
        softmax(self.kernel, logits);
        let uniform = uniform(sampling.seed, answer.len() as u64);
        let Sampling {
            top_k, top_p, min_p, ..
        } = *sampling;
        let drawn = if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
            pick(logits, uniform)
        } else {
            candidates::keep(sampling, logits[likeliest as usize], logits, &mut self.candidates);
            candidates::pick(&self.candidates, uniform)
        };
        drawn.unwrap_or(likeliest)
    }
}

/// The `count` likeliest tokens with their log-probabilities, likeliest first, equals by token.
pub(crate) fn top(logprobs: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logprob) in logprobs.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|last| last.1 >= logprob) {
            continue;
        }
        let at = best.partition_point(|other| other.1 >= logprob);
        best.insert(at, (token as u32, logprob));
        best.truncate(count);
    }
    best
}

fn penalize(sampling: &Sampling, prompt: &[u32], answer: &[u32], logits: &mut [f32]) {
    for &(token, bias) in &sampling.logit_bias {
        logits[token as usize] += bias;
    }
    if sampling.repetition_penalty != 1.0 {
        let mut seen: Vec<u32> = prompt.iter().chain(answer).copied().collect();
        seen.sort_unstable();
        seen.dedup();
        for token in seen {
            let logit = &mut logits[token as usize];
            *logit = if *logit > 0.0 {
                *logit / sampling.repetition_penalty
            } else {
                *logit * sampling.repetition_penalty
            };
        }
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        let mut answer = answer.to_vec();
        answer.sort_unstable();
        for occurrences in answer.chunk_by(|a, b| a == b) {
            let penalty = sampling.presence_penalty + sampling.frequency_penalty * occurrences.len() as f32;
            logits[occurrences[0] as usize] -= penalty;
        }
    }
}

/// Takes every chance from the tokens outside `allowed`; if it holds no finite logit, its first token gets one.
fn forbid_others(allowed: &SimpleVob, logits: &mut [f32]) {
    let mut hope = false;
    for (word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(u32::BITS as usize)) {
        if *word == 0 {
            logits.fill(f32::NEG_INFINITY);
            continue;
        }
        for (bit, logit) in logits.iter_mut().enumerate() {
            match word >> bit & 1 {
                1 => hope |= logit.is_finite(),
                _ => *logit = f32::NEG_INFINITY,
            }
        }
    }
    if let (false, Some(token)) = (hope, allowed.first_bit_set()) {
        logits.fill(f32::NEG_INFINITY);
        logits[token] = 0.0;
    }
}

/// The first token at which the running sum of probabilities passes `uniform` of the whole. The sum runs over pieces
/// first, and within the one where it passes over tokens.
fn pick(probabilities: &[f32], uniform: f64) -> Option<u32> {
    let sums: Vec<f64> = probabilities.chunks(PIECE).map(|piece| sum(piece, 0.0)).collect();
    let target = uniform * sums.iter().sum::<f64>();
    let mut before = 0.0;
    let mut piece = None;
    for (index, sum) in sums.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0) {
        piece = Some((index, before));
        before += sum;
        if before > target {
            break;
        }
    }
    let (index, mut sum) = piece?;
    let mut last = None;
    for (token, p) in (index * PIECE..).zip(probabilities[index * PIECE..].iter().take(PIECE)) {
        if *p > 0.0 {
            sum += f64::from(*p);
            last = Some(token as u32);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// The sum of the probabilities that reach `floor`, in lanes.
fn sum(probabilities: &[f32], floor: f32) -> f64 {
    let part = |p: f32| f64::from(if p >= floor { p } else { 0.0 });
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = probabilities.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, p) in lanes.iter_mut().zip(chunk) {
            *lane += part(*p);
        }
    }
    lanes.into_iter().chain(rest.iter().copied().map(part)).sum()
}

/// A number in [0, 1) for the `index`th draw of a seed: two rounds of SplitMix64's mixing (Steele et al. 2014).
fn uniform(seed: u64, index: u64) -> f64 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let golden = 0x9e37_79b9_7f4a_7c15;
    let bits = mix(mix(seed.wrapping_add(golden)) ^ index.wrapping_add(1).wrapping_mul(golden));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
