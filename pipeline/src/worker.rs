//! The one OS thread that owns the engines: jobs in through one bounded channel, events out through another.
//!
//! It does nothing but arithmetic and waiting for either channel, so Kafka polling and the store
//! never wait for a forward pass.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;

use engine::{Completion, Engine, EngineError, EngineSettings, Event, Job, JobId, Model, Priority, RequestError};
use tokio::sync::mpsc;

/// Jobs on their way to the engine, and events on their way back, at most.
const CHANNEL: usize = 1024;

/// What the run loop asks of the engine.
pub enum Order {
    /// Run a job on a model.
    Submit {
        /// Chosen by the caller; comes back with every event.
        id: JobId,
        /// Which model; its engine is made on first use.
        model: Arc<Model>,
        /// The checked request.
        job: Box<Job>,
        /// Who goes first.
        priority: Priority,
    },
    /// Forget a job; no event follows.
    Cancel(JobId),
}

/// What the engine tells the run loop.
pub enum News {
    /// The first token of an answer was written.
    FirstToken(JobId),
    /// A job is done.
    Finished(JobId, Box<Completion>),
    /// A job could not be taken.
    Refused(JobId, RequestError),
    /// A step ran.
    Step {
        /// Tokens computed.
        tokens: usize,
        /// Sequences in the batch.
        sequences: usize,
    },
    /// No engine can be made with these settings.
    Broken(EngineError),
}

/// The running thread, seen from the run loop.
pub struct Worker {
    /// Orders for the engine.
    pub orders: mpsc::Sender<Order>,
    /// What it tells.
    pub news: mpsc::Receiver<News>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: EngineSettings) -> std::io::Result<Worker> {
        let (orders, inbox) = mpsc::channel(CHANNEL);
        let (outbox, news) = mpsc::channel(CHANNEL);
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            Engines {
                settings,
                engines: Vec::new(),
                homes: HashMap::new(),
                outbox,
            }
            .run(inbox)
        })?;
        Ok(Worker { orders, news, thread })
    }

    /// Drops what is queued and waits for the step that runs.
    pub fn stop(self) {
        drop((self.orders, self.news));
        if self.thread.join().is_err() {
            tracing::error!("the engine thread panicked");
        }
    }
}

struct Engines {
    settings: EngineSettings,
    engines: Vec<(Arc<Model>, Engine)>,
    /// Which engine has which job.
    homes: HashMap<JobId, usize>,
    outbox: mpsc::Sender<News>,
}

/// The other side hung up.
struct Closed;

impl Engines {
    fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        loop {
            let idle = self.engines.iter().all(|(_, engine)| engine.is_idle());
            let first = if idle {
                inbox.blocking_recv()
            } else {
                inbox.try_recv().ok()
            };
            let orders = first.into_iter().chain(std::iter::from_fn(|| inbox.try_recv().ok()));
            let obeyed = orders.take(CHANNEL).try_for_each(|order| self.obey(order));
            if obeyed.and_then(|()| self.step()).is_err() || inbox.is_closed() {
                return;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), Closed> {
        match order {
            Order::Submit {
                id,
                model,
                job,
                priority,
            } => {
                let at = match self.engine_of(model) {
                    Ok(at) => at,
                    Err(error) => return self.tell(News::Broken(error)),
                };
                match self.engines[at].1.submit(id, *job, priority) {
                    Ok(()) => self.homes.insert(id, at),
                    Err(error) => return self.tell(News::Refused(id, error)),
                };
            }
            Order::Cancel(id) => {
                if let Some(at) = self.homes.remove(&id) {
                    self.engines[at].1.cancel(id);
                }
            }
        }
        Ok(())
    }

    fn engine_of(&mut self, model: Arc<Model>) -> Result<usize, EngineError> {
        if let Some(at) = self.engines.iter().position(|(known, _)| Arc::ptr_eq(known, &model)) {
            return Ok(at);
        }
        self.engines.push((model.clone(), Engine::new(model, &self.settings)?));
        Ok(self.engines.len() - 1)
    }

    fn step(&mut self) -> Result<(), Closed> {
        for at in 0..self.engines.len() {
            if self.engines[at].1.is_idle() {
                continue;
            }
            let report = self.engines[at].1.step();
            for event in report.events {
                match event {
                    Event::FirstToken(id) => self.tell(News::FirstToken(id))?,
                    Event::Finished(id, completion) => {
                        self.homes.remove(&id);
                        self.tell(News::Finished(id, Box::new(completion)))?;
                    }
                    Event::Failed(id, error) => {
                        self.homes.remove(&id);
                        self.tell(News::Refused(id, error))?;
                    }
                }
            }
            self.tell(News::Step {
                tokens: report.tokens,
                sequences: report.sequences,
            })?;
        }
        Ok(())
    }

    fn tell(&self, news: News) -> Result<(), Closed> {
        self.outbox.blocking_send(news).map_err(|_| Closed)
    }
}
