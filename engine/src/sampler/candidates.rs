//! The tokens that `min_p`, `top_k` and `top_p` leave, likeliest first, without sorting the vocabulary.
//!
//! Before anything is sorted, a floor is found below which no token can be left; a real model puts all but some hundreds
//! of tokens below it. What is left is what sorting everything would leave, equals by token.

use super::{Sampling, sum};

/// Of so many probabilities the largest stands for all, where a floor for `top_k` is looked for.
const GROUP: usize = 64;
/// Groups that there must be for each token of `top_k`; with fewer the floor is low, and selecting is faster.
const GROUPS_PER_TOKEN: usize = 4;
/// Less than what rounding can do to a sum of probabilities, of the part that `top_p` leaves out.
const SAFE: f64 = 0.999;

/// A token and its probability as one number. Probabilities are not negative, so their bits sort as they do; behind them
/// stands the token, complemented: the larger number is the likelier token, and of equals the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate(u64);

impl Candidate {
    fn new(token: usize, probability: f32) -> Candidate {
        Candidate(u64::from(probability.to_bits()) << 32 | u64::from(!(token as u32)))
    }

    pub(super) fn token(self) -> u32 {
        !(self.0 as u32)
    }

    pub(super) fn probability(self) -> f32 {
        f32::from_bits((self.0 >> 32) as u32)
    }
}

/// Fills `kept` with what `min_p`, `top_k` and `top_p` leave, in this order, of `probabilities`, of which `largest` is the
/// largest.
pub(super) fn keep(sampling: &Sampling, largest: f32, probabilities: &[f32], kept: &mut Vec<Candidate>) {
    let Sampling {
        top_k, top_p, min_p, ..
    } = *sampling;
    let floor = min_p * largest;
    let left_out = 1.0 - f64::from(top_p);
    let total = if (1..probabilities.len()).contains(&top_k) {
        gather(probabilities, floor.max(floor_of(top_k, probabilities)), kept);
        if top_k < kept.len() {
            kept.select_nth_unstable_by(top_k, |a, b| b.cmp(a));
            kept.truncate(top_k);
        }
        kept.sort_unstable_by(|a, b| b.cmp(a));
        mass(kept)
    } else {
        let total = sum(probabilities, floor);
        let spare = (SAFE * left_out * total).max(0.0);
        gather(
            probabilities,
            floor.max((spare / probabilities.len() as f64) as f32),
            kept,
        );
        drop_unlikely(spare - (total - mass(kept)), kept);
        kept.sort_unstable_by(|a, b| b.cmp(a));
        total
    };
    if left_out > 0.0 {
        let mut sum = 0.0;
        let reaches = |candidate: &Candidate| {
            sum += f64::from(candidate.probability());
            sum >= total * f64::from(top_p)
        };
        let last = kept.iter().position(reaches);
        kept.truncate(last.map_or(kept.len(), |last| last + 1));
    }
}

/// The first candidate at which the running sum of probabilities passes `uniform` of the whole.
pub(super) fn pick(kept: &[Candidate], uniform: f64) -> Option<u32> {
    let target = uniform * mass(kept);
    let mut sum = 0.0;
    let passes = |candidate: &&Candidate| {
        sum += f64::from(candidate.probability());
        sum > target
    };
    let picked = kept.iter().find(passes).or(kept.last());
    picked.map(|candidate| candidate.token())
}

/// Fills `kept` with the tokens that have some probability, at least `floor`, in their order.
fn gather(probabilities: &[f32], floor: f32, kept: &mut Vec<Candidate>) {
    let floor = floor.max(f32::from_bits(1));
    kept.clear();
    for (group, probabilities) in probabilities.chunks(GROUP).enumerate() {
        if !probabilities.iter().fold(false, |any, p| any | (*p >= floor)) {
            continue; // most groups of a real model's end here
        }
        let tokens = (group * GROUP..).zip(probabilities);
        kept.extend(
            tokens
                .filter(|(_, p)| **p >= floor)
                .map(|(token, p)| Candidate::new(token, *p)),
        );
    }
}

/// A value that `count` probabilities reach: so many groups have a largest one that does.
fn floor_of(count: usize, probabilities: &[f32]) -> f32 {
    if probabilities.len() / GROUP < count * GROUPS_PER_TOKEN {
        return 0.0;
    }
    let largest = |group: &[f32]| group.iter().fold(0.0, |a: f32, b| if *b > a { *b } else { a });
    let mut largest: Vec<f32> = probabilities.chunks(GROUP).map(largest).collect();
    *largest.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1
}

/// Drops candidates that together have at most the probability `spare`: what is below an equal share of it.
fn drop_unlikely(mut spare: f64, kept: &mut Vec<Candidate>) {
    let mut before = usize::MAX;
    while spare > 0.0 && kept.len() < before / 2 {
        before = kept.len();
        let share = spare / before as f64;
        kept.retain(|candidate| {
            let p = f64::from(candidate.probability());
            spare -= if p < share { p } else { 0.0 };
            p >= share
        });
    }
}

fn mass(kept: &[Candidate]) -> f64 {
    kept.iter().map(|candidate| f64::from(candidate.probability())).sum()
}
