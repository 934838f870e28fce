//! `bitnet model bench`: how fast a whole model runs here, and what the machine would allow.
//!
//! The engine itself is timed, step by step: a prompt of 512 tokens, and decoding in batches behind prompts of 128. Each
//! round first times the machine: its peak of int8 and f32 multiply-adds and the rate at which it reads memory. What
//! these allow for the work of a step, as a percentage of the time taken, is the figure that can be compared between
//! days; the median over the rounds holds.

mod machine;
mod report;

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use clap::{Args, ValueEnum};
use engine::{Endpoint, Engine, EngineSettings, Event, JobId, LoadOptions, Model, Priority};
use serde_json::json;

use self::machine::Machine;
use self::report::{Measured, Round};
use crate::cli::partial::Partial;
use crate::cli::{Exit, Failure};

/// Tokens of the prompt that is timed, where the model has room for one more.
const PROMPT_LEN: usize = 512;
/// Tokens of each prompt that decoding starts from.
const CONTEXT_LEN: usize = 128;
/// Sequences that decode together.
const BATCHES: [usize; 6] = [1, 4, 8, 16, 32, 64];
/// Steps that are not timed: the first batch touches memory for the first time.
const WARM_STEPS: usize = 2;
const BLOCK_LEN: usize = 16;

const EXAMPLES: &str = "Examples:
  bitnet model bench --shape 2b4t
  bitnet model bench --shape 2b4t --threads 1 --json record.json
  bitnet model bench --model /srv/models/bitnet-2b
BITNET_KERNEL chooses the instruction set.";

/// `bitnet model bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    /// Random weights in memory, of this shape
    #[arg(long, value_enum, default_value_t = ShapeName::Bitnet2b4t, conflicts_with = "model")]
    shape: ShapeName,
    /// A model's folder
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Threads that compute; by default one for each core
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Times that each case is measured
    #[arg(long, value_name = "N", default_value = "5")]
    rounds: NonZeroUsize,
    /// Write the figures here, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Before each round write its case to standard output and wait for a line on standard input; afterwards write its
    /// seconds: another program can take turns with this one
    #[arg(long)]
    in_turns: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShapeName {
    /// microsoft/bitnet-b1.58-2B-4T
    #[value(name = "2b4t")]
    Bitnet2b4t,
    /// Two narrow layers, to try the command
    Tiny,
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Case {
    /// One prompt of so many tokens, up to its first token.
    Prompt(usize),
    /// One more token for each of so many sequences.
    Decode(usize),
}

impl Bench {
    pub(super) fn run(self) -> Result<(), Failure> {
        // Before anything takes time.
        let record = self.json.as_deref().map(Partial::create).transpose()?;
        let start = Instant::now();
        let (name, model) = self.load()?;
        let model = Arc::new(model.without_end());
        let threads = self
            .threads
            .or(available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        check(&model)?;
        eprintln!("{name}: ready after {:.1} s", start.elapsed().as_secs_f64());
        let machine = Machine::new(threads);
        let mut measured = Vec::new();
        if !self.in_turns {
            report::head(&model, &name, threads);
        }
        let prompt = Case::Prompt(PROMPT_LEN.min(model.context_length().saturating_sub(1)));
        for case in std::iter::once(prompt).chain(BATCHES.map(Case::Decode)) {
            let rounds = self.measure(&model, threads, &machine, case)?;
            let case = Measured::new(case, &model.footprint(), &rounds);
            if !self.in_turns {
                report::line(&case);
            }
            measured.push(case);
        }
        if let Some((partial, mut file)) = record {
            file.write_all(report::json(&model, &name, threads, &measured).as_bytes())?;
            partial.finish()?;
        }
        Ok(())
    }

    fn load(&self) -> Result<(String, Model), Failure> {
        let options = LoadOptions::default();
        match &self.model {
            Some(folder) => {
                let model = Model::load(folder, &options).map_err(|error| {
                    Failure::new(Exit::BadInput, error).help("give the folder of a model that `bitnet worker` loads")
                })?;
                Ok((folder.display().to_string(), model))
            }
            None => {
                let shape = match self.shape {
                    ShapeName::Bitnet2b4t => engine::Shape::Bitnet2B4T,
                    ShapeName::Tiny => engine::Shape::Tiny,
                };
                let model = Model::random(shape, &options).map_err(|error| Failure::new(Exit::Usage, error))?;
                Ok((format!("random {}", shape.name()), model))
            }
        }
    }

    fn measure(
        &self,
        model: &Arc<Model>,
        threads: usize,
        machine: &Machine,
        case: Case,
    ) -> Result<Vec<Round>, Failure> {
        let mut run = Run::new(model, threads, case, self.rounds.get())?;
        let mut rounds = Vec::new();
        for index in 0..self.rounds.get() {
            if self.in_turns {
                println!("{}", json!({ "case": case.name(), "tokens": case.tokens() }));
                io::stdout().flush()?;
                if io::stdin().read_line(&mut String::new())? == 0 {
                    return Err(Failure::new(Exit::Usage, "standard input ended before the last round"));
                }
            }
            let limits = machine.measure(index);
            let (seconds, contexts) = run.round()?;
            if self.in_turns {
                println!("{}", json!({ "seconds": seconds }));
            }
            rounds.push(Round {
                seconds,
                contexts,
                limits,
            });
        }
        Ok(rounds)
    }
}

/// Fails unless the model gives finite logits of the right shape: a fast model that computes nothing is none.
fn check(model: &Model) -> Result<(), Failure> {
    let tokens: Vec<u32> = (0..4).collect();
    let logits = model
        .logits(&tokens)
        .map_err(|error| Failure::new(Exit::BadInput, error))?;
    if logits.len() != tokens.len() * model.vocabulary() || logits.iter().any(|logit| !logit.is_finite()) {
        return Err(
            Failure::new(Exit::CheckFailed, "the model's logits are not finite").help("check its files for NaN scales")
        );
    }
    Ok(())
}

impl Case {
    pub(super) fn name(self) -> String {
        match self {
            Case::Prompt(len) => format!("prompt {len}"),
            Case::Decode(batch) => format!("decode, batch {batch}"),
        }
    }

    /// Tokens of a step.
    pub(super) fn tokens(self) -> usize {
        match self {
            Case::Prompt(len) => len,
            Case::Decode(batch) => batch,
        }
    }

    /// Rows of a step whose logits are computed.
    pub(super) fn rows(self) -> usize {
        match self {
            Case::Prompt(_) => 1,
            Case::Decode(batch) => batch,
        }
    }

    fn sequences(self) -> usize {
        self.rows()
    }

    /// Steps of a round, long enough to be timed.
    fn steps(self) -> usize {
        match self {
            Case::Prompt(_) => 1,
            Case::Decode(batch) if batch <= 8 => 8,
            Case::Decode(_) => 4,
        }
    }
}

/// An engine at work on one case.
struct Run {
    engine: Engine,
    model: Arc<Model>,
    case: Case,
    tokens_max: usize,
    submitted: u64,
    /// Positions of each sequence that are computed.
    context: usize,
}

impl Run {
    fn new(model: &Arc<Model>, threads: usize, case: Case, rounds: usize) -> Result<Run, Failure> {
        let tokens_max = match case {
            Case::Prompt(_) => 1,
            // The first prompts are ahead of the last by the steps that all of them take.
            Case::Decode(batch) => 1 + WARM_STEPS + rounds * case.steps() + 2 + batch * CONTEXT_LEN / PROMPT_LEN * 2,
        };
        let positions = PROMPT_LEN.max(CONTEXT_LEN + tokens_max).next_multiple_of(BLOCK_LEN) + 2 * BLOCK_LEN;
        let position_bytes = model.footprint().position_bytes as usize;
        let settings = EngineSettings {
            tokens_per_step_max: PROMPT_LEN,
            sequences_max: case.sequences(),
            kv_bytes_max: positions * case.sequences() * position_bytes,
            block_len: BLOCK_LEN,
            threads,
            ..EngineSettings::default()
        };
        let engine = Engine::new(Arc::clone(model), &settings);
        let engine = engine.map_err(|error| Failure::new(Exit::Usage, error).help("give fewer threads"))?;
        let mut run = Run {
            engine,
            model: Arc::clone(model),
            case,
            tokens_max,
            submitted: 0,
            context: CONTEXT_LEN,
        };
        match case {
            Case::Prompt(_) => run.round().map(drop)?, // untimed
            Case::Decode(batch) => run.start(batch)?,
        }
        Ok(run)
    }

    /// One round: seconds of a step, and the positions that its tokens see together.
    fn round(&mut self) -> Result<(f64, usize), Failure> {
        match self.case {
            Case::Prompt(len) => {
                self.submit(len)?;
                let start = Instant::now();
                let report = self.engine.step();
                let seconds = start.elapsed().as_secs_f64();
                let done = report.events.iter().any(|event| matches!(event, Event::Finished(..)));
                self.expect(report.tokens == len && done)?;
                Ok((seconds, (1..=len).sum()))
            }
            Case::Decode(batch) => {
                let steps = self.case.steps();
                let (start, first) = (Instant::now(), self.context + 1);
                self.decode(batch, steps)?;
                let seconds = start.elapsed().as_secs_f64() / steps as f64;
                let seen: Range<usize> = first..first + steps;
                Ok((seconds, seen.sum::<usize>() * batch / steps))
            }
        }
    }

    /// Computes the prompts of a batch and the first steps behind them.
    fn start(&mut self, batch: usize) -> Result<(), Failure> {
        for _ in 0..batch {
            self.submit(CONTEXT_LEN)?;
        }
        let mut first_tokens = 0;
        while first_tokens < batch {
            let report = self.engine.step();
            self.expect(report.tokens > 0)?;
            first_tokens += report
                .events
                .iter()
                .filter(|event| matches!(event, Event::FirstToken(_)))
                .count();
        }
        self.decode(batch, WARM_STEPS)
    }

    fn decode(&mut self, batch: usize, steps: usize) -> Result<(), Failure> {
        for _ in 0..steps {
            let report = self.engine.step();
            self.expect(report.tokens == batch && report.sequences == batch)?;
        }
        self.context += steps;
        Ok(())
    }

    fn submit(&mut self, len: usize) -> Result<(), Failure> {
        let vocabulary = self.model.vocabulary() as u64;
        let token = |i: usize| (self.submitted * 7919 + i as u64 * 104_729 + 1) % vocabulary;
        let prompt: Vec<u64> = (0..len).map(token).collect();
        let body = json!({ "prompt": prompt, "max_tokens": self.tokens_max, "temperature": 0 });
        let refused = |error| Failure::new(Exit::BadInput, error).help("bench a model with 256 positions or more");
        let job = self
            .model
            .prepare(Endpoint::Completions, &body, "bench")
            .map_err(refused)?;
        self.engine
            .submit(JobId(self.submitted), job, Priority::Bulk)
            .map_err(refused)?;
        self.submitted += 1;
        Ok(())
    }

    fn expect(&self, right: bool) -> Result<(), Failure> {
        if right {
            return Ok(());
        }
        let problem = format!("{}: a step did not compute what it should", self.case.name());
        Err(Failure::new(Exit::CheckFailed, problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_that_is_timed_computes_its_whole_batch() {
        let model = Model::random(engine::Shape::Tiny, &LoadOptions::default()).expect("a kernel runs here");
        check(&model).expect("finite logits");
        let model = Arc::new(model);
        for case in [Case::Prompt(PROMPT_LEN), Case::Decode(1), Case::Decode(64)] {
            let mut run = Run::new(&model, 2, case, 2).expect("it starts");
            for _ in 0..2 {
                let (seconds, contexts) = run.round().expect("a whole batch");
                assert!(seconds > 0.0 && contexts >= case.tokens(), "{case:?}");
            }
        }
    }
}
