use super::*;
use crate::prefix::prefix_hashes;

mod simulation;

const BLOCK_LEN: usize = 16;

fn scheduler(tokens_per_step_max: usize, sequences_max: usize, blocks: usize) -> Scheduler {
    let limits = Limits {
        tokens_per_step_max,
        sequences_max,
        ageing_tokens: 100,
    };
    Scheduler::new(limits, BlockPool::new(blocks, BLOCK_LEN))
}

/// A job whose prompt has nothing in common with others.
fn submit(scheduler: &mut Scheduler, id: u64, priority: Priority, known: usize) {
    scheduler.submit(JobId(id), priority, known, Prefix::default());
}

/// A job that starts with the tokens of `prompt` and needs the result of the last one.
fn submit_prompt(scheduler: &mut Scheduler, id: u64, prompt: &[u32]) {
    let names: Vec<_> = prefix_hashes(&prompt[..prompt.len() - 1], BLOCK_LEN).collect();
    let prefix = Prefix {
        reusable: names.len(),
        names,
    };
    scheduler.submit(JobId(id), Priority::Bulk, prompt.len(), prefix);
}

/// Grants of the next step as (id, start, len), taken as computed; a text gets one token longer once its prompt is done.
fn step(scheduler: &mut Scheduler) -> Vec<(u64, usize, usize)> {
    let grants = scheduler.plan().grants;
    for grant in &grants {
        let end = grant.start + grant.len;
        let known = scheduler
            .ranks
            .get(&grant.id)
            .map(|rank| scheduler.running[rank].known)
            .unwrap();
        scheduler.advance(grant.id, end, if end == known { known + 1 } else { known });
    }
    grants
        .iter()
        .map(|grant| (grant.id.0, grant.start, grant.len))
        .collect()
}

#[test]
fn texts_go_before_prompts_and_prompts_come_in_pieces() {
    let mut scheduler = scheduler(8, 4, 100);
    submit(&mut scheduler, 1, Priority::Bulk, 3);
    assert_eq!(step(&mut scheduler), [(1, 0, 3)]);
    submit(&mut scheduler, 2, Priority::Bulk, 20);
    assert_eq!(step(&mut scheduler), [(1, 3, 1), (2, 0, 7)]);
    assert_eq!(step(&mut scheduler), [(1, 4, 1), (2, 7, 7)]);
    assert_eq!(step(&mut scheduler), [(1, 5, 1), (2, 14, 6)]);
    assert_eq!(step(&mut scheduler), [(1, 6, 1), (2, 20, 1)]);
}

#[test]
fn priority_goes_first_and_then_the_longest_wait() {
    let mut scheduler = scheduler(100, 1, 100);
    submit(&mut scheduler, 1, Priority::Bulk, 5);
    submit(&mut scheduler, 2, Priority::Bulk, 5);
    submit(&mut scheduler, 3, Priority::Standard, 5);
    let mut order = Vec::new();
    while scheduler.waiting() + scheduler.running() > 0 {
        let id = scheduler.plan().grants[0].id;
        scheduler.remove(id);
        order.push(id.0);
    }
    assert_eq!(order, [3, 1, 2]);
}

#[test]
fn an_interactive_job_takes_the_place_of_a_bulk_one_which_starts_again_later() {
    let mut scheduler = scheduler(100, 1, 100);
    submit(&mut scheduler, 1, Priority::Bulk, 5);
    assert_eq!(step(&mut scheduler), [(1, 0, 5)]);
    submit(&mut scheduler, 2, Priority::Interactive, 4);
    let plan = scheduler.plan();
    assert_eq!((plan.preempted, plan.grants[0].id), (1, JobId(2)));
    scheduler.remove(JobId(2));
    assert_eq!(
        step(&mut scheduler),
        [(1, 0, 6)],
        "the written token is computed again with the prompt"
    );
}

#[test]
fn the_youngest_gives_its_blocks_to_a_growing_text() {
    let mut scheduler = scheduler(100, 4, 4);
    submit(&mut scheduler, 1, Priority::Bulk, 16);
    submit(&mut scheduler, 2, Priority::Bulk, 16);
    assert_eq!(step(&mut scheduler), [(1, 0, 16), (2, 0, 16)]);
    for _ in 0..16 {
        step(&mut scheduler);
    }
    let plan = scheduler.plan();
    assert_eq!((plan.preempted, plan.grants.len()), (1, 1));
    assert_eq!(plan.grants[0].id, JobId(1));
    assert_eq!(scheduler.waiting(), 1);
}

#[test]
fn a_long_wait_outweighs_a_priority() {
    let mut scheduler = scheduler(10, 1, 100);
    submit(&mut scheduler, 1, Priority::Bulk, 10);
    step(&mut scheduler);
    submit(&mut scheduler, 2, Priority::Bulk, 10);
    let mut order = Vec::new();
    for id in 3..40 {
        submit(&mut scheduler, id, Priority::Interactive, 10);
        let id = scheduler.plan().grants[0].id;
        scheduler.remove(id);
        order.push(id.0);
    }
    // Two priorities are 200 tokens of work: what arrives within them overtakes, and nothing later.
    assert!(order[..19].iter().copied().eq(3..22), "{order:?}");
    assert_eq!(order[19..23], [1, 22, 2, 23], "{order:?}");
}

#[test]
fn a_prefix_is_computed_once_even_in_the_step_that_computes_it() {
    let mut scheduler = scheduler(200, 8, 100);
    let prompt: Vec<u32> = (0..60).collect();
    let other: Vec<u32> = (0..40).chain(90..110).collect();
    submit_prompt(&mut scheduler, 1, &prompt);
    submit_prompt(&mut scheduler, 2, &other);
    submit_prompt(&mut scheduler, 3, &prompt[..48]);
    assert_eq!(
        step(&mut scheduler),
        [(1, 0, 60), (2, 32, 28), (3, 32, 16)],
        "whole blocks before the last token"
    );
    for id in 1..=3 {
        scheduler.remove(JobId(id));
    }
    assert_eq!(scheduler.pool.free(), 100);
    submit_prompt(&mut scheduler, 4, &other);
    let plan = scheduler.plan();
    assert_eq!((plan.cached, plan.grants[0].start, plan.grants[0].len), (48, 48, 12));
}

#[test]
fn a_prefix_that_must_be_computed_for_its_own_sake_still_serves_others() {
    let mut scheduler = scheduler(200, 8, 100);
    let prompt: Vec<u32> = (0..40).collect();
    submit_prompt(&mut scheduler, 1, &prompt);
    let names = prefix_hashes(&prompt[..39], BLOCK_LEN).collect();
    scheduler.submit(JobId(2), Priority::Bulk, 40, Prefix { names, reusable: 0 });
    assert_eq!(step(&mut scheduler), [(1, 0, 40), (2, 0, 40)]);
}
