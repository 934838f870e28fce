//! Random arrivals, cancellations and deadlines over many steps, in a cache that is too small. The simulation keeps
//! what every place of the cache holds, and so sees a block that is shared wrongly or written to while shared.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const STEPS: usize = 10_000;
/// Most jobs at once, and most tokens of one.
const JOBS_MAX: usize = 40;
const TOKENS_MAX: usize = 140;

/// A small generator, seeded by proptest.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// What the scheduler is told about a job, and what it must have done in the end.
struct Job {
    tokens: Vec<u32>,
    prompt_len: usize,
    total: usize,
    /// Texts to write, or continuations to rate, behind the same prompt.
    rounds: usize,
    deadline: Option<usize>,
    work_at_arrival: u64,
}

struct Simulation {
    dice: Dice,
    limits: Limits,
    scheduler: Scheduler,
    jobs: BTreeMap<JobId, Job>,
    /// What each place of the cache holds: the name of all tokens up to there.
    places: Vec<u64>,
    arrived: u64,
    finished: usize,
    cached: usize,
}

impl Simulation {
    fn new(seed: u64, limits: Limits, blocks: usize) -> Simulation {
        Simulation {
            dice: Dice(seed | 1),
            limits,
            scheduler: Scheduler::new(limits, BlockPool::new(blocks, BLOCK_LEN)),
            jobs: BTreeMap::new(),
            places: vec![0; blocks * BLOCK_LEN],
            arrived: 0,
            finished: 0,
            cached: 0,
        }
    }

    /// More arrives than can be done, nine of ten times the most urgent kind.
    fn arrive(&mut self, now: usize) {
        let dice = &mut self.dice;
        let priority = match dice.below(20) {
            0 => Priority::Bulk,
            1 => Priority::Standard,
            _ => Priority::Interactive,
        };
        let shared = dice.below(24) as u32 * 1000;
        let (common, own) = (dice.below(70), 1 + dice.below(20));
        let mut tokens: Vec<u32> = (shared..).take(common).collect();
        tokens.extend((0..own).map(|_| dice.below(1 << 20) as u32));
        let prompt_len = tokens.len();
        let names: Vec<_> = prefix_hashes(&tokens[..prompt_len - 1], BLOCK_LEN).collect();
        let reusable = if dice.one_in(10) { 0 } else { names.len() };
        let id = JobId(self.arrived);
        self.arrived += 1;
        self.scheduler
            .submit(id, priority, prompt_len, Prefix { names, reusable });
        let job = Job {
            total: prompt_len + dice.below(TOKENS_MAX - prompt_len),
            prompt_len,
            tokens,
            rounds: if dice.one_in(8) { 3 } else { 1 },
            deadline: dice.one_in(10).then(|| now + dice.below(300)),
            work_at_arrival: self.scheduler.work,
        };
        self.jobs.insert(id, job);
    }

    fn forget(&mut self, id: JobId) {
        self.jobs.remove(&id);
        self.scheduler.remove(id);
    }

    /// Names of all tokens of a job, from the first on.
    fn trail(tokens: &[u32]) -> Vec<u64> {
        let next = |name: &mut u64, token: &u32| {
            *name = (*name ^ u64::from(*token))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
                + 1;
            Some(*name)
        };
        tokens.iter().scan(0, next).collect()
    }

    fn place(&self, id: JobId, position: usize) -> usize {
        self.scheduler.blocks(id)[position / BLOCK_LEN] as usize * BLOCK_LEN + position % BLOCK_LEN
    }

    fn step(&mut self) {
        let plan = self.scheduler.plan();
        self.check(&plan);
        self.cached += plan.cached;
        for &Grant { id, start, len } in &plan.grants {
            let trail = Simulation::trail(&self.jobs[&id].tokens);
            for (position, name) in trail.iter().enumerate().skip(start).take(len) {
                let place = self.place(id, position);
                self.places[place] = *name;
            }
        }
        for &Grant { id, start, len } in &plan.grants {
            let trail = Simulation::trail(&self.jobs[&id].tokens);
            for (position, name) in trail[..start + len].iter().enumerate() {
                assert_eq!(
                    self.places[self.place(id, position)],
                    *name,
                    "{id:?} reads another's position {position}"
                );
            }
        }
        for Grant { id, start, len } in plan.grants {
            self.settle(id, start + len);
        }
    }

    fn check(&self, plan: &Plan) {
        let Simulation {
            scheduler,
            jobs,
            limits,
            ..
        } = self;
        assert_eq!(scheduler.waiting() + scheduler.running(), jobs.len(), "a job is lost");
        assert!(plan.tokens() <= limits.tokens_per_step_max && scheduler.running() <= limits.sequences_max);
        assert!(jobs.is_empty() || plan.tokens() > 0, "nothing moves");
        let first = scheduler.running.first_key_value().map(|(_, entry)| entry.id);
        assert!(
            jobs.is_empty() || plan.grants.iter().any(|grant| Some(grant.id) == first),
            "the first stands still"
        );
        let held: usize = scheduler.running.values().map(|entry| entry.blocks.len()).sum();
        let queued = scheduler
            .waiting
            .values()
            .map(|entry| entry.blocks.len())
            .sum::<usize>();
        assert_eq!(
            (scheduler.pool.census(), queued),
            ((held, scheduler.pool.free()), 0),
            "a block leaks"
        );
        // Work done since a job arrived: what its priority and its wait allow others, and what stood before it, which
        // is at times computed again.
        let bound = 2 * limits.ageing_tokens + 3 * (JOBS_MAX * 3 * TOKENS_MAX) as u64;
        for (id, job) in jobs {
            let waited = scheduler.work - job.work_at_arrival;
            assert!(
                waited <= bound,
                "{id:?} starves: {waited} tokens were computed, {bound} are allowed"
            );
        }
    }

    fn settle(&mut self, id: JobId, computed: usize) {
        let job = self.jobs.get_mut(&id).expect("a forgotten job is granted tokens");
        assert!(computed <= job.tokens.len());
        if computed < job.total {
            if computed == job.tokens.len() {
                job.tokens.push(self.dice.below(1 << 20) as u32);
            }
            self.scheduler.advance(id, computed, job.tokens.len());
        } else if job.rounds > 1 {
            job.rounds -= 1;
            job.tokens.truncate(job.prompt_len);
            self.scheduler.advance(id, job.prompt_len - 1, job.prompt_len);
        } else {
            self.finished += 1;
            self.forget(id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 0, ..ProptestConfig::default() })]
    #[test]
    fn nothing_starves_leaks_or_gets_lost(
        seed in any::<u64>(), tokens in 8usize..60, sequences in 1usize..8, blocks in 9usize..40, ageing in 0u64..3000,
    ) {
        let limits = Limits { tokens_per_step_max: tokens, sequences_max: sequences, ageing_tokens: ageing };
        let mut simulation = Simulation::new(seed, limits, blocks);
        for now in 0..STEPS {
            while simulation.jobs.len() < JOBS_MAX && simulation.dice.one_in(2) {
                simulation.arrive(now);
            }
            if simulation.dice.one_in(12) {
                let nth = simulation.dice.below(limits.sequences_max);
                let running = simulation.scheduler.running.values().nth(nth).map(|entry| entry.id);
                running.into_iter().for_each(|id| simulation.forget(id)); // at times in the middle of its prompt
            }
            let late = simulation.jobs.iter().filter(|(_, job)| job.deadline.is_some_and(|deadline| deadline <= now));
            for id in late.map(|(id, _)| *id).collect::<Vec<_>>() {
                simulation.forget(id);
            }
            simulation.step();
        }
        prop_assert!(simulation.finished > 50 && simulation.cached > 500, "too little happens");
        for _ in 0..STEPS {
            simulation.step();
        }
        prop_assert!(simulation.jobs.is_empty());
        prop_assert_eq!(simulation.scheduler.pool.free(), blocks);
    }
}
