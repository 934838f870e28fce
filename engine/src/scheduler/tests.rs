use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BLOCK_LEN: usize = 16;

fn scheduler(tokens_per_step_max: usize, sequences_max: usize, blocks: usize) -> Scheduler {
    let limits = Limits {
        tokens_per_step_max,
        sequences_max,
    };
    Scheduler::new(limits, BlockPool::new(blocks, BLOCK_LEN))
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
    scheduler.submit(JobId(1), Priority::Bulk, 3);
    assert_eq!(step(&mut scheduler), [(1, 0, 3)]);
    scheduler.submit(JobId(2), Priority::Bulk, 20);
    assert_eq!(step(&mut scheduler), [(1, 3, 1), (2, 0, 7)]);
    assert_eq!(step(&mut scheduler), [(1, 4, 1), (2, 7, 7)]);
    assert_eq!(step(&mut scheduler), [(1, 5, 1), (2, 14, 6)]);
    assert_eq!(step(&mut scheduler), [(1, 6, 1), (2, 20, 1)]);
}

#[test]
fn priority_goes_first_and_then_the_longest_wait() {
    let mut scheduler = scheduler(100, 1, 100);
    scheduler.submit(JobId(1), Priority::Bulk, 5);
    scheduler.submit(JobId(2), Priority::Bulk, 5);
    scheduler.submit(JobId(3), Priority::Standard, 5);
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
    scheduler.submit(JobId(1), Priority::Bulk, 5);
    assert_eq!(step(&mut scheduler), [(1, 0, 5)]);
    scheduler.submit(JobId(2), Priority::Interactive, 4);
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
    scheduler.submit(JobId(1), Priority::Bulk, 16);
    scheduler.submit(JobId(2), Priority::Bulk, 16);
    assert_eq!(step(&mut scheduler), [(1, 0, 16), (2, 0, 16)]);
    for _ in 0..16 {
        step(&mut scheduler);
    }
    let plan = scheduler.plan();
    assert_eq!((plan.preempted, plan.grants.len()), (1, 1));
    assert_eq!(plan.grants[0].id, JobId(1));
    assert_eq!(scheduler.waiting(), 1);
}

/// One thing that happens to a scheduler between steps.
#[derive(Clone, Debug)]
enum Happening {
    Submit {
        priority: Priority,
        prompt: usize,
        answer: usize,
    },
    Cancel {
        nth: usize,
    },
    Steps {
        count: usize,
    },
}

fn happening() -> impl Strategy<Value = Happening> {
    let priority = prop_oneof![
        Just(Priority::Interactive),
        Just(Priority::Standard),
        Just(Priority::Bulk)
    ];
    prop_oneof![
        (priority, 1usize..80, 0usize..60).prop_map(|(priority, prompt, answer)| {
            Happening::Submit {
                priority,
                prompt,
                answer,
            }
        }),
        (0usize..20).prop_map(|nth| Happening::Cancel { nth }),
        (1usize..20).prop_map(|count| Happening::Steps { count }),
    ]
}

/// What the scheduler is told about a job, and what it must have done in the end.
struct Simulated {
    total: usize,
    known: usize,
}

fn simulate_step(scheduler: &mut Scheduler, jobs: &mut BTreeMap<JobId, Simulated>, limits: Limits) {
    let plan = scheduler.plan();
    let tokens: usize = plan.grants.iter().map(|grant| grant.len).sum();
    assert!(tokens <= limits.tokens_per_step_max && scheduler.running() <= limits.sequences_max);
    assert!(jobs.is_empty() || tokens > 0, "nothing moves");
    let first = scheduler.running.first_key_value().map(|(_, entry)| entry.id);
    assert!(
        plan.grants.iter().any(|grant| Some(grant.id) == first) || jobs.is_empty(),
        "the first stands still"
    );
    let mut held: Vec<u32> = scheduler
        .running
        .values()
        .flat_map(|entry| entry.blocks.clone())
        .collect();
    assert_eq!(
        held.len() + scheduler.pool.free(),
        scheduler.pool.total(),
        "a block is lost"
    );
    held.sort_unstable();
    assert!(held.windows(2).all(|pair| pair[0] != pair[1]), "two hold one block");
    for Grant { id, start, len } in plan.grants {
        let job = jobs.get_mut(&id).expect("a forgotten job is granted tokens");
        assert!(start + len <= job.known && scheduler.blocks(id).len() * BLOCK_LEN >= start + len);
        let computed = start + len;
        if computed == job.total {
            jobs.remove(&id);
            scheduler.remove(id);
        } else {
            job.known += usize::from(computed == job.known);
            scheduler.advance(id, computed, job.known);
        }
    }
}

proptest! {
    #[test]
    fn nothing_starves_leaks_or_gets_lost(
        happenings in prop::collection::vec(happening(), 1..80),
        tokens in 4usize..40, sequences in 1usize..5, blocks in 9usize..30,
    ) {
        let limits = Limits { tokens_per_step_max: tokens, sequences_max: sequences };
        let mut scheduler = Scheduler::new(limits, BlockPool::new(blocks, BLOCK_LEN));
        let mut jobs = BTreeMap::new();
        for (index, happening) in happenings.into_iter().enumerate() {
            match happening {
                Happening::Submit { priority, prompt, answer } => {
                    let id = JobId(index as u64);
                    jobs.insert(id, Simulated { total: prompt + answer, known: prompt });
                    scheduler.submit(id, priority, prompt);
                }
                Happening::Cancel { nth } => {
                    if let Some(id) = jobs.keys().nth(nth).copied() {
                        jobs.remove(&id);
                        scheduler.remove(id);
                    }
                }
                Happening::Steps { count } => (0..count).for_each(|_| simulate_step(&mut scheduler, &mut jobs, limits)),
            }
        }
        let mut steps = 0;
        while !jobs.is_empty() {
            simulate_step(&mut scheduler, &mut jobs, limits);
            steps += 1;
            prop_assert!(steps < 100_000, "{} jobs never end", jobs.len());
        }
        prop_assert_eq!(scheduler.pool.free(), blocks);
        prop_assert_eq!((scheduler.waiting(), scheduler.running()), (0, 0));
    }
}
