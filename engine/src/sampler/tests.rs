//! Draws, penalties and masks on a few tokens, and the filters against sorting everything.

use proptest::prelude::*;

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

#[test]
fn masks_leave_what_they_allow_and_nothing_else() {
    for vocabulary in [1, 31, 32, 33, 100] {
        let logits: Vec<f32> = (0..vocabulary).map(|token| token as f32).collect();
        for token in 0..vocabulary {
            let mut allowed = SimpleVob::alloc(vocabulary);
            allowed.allow_token(token as u32);
            let mut masked = logits.clone();
            forbid_others(&allowed, &mut masked);
            let expected: Vec<f32> = (0..vocabulary)
                .map(|other| {
                    if other == token {
                        logits[token]
                    } else {
                        f32::NEG_INFINITY
                    }
                })
                .collect();
            assert_eq!(masked, expected);
            masked[token] = f32::NEG_INFINITY;
            forbid_others(&allowed, &mut masked);
            assert_eq!(masked[token], 0.0, "the only token allowed has no logit of its own");
        }
    }
}

/// What `min_p`, `top_k` and `top_p` leave, by sorting everything.
fn sorted(sampling: &Sampling, probabilities: &[f32]) -> Vec<(u32, f32)> {
    let largest = probabilities.iter().copied().fold(0.0, f32::max);
    let mut all: Vec<(u32, f32)> = (0..).zip(probabilities.iter().copied()).collect();
    all.retain(|(_, p)| *p > 0.0 && *p >= sampling.min_p * largest);
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        all.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let total: f64 = all.iter().map(|(_, p)| f64::from(*p)).sum();
        let mut sum = 0.0;
        let last = all.iter().position(|(_, p)| {
            sum += f64::from(*p);
            sum >= total * f64::from(sampling.top_p)
        });
        all.truncate(last.map_or(all.len(), |last| last + 1));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn filters_leave_what_sorting_everything_leaves(
        seed in any::<u64>(), vocabulary in prop_oneof![1usize..600, 5_000usize..9_000], spread in 0.0f32..30.0,
        levels in prop_oneof![Just(0u32), 2u32..50],
        top_k in prop_oneof![Just(0usize), 1usize..40, 1usize..9_000],
        top_p in prop_oneof![Just(1.0f32), 0.0f32..1.0, 0.999f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
    ) {
        // Equals are frequent where logits take few values.
        let logit = |token: u64| {
            let logit = uniform(seed, token) as f32;
            spread * if levels > 0 { (logit * levels as f32).floor() / levels as f32 } else { logit }
        };
        let mut probabilities: Vec<f32> = (0..vocabulary as u64).map(logit).collect();
        softmax(Kernel::best(), &mut probabilities);
        let sampling = Sampling { top_k, top_p, min_p, ..plain() };
        let largest = probabilities.iter().copied().fold(0.0, f32::max);
        let mut kept = Vec::new();
        candidates::keep(&sampling, largest, &probabilities, &mut kept);
        let kept: Vec<(u32, f32)> = kept.iter().map(|kept| (kept.token(), kept.probability())).collect();
        let expected = sorted(&sampling, &probabilities);
        // Where the sum meets `top_p` to the last bit, the order in which the total is added decides.
        prop_assert!(kept.len().abs_diff(expected.len()) <= 1, "{} of {}", kept.len(), expected.len());
        let both = kept.len().min(expected.len());
        prop_assert_eq!(&kept[..both], &expected[..both]);
    }

    #[test]
    fn a_draw_from_all_tokens_is_where_the_running_sum_passes(
        probabilities in prop::collection::vec(prop_oneof![Just(0.0f32), 0.0f32..1.0], 1..2000), at in 0.0f64..1.0,
    ) {
        let total: f64 = probabilities.iter().map(|p| f64::from(*p)).sum();
        let Some(token) = pick(&probabilities, at) else {
            prop_assert_eq!(total, 0.0);
            return Ok(());
        };
        let before: f64 = probabilities[..token as usize].iter().map(|p| f64::from(*p)).sum();
        let p = f64::from(probabilities[token as usize]);
        prop_assert!(p > 0.0 && before <= at * total + 1e-9 && before + p >= at * total - 1e-9);
    }
}
