//! The sampler against a second one that is written from the definitions: f64, every step over all tokens, sorting
//! where it sorts.

use proptest::prelude::*;

use super::*;

/// Two thresholds closer than this may fall to either side in f32.
const MARGIN: f64 = 1e-4;

/// Every token that may be drawn with its probability among them, in the order in which they are drawn, and whether a
/// decision was too close to call.
fn reference(sampling: &Sampling, prompt: &[u32], answer: &[u32], logits: &[f32]) -> (Vec<(u32, f64)>, bool) {
    let count = |tokens: &[u32], token: usize| tokens.iter().filter(|seen| **seen as usize == token).count();
    let adjusted = logits.iter().enumerate().map(|(token, logit)| {
        let bias = sampling
            .logit_bias
            .iter()
            .filter(|(biased, _)| *biased as usize == token);
        let mut logit = f64::from(*logit) + bias.map(|(_, bias)| f64::from(*bias)).sum::<f64>();
        if count(prompt, token) + count(answer, token) > 0 {
            let penalty = f64::from(sampling.repetition_penalty);
            logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
        let written = count(answer, token);
        let once = if written > 0 {
            f64::from(sampling.presence_penalty)
        } else {
            0.0
        };
        logit - once - f64::from(sampling.frequency_penalty) * written as f64
    });
    let weights: Vec<f64> = adjusted
        .map(|logit| (logit / f64::from(sampling.temperature)).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut all: Vec<(u32, f64)> = (0..).zip(weights.iter().map(|weight| weight / total)).collect();
    let Sampling {
        top_k, top_p, min_p, ..
    } = *sampling;
    if top_k == 0 && top_p >= 1.0 && min_p == 0.0 {
        return (all, false);
    }
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let floor = f64::from(min_p) * all[0].1;
    let mut close = all.windows(2).any(|pair| pair[0].1 - pair[1].1 < MARGIN * pair[0].1);
    close |= all.iter().any(|(_, p)| (p - floor).abs() < MARGIN * floor);
    all.retain(|(_, p)| *p >= floor);
    if top_k > 0 {
        all.truncate(top_k);
    }
    let kept: f64 = all.iter().map(|(_, p)| p).sum();
    let mut sum = 0.0;
    let before: Vec<f64> = all.iter().map(|(_, p)| (sum += p / kept, sum - p / kept).1).collect();
    close |= before.iter().any(|before| (before - f64::from(top_p)).abs() < MARGIN);
    let mut before = before.into_iter();
    all.retain(|_| {
        before
            .next()
            .is_some_and(|before| before == 0.0 || before < f64::from(top_p))
    });
    let kept: f64 = all.iter().map(|(_, p)| p).sum();
    (all.into_iter().map(|(token, p)| (token, p / kept)).collect(), close)
}

fn sampling() -> impl Strategy<Value = Sampling> {
    let filters = (
        prop_oneof![Just(0usize), 1usize..12],
        prop_oneof![Just(1.0f32), 0.0f32..1.0],
        prop_oneof![Just(0.0f32), 0.0f32..1.0],
    );
    let bias = prop::collection::btree_map(0u32..12, -5.0f32..5.0, 0..4);
    (
        0.05f32..2.0,
        filters,
        0.5f32..2.0,
        -2.0f32..2.0,
        -2.0f32..2.0,
        bias,
        any::<u64>(),
    )
        .prop_map(
            |(
                temperature,
                (top_k, top_p, min_p),
                repetition_penalty,
                presence_penalty,
                frequency_penalty,
                bias,
                seed,
            )| {
                Sampling {
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                    repetition_penalty,
                    presence_penalty,
                    frequency_penalty,
                    logit_bias: bias.into_iter().collect(),
                    seed,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn draws_are_those_of_the_reference(
        sampling in sampling(), logits in prop::collection::vec(-8.0f32..8.0, 12..40),
        prompt in prop::collection::vec(0u32..12, 0..6), answer in prop::collection::vec(0u32..12, 0..6),
    ) {
        let (candidates, close) = reference(&sampling, &prompt, &answer, &logits);
        prop_assume!(!close);
        let drawn = Sampler::new(Kernel::best()).draw(&sampling, &prompt, &answer, None, &mut logits.clone());
        let uniform = uniform(sampling.seed, answer.len() as u64);
        let mut sum = 0.0;
        let reached = candidates.iter().map(|(token, p)| { sum += p; (*token, sum) });
        let near = reached.filter(|(_, sum)| *sum > uniform - MARGIN).take_while(|(token, sum)| {
            let p = candidates.iter().find(|(other, _)| other == token).map_or(0.0, |(_, p)| *p);
            sum - p < uniform + MARGIN
        });
        let near: Vec<u32> = near.map(|(token, _)| token).collect();
        prop_assert!(near.contains(&drawn), "{drawn} was drawn, {near:?} are right");
    }
}
