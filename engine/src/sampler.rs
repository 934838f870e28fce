//! From logits to a token, and to log-probabilities.
//!
//! A draw depends on the request's seed and on the number of the token in its answer, on nothing that was drawn before:
//! a sequence that is computed again after preemption draws the same.

use kernels::Kernel;
use kernels::float::{argmax, log_softmax, softmax};
use llguidance::toktrie::SimpleVob;

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
    candidates: Vec<(u32, f32)>,
}

impl Sampler {
    pub(crate) fn new(kernel: Kernel) -> Sampler {
        Sampler {
            kernel,
            logprobs: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// The model's own log-probabilities, before penalties and temperature: `[vocabulary]`.
    pub(crate) fn logprobs(&mut self, logits: &[f32]) -> &[f32] {
        self.logprobs.clear();
        self.logprobs.extend_from_slice(logits);
        log_softmax(self.kernel, &mut self.logprobs);
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
        for logit in logits.iter_mut() {
            *logit = (*logit - max) / sampling.temperature;
        }
        softmax(self.kernel, logits);
        let uniform = uniform(sampling.seed, answer.len() as u64);
        let Sampling {
            top_k, top_p, min_p, ..
        } = *sampling;
        if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
            let all = logits.iter().enumerate().map(|(token, p)| (token as u32, *p));
            return pick(all, uniform).unwrap_or(likeliest);
        }
        self.keep_likeliest(sampling, logits);
        pick(self.candidates.iter().copied(), uniform).unwrap_or(likeliest)
    }

    /// The candidates left by `min_p`, `top_k` and `top_p`, in this order, likeliest first, equals by token.
    fn keep_likeliest(&mut self, sampling: &Sampling, probabilities: &[f32]) {
        let Sampling {
            top_k, top_p, min_p, ..
        } = *sampling;
        let floor = min_p * probabilities.iter().copied().fold(0.0, f32::max);
        let all = probabilities.iter().enumerate().map(|(token, p)| (token as u32, *p));
        self.candidates.clear();
        self.candidates.extend(all.filter(|(_, p)| *p > 0.0 && *p >= floor));
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(top_k, order);
            self.candidates.truncate(top_k);
        }
        self.candidates.sort_unstable_by(order);
        if top_p < 1.0 {
            let total: f64 = self.candidates.iter().map(|(_, p)| f64::from(*p)).sum();
            let mut sum = 0.0;
            let reaches = |(_, p): &(u32, f32)| {
                sum += f64::from(*p);
                sum >= total * f64::from(top_p)
            };
            let kept = self
                .candidates
                .iter()
                .position(reaches)
                .map_or(self.candidates.len(), |last| last + 1);
            self.candidates.truncate(kept);
        }
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
    for (token, logit) in logits.iter_mut().enumerate() {
        match allowed.get(token) {
            true => hope |= logit.is_finite(),
            false => *logit = f32::NEG_INFINITY,
        }
    }
    if let (false, Some(token)) = (hope, allowed.first_bit_set()) {
        logits.fill(f32::NEG_INFINITY);
        logits[token] = 0.0;
    }
}

/// The first candidate at which the running sum of probabilities passes `uniform` of the whole.
fn pick(candidates: impl Iterator<Item = (u32, f32)> + Clone, uniform: f64) -> Option<u32> {
    let total: f64 = candidates.clone().map(|(_, p)| f64::from(p)).sum();
    let mut sum = 0.0;
    let mut last = None;
    for (token, p) in candidates.filter(|(_, p)| *p > 0.0) {
        sum += f64::from(p);
        last = Some(token);
        if sum > uniform * total {
            break;
        }
    }
    last
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
mod tests {
    use super::*;

    fn plain() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 7,
        }
    }

    /// How often each of four tokens is drawn in 4,000 draws.
    fn counts(sampling: &Sampling) -> [usize; 4] {
        let mut sampler = Sampler::new(Kernel::best());
        let mut counts = [0; 4];
        for seed in 0..4000 {
            let mut logits = [8.0f32, 4.0, 2.0, 2.0].map(f32::ln);
            let sampling = Sampling {
                seed,
                ..sampling.clone()
            };
            counts[sampler.draw(&sampling, &[], &[], None, &mut logits) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let counts = counts(&plain());
        for (count, expected) in counts.into_iter().zip([2000, 1000, 500, 500]) {
            assert!(count.abs_diff(expected) < 120, "{counts:?}");
        }
    }

    #[test]
    fn filters_keep_the_likeliest() {
        let kept = |sampling: Sampling| counts(&sampling).map(|count| count > 0);
        assert_eq!(kept(Sampling { top_k: 1, ..plain() }), [true, false, false, false]);
        assert_eq!(
            kept(Sampling { top_k: 3, ..plain() }),
            [true, true, true, false],
            "equals by token"
        );
        assert_eq!(kept(Sampling { top_p: 0.5, ..plain() }), [true, false, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.51, ..plain() }), [true, true, false, false]);
        assert_eq!(kept(Sampling { top_p: 0.0, ..plain() }), [true, false, false, false]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..plain() }), [true, true, false, false]);
        assert_eq!(
            kept(Sampling {
                temperature: 0.0,
                ..plain()
            }),
            [true, false, false, false]
        );
        assert_eq!(
            kept(Sampling {
                temperature: 1e-30,
                ..plain()
            }),
            [true, false, false, false]
        );
    }

    #[test]
    fn penalties_and_bias_change_the_choice() {
        let mut sampler = Sampler::new(Kernel::best());
        let mut draw = |sampling: Sampling, prompt: &[u32], answer: &[u32]| {
            let sampling = Sampling {
                temperature: 0.0,
                ..sampling
            };
            sampler.draw(&sampling, prompt, answer, None, &mut [2.0, 1.5, -1.0])
        };
        assert_eq!(draw(plain(), &[0], &[0]), 0);
        assert_eq!(
            draw(
                Sampling {
                    repetition_penalty: 2.0,
                    ..plain()
                },
                &[0],
                &[]
            ),
            1
        );
        assert_eq!(
            draw(
                Sampling {
                    presence_penalty: 1.0,
                    ..plain()
                },
                &[0],
                &[]
            ),
            0,
            "the prompt does not count"
        );
        assert_eq!(
            draw(
                Sampling {
                    presence_penalty: 1.0,
                    ..plain()
                },
                &[],
                &[0]
            ),
            1
        );
        assert_eq!(
            draw(
                Sampling {
                    frequency_penalty: 0.3,
                    ..plain()
                },
                &[],
                &[0, 0]
            ),
            1
        );
        assert_eq!(
            draw(
                Sampling {
                    logit_bias: vec![(2, 10.0)],
                    ..plain()
                },
                &[],
                &[]
            ),
            2
        );
    }

    #[test]
    fn hopeless_logits_still_give_a_token() {
        let mut sampler = Sampler::new(Kernel::best());
        for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            assert_eq!(
                sampler.draw(&Sampling { top_k: 2, ..plain() }, &[], &[], None, &mut [bad; 3]),
                0
            );
        }
    }

    #[test]
    fn top_is_sorted_and_bounded() {
        assert_eq!(top(&[-3.0, -1.0, -2.0, -1.0], 3), [(1, -1.0), (3, -1.0), (2, -2.0)]);
        assert_eq!(top(&[-1.0], 0), []);
        assert_eq!(top(&[-1.0], 5), [(0, -1.0)]);
    }
}
