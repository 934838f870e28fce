//! `bitnet run-batch`: the same engine with no broker and no tables, flags as in `vllm run-batch`.
//!
//! Every line of the input is answered by one line of the output, in the same order: a bad one by an
//! OpenAI error object. A bounded window of requests is in memory at once.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use engine::{Engine, EngineSettings, Event, JobId, Model, Priority, RequestError};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use schemas::ids::uuid_of;
use serde_json::Value;

use super::partial::Partial;
use super::{Exit, Failure, worker};
use crate::admit::endpoint_of;
use crate::jobs::lines::{Entry, Line, LineError, Lines};
use crate::jobs::output;
use crate::models::{self, Models};
use crate::settings::Settings;

/// Requests read ahead of the oldest one without an answer.
const WINDOW: usize = 4096;

const EXAMPLES: &str = r#"Examples:
  bitnet run-batch -i in.jsonl -o out.jsonl                       # the bundled demo model
  bitnet run-batch -i in.jsonl -o out.jsonl --model /srv/models/bitnet-2b

An input line is one of OpenAI's Batch API:
  {"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "…", "max_tokens": 6}}
A bad line is answered with an error object, and all others are processed; the exit code is 0 then, too."#;

/// Answer a file of requests right here: no broker, no tables
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunBatch {
    /// Requests (JSONL)
    #[arg(short, long, value_name = "FILE")]
    input: PathBuf,
    /// Answers (JSONL), in the order of the requests
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// A model's folder, or the name of one in models.dir; by default the only one there
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
}

impl RunBatch {
    pub(super) async fn run(&self, settings: &Settings) -> Result<(), Failure> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Failure::new(
                Exit::BadInput,
                format!("{}: cannot be read: {error}", self.input.display()),
            )
            .help("name a readable file of OpenAI Batch lines")
        };
        let input = File::open(&self.input).map_err(|error| unreadable(&error))?;
        let bytes = input.metadata().map_err(|error| unreadable(&error))?.len();
        let lines = Lines::new(BufReader::new(input), settings.limits.message_bytes_max.get());
        // Dropped when a signal ends this command: then nothing half-written stays behind.
        let (partial, file) = Partial::create(&self.output)?;
        let (settings, named) = (settings.clone(), self.model.clone());
        let scoring = tokio::task::spawn_blocking(move || {
            let (name, model) = choose(&settings, named.as_deref())?;
            let bounds = EngineSettings {
                jobs_max: WINDOW,
                ..worker::engine_settings(&settings)
            };
            let engine = Engine::new(Arc::clone(&model), &bounds);
            let engine = engine.map_err(|error| {
                Failure::new(Exit::Usage, error).help("correct the settings under engine and worker.threads")
            })?;
            Scorer::new(name, model, engine, lines, file, bytes).run()
        });
        let done = scoring.await.map_err(|error| Failure::new(Exit::Internal, error))??;
        if done.requests == 0 {
            let problem = format!("{}: the file is empty", self.input.display());
            return Err(Failure::new(Exit::BadInput, problem).help("give it at least one request"));
        }
        partial.finish()?;
        let Done {
            requests,
            failed,
            tokens,
            took,
        } = done;
        let (answered, seconds) = (requests - failed, took.as_secs_f64());
        let output = self.output.display();
        eprintln!(
            "{requests} requests: {answered} answered, {failed} failed; {tokens} tokens in {seconds:.1} s; see {output}"
        );
        Ok(())
    }
}

/// The folder given, or a model of `models.dir`.
fn choose(settings: &Settings, named: Option<&Path>) -> Result<(String, Arc<Model>), Failure> {
    let folder = named.filter(|path| path.is_dir());
    if let Some(folder) = folder {
        let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let name = whole
            .file_name()
            .map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
        return Ok((name.clone(), models::load(&name, folder)?));
    }
    let models = Models::open(&settings.models)?;
    let name = match named {
        Some(name) => name.to_string_lossy().into_owned(),
        None => {
            let names: Vec<_> = models.names().map(str::to_owned).collect();
            let [only] = names.as_slice() else {
                let problem = format!("models.dir has {} models: {}", names.len(), names.join(", "));
                return Err(Failure::new(Exit::Usage, problem).help("choose one with --model"));
            };
            only.clone()
        }
    };
    let model = models.get(&name)?;
    Ok((name, model))
}

struct Done {
    requests: u64,
    failed: u64,
    tokens: u64,
    took: Duration,
}

/// A line that was read and not yet written.
enum Slot {
    Running { custom_id: String },
    Finished(Value),
}

struct Scorer {
    name: String,
    model: Arc<Model>,
    engine: Engine,
    lines: Lines<BufReader<File>>,
    out: BufWriter<File>,
    window: VecDeque<Slot>,
    /// Number of the window's first slot; the slot of job `n` is `n - written`.
    written: u64,
    failed: u64,
    tokens: u64,
    bar: ProgressBar,
}

impl Scorer {
    fn new(
        name: String,
        model: Arc<Model>,
        engine: Engine,
        lines: Lines<BufReader<File>>,
        out: File,
        bytes: u64,
    ) -> Scorer {
        let style = ProgressStyle::with_template("{bar:30} {percent} %, {msg}, {eta} left");
        let bar = ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let (out, window) = (BufWriter::new(out), VecDeque::new());
        Scorer {
            name,
            model,
            engine,
            lines,
            out,
            window,
            written: 0,
            failed: 0,
            tokens: 0,
            bar,
        }
    }

    fn run(mut self) -> Result<Done, Failure> {
        let start = Instant::now();
        let mut at_end = false;
        loop {
            while !at_end && self.window.len() < WINDOW {
                let line = self.lines.next_line();
                let line = line.map_err(|error| Failure::new(Exit::BadInput, error).help("check the input file"))?;
                at_end = line.is_none();
                if let Some((number, entry)) = line {
                    self.admit((number, entry));
                }
            }
            self.write_finished()?;
            if self.window.is_empty() && at_end {
                break;
            }
            self.step();
            let rate = self.tokens as f64 / start.elapsed().as_secs_f64();
            self.bar.set_position(self.lines.bytes_read());
            self.bar
                .set_message(format!("{} answers, {rate:.0} tokens/s", self.written));
        }
        self.out.flush().map_err(|error| cannot_write(&error))?;
        self.bar.finish_and_clear();
        Ok(Done {
            requests: self.written,
            failed: self.failed,
            tokens: self.tokens,
            took: start.elapsed(),
        })
    }

    fn admit(&mut self, (number, entry): Line) {
        let job = self.written + self.window.len() as u64;
        let slot = match entry {
            Err(LineError {
                code,
                problem,
                custom_id,
            }) => {
                self.failed += 1;
                let body = output::error_body(code, &format!("line {number}: {problem}"), None);
                Slot::Finished(output::refused(&id_of(job), custom_id.as_deref(), body))
            }
            Ok(entry) => match self.submit(job, &entry) {
                Ok(()) => Slot::Running {
                    custom_id: entry.custom_id.into(),
                },
                Err(error) => {
                    self.failed += 1;
                    Slot::Finished(output::refused(
                        &id_of(job),
                        Some(entry.custom_id.as_str()),
                        error.body(),
                    ))
                }
            },
        };
        self.window.push_back(slot);
    }

    fn submit(&mut self, job: u64, entry: &Entry) -> Result<(), RequestError> {
        if let Some(asked) = entry
            .body
            .get("model")
            .filter(|asked| asked.as_str() != Some(&self.name))
        {
            let message = format!(
                "body.model is {asked}, but this run answers with {:?}; correct it or leave it out",
                self.name
            );
            return Err(RequestError {
                code: "model_not_found",
                message,
                param: Some("model".to_owned()),
            });
        }
        let prepared = self
            .model
            .prepare(endpoint_of(entry.endpoint), &entry.body, entry.custom_id.as_str())?;
        self.engine.submit(JobId(job), prepared, Priority::Bulk)
    }

    fn step(&mut self) {
        let report = self.engine.step();
        self.tokens += report.tokens as u64;
        for event in report.events {
            let (job, ended) = match event {
                Event::Finished(JobId(job), completion) => (job, Ok(completion)),
                Event::Failed(JobId(job), error) => (job, Err(error)),
                Event::FirstToken(_) => continue,
            };
            let at = usize::try_from(job - self.written).expect("the window is small");
            let Slot::Running { custom_id } = &self.window[at] else {
                continue;
            };
            let id = id_of(job);
            self.window[at] = Slot::Finished(match ended {
                Ok(completion) => {
                    let body = completion.response(&id, Timestamp::now().as_second(), &self.name);
                    output::answered(&id, Some(custom_id), 200, body)
                }
                Err(error) => {
                    self.failed += 1;
                    output::refused(&id, Some(custom_id), error.body())
                }
            });
        }
    }

    fn write_finished(&mut self) -> Result<(), Failure> {
        while let Some(Slot::Finished(line)) = self.window.front() {
            writeln!(self.out, "{line}").map_err(|error| cannot_write(&error))?;
            self.window.pop_front();
            self.written += 1;
        }
        Ok(())
    }
}

fn cannot_write(error: &std::io::Error) -> Failure {
    Failure::new(Exit::Outage, format!("cannot write the answers: {error}")).help("make room and run again")
}

/// Names an answer by its request's place, so that a run repeated gives the same ids.
fn id_of(job: u64) -> String {
    format!("batch_req_{}", uuid_of("run-batch", &[&job.to_be_bytes()]).simple())
}
