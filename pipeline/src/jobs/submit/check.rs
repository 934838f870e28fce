//! The first reading: is every request usable, and how many batches will there be?

use std::ops::ControlFlow;

use schemas::ids::CustomId;
use schemas::request::{ClaimCheck, Endpoint, Limits, Request, decode};
use serde_json::Value;

use super::input::{BatchLimits, Batcher, Item, Place, each};
use super::{Input, JobSpec, Plan, SubmitError};
use crate::jobs::unique::Unique;
use crate::settings::Settings;

/// Reads all files beside the runtime, and sends nothing.
pub(super) async fn check(settings: &Settings, spec: &JobSpec, input: &Input) -> Result<Plan, SubmitError> {
    let limits = BatchLimits::of(settings, spec, input)?;
    plain_job_id(spec)?;
    let line_bytes_max = settings.limits.message_bytes_max.get();
    let checker = Checker {
        input: input.clone(),
        line_bytes_max,
        limits,
        model: spec.model.clone(),
        endpoint: spec.endpoint,
        unique: Unique::default(),
        batcher: Batcher::new(limits),
        requests: 0,
        batches: 0,
    };
    let plan = tokio::task::spawn_blocking(|| checker.read())
        .await
        .expect("checking the input does not panic")?;
    sample(settings, spec, input, &plan)?;
    Ok(plan)
}

/// The job id becomes a folder below the store.
fn plain_job_id(spec: &JobSpec) -> Result<(), SubmitError> {
    let id = spec.job_id.as_str();
    if id
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !id.starts_with('.')
    {
        return Ok(());
    }
    Err(SubmitError::Spec {
        problem: format!("job id {id:?} becomes a folder's name; use a-z A-Z 0-9 - _ . only"),
    })
}

struct Checker {
    input: Input,
    line_bytes_max: usize,
    limits: BatchLimits,
    model: Option<String>,
    endpoint: Option<Endpoint>,
    unique: Unique,
    batcher: Batcher,
    requests: u64,
    batches: u32,
}

impl Checker {
    fn read(mut self) -> Result<Plan, SubmitError> {
        let input = self.input.clone();
        for file in input.files() {
            let before = self.requests;
            each(&input.only(file), self.line_bytes_max, |place, item| {
                self.look(place, &item)?;
                Ok(ControlFlow::Continue(()))
            })?;
            if self.requests == before {
                let problem = "the file is empty; give it at least one request".to_owned();
                return Err(SubmitError::Input {
                    place: file.display().to_string(),
                    problem,
                });
            }
        }
        let spec = |problem: &str| SubmitError::Spec {
            problem: problem.to_owned(),
        };
        if self.requests == 0 {
            return Err(spec("there is no input file; name at least one"));
        }
        let (requests_total, batch_count) = (self.requests, self.batches);
        let model = self
            .model
            .ok_or_else(|| spec("no model is named; give --model, or `model` in the bodies"))?;
        let endpoint = self
            .endpoint
            .ok_or_else(|| spec("no endpoint is named; give --endpoint"))?;
        Ok(Plan {
            model,
            endpoint,
            requests_total,
            batch_count,
        })
    }

    fn look(&mut self, place: Place<'_>, item: &Item) -> Result<(), SubmitError> {
        if let Item::Entry(entry) = item {
            self.same_endpoint(place, entry.endpoint)?;
            self.same_model(place, &entry.body)?;
        }
        let (size, max) = (item.size(), self.limits.bytes_max);
        if size > max {
            let problem = format!("the request takes {size} bytes, at most {max} fit into a message; shorten it");
            return Err(place.wrong(problem));
        }
        if !self.unique.is_new(item.custom_id()) {
            self.twice(place, item.custom_id())?;
        }
        self.requests += 1;
        if self.batcher.begins(size) {
            self.batches = self
                .batches
                .checked_add(1)
                .filter(|&count| i32::try_from(count).is_ok())
                .ok_or_else(|| place.wrong("the job has too many batches; raise the batch size or split the job"))?;
        }
        Ok(())
    }

    fn same_endpoint(&mut self, place: Place<'_>, found: Endpoint) -> Result<(), SubmitError> {
        let expected = *self.endpoint.get_or_insert(found);
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (found.path(), expected.path());
        Err(place.wrong(format!(
            "url is {found}, but the job asks for {expected}; submit one job per endpoint"
        )))
    }

    fn same_model(&mut self, place: Place<'_>, body: &Value) -> Result<(), SubmitError> {
        let Some(found) = body.get("model") else { return Ok(()) };
        let found = found
            .as_str()
            .ok_or_else(|| place.wrong("body.model is not a text; name the model"))?;
        let expected = self.model.get_or_insert_with(|| found.to_owned());
        if found == expected {
            return Ok(());
        }
        Err(place.wrong(format!(
            "body.model is {found:?}, but the job runs on {expected:?}; submit one job per model"
        )))
    }

    /// Looks for the first place of a `custom_id` whose hash was seen before.
    fn twice(&self, place: Place<'_>, custom_id: &str) -> Result<(), SubmitError> {
        let mut found = None;
        each(&self.input, self.line_bytes_max, |first, item| {
            if first == place {
                return Ok(ControlFlow::Break(()));
            }
            if item.custom_id() != custom_id {
                return Ok(ControlFlow::Continue(()));
            }
            found = Some(first.to_string());
            Ok(ControlFlow::Break(()))
        })?;
        let Some(first) = found else { return Ok(()) };
        Err(place.wrong(format!(
            "custom_id {custom_id:?} stands at {first} already; make it unique"
        )))
    }
}

impl Input {
    fn only(&self, file: &std::path::Path) -> Input {
        let files = vec![file.to_owned()];
        match self {
            Input::Jsonl(_) => Input::Jsonl(files),
            Input::Parquet { columns, template, .. } => Input::Parquet {
                files,
                columns: columns.clone(),
                template: template.clone(),
            },
        }
    }
}

/// A message such as will be sent must be one that workers take: names, labels, template.
fn sample(settings: &Settings, spec: &JobSpec, input: &Input, plan: &Plan) -> Result<(), SubmitError> {
    let mut message = plan.envelope(settings, spec);
    match input {
        Input::Jsonl(_) => {
            let custom_id = CustomId::try_from("sample".to_owned()).expect("a plain word is an id");
            message.requests = Some(vec![Request {
                custom_id,
                body: Value::Null,
            }]);
        }
        Input::Parquet { columns, template, .. } => {
            let (columns, template) = (columns.clone(), template.clone());
            let (uri, sha256) = ("file:///sample.parquet".to_owned(), "0".repeat(64));
            message.input = Some(ClaimCheck {
                uri,
                sha256,
                row_groups: vec![0],
                columns,
                template,
            });
        }
    }
    let payload = serde_json::to_vec(&message).expect("a batch is plain data");
    let limits = Limits {
        message_bytes_max: settings.limits.message_bytes_max.get(),
        requests_max: settings.limits.requests_per_batch_max.get(),
    };
    decode(&payload, &limits).map(drop).map_err(|error| SubmitError::Spec {
        problem: error.to_string(),
    })
}
