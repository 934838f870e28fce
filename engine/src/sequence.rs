//! One job on its way: the tokens to compute next, and what was learned from those computed.
//!
//! A sequence names the first position whose result it still wants. Results arrive in the order of positions, each
//! exactly once, however often a position is computed: after preemption the wanted position has not moved.

use crate::completion::{Completion, Detail, FinishReason, ScoredChoice, TextChoice, TokenLogprob, Usage};
use crate::grammar::Grammar;
use crate::job::{Generate, Job, RequestError, Score, Work};
use crate::model::Model;
use crate::sampler::{Sampler, top};
use crate::tokenizer::Detokenizer;

pub(crate) struct Sequence {
    /// What is to be computed: the prompt, and behind it the answer so far or the choice being scored.
    tokens: Vec<u32>,
    prompt_len: usize,
    wanted_from: usize,
    usage: Usage,
    progress: Progress,
}

enum Progress {
    Generate(Box<Writing>),
    Embed { sum: Vec<f32> },
    Score(Scoring),
}

/// Texts being written, one after another behind the same prompt.
struct Writing {
    task: Generate,
    /// Those of an echoed prompt.
    prompt_logprobs: Vec<TokenLogprob>,
    done: Vec<TextChoice>,
    text: Detokenizer,
    logprobs: Vec<TokenLogprob>,
    /// Where the text is in its constraint; none before the first token, and where there is no constraint.
    grammar: Option<Grammar>,
    finish: Option<FinishReason>,
    failure: Option<RequestError>,
}

/// Choices being scored, one after another behind the same prompt.
struct Scoring {
    task: Score,
    rated: Vec<Rating>,
    /// The choice behind the prompt, if the prompt is done.
    current: Option<usize>,
}

#[derive(Clone)]
struct Rating {
    logprob: f64,
    greedy: bool,
}

/// What a job wants of a position, in the order in which a batch computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wanted {
    HiddenState,
    /// Logits of which only the largest counts.
    LargestLogit,
    Logits,
}

impl Sequence {
    pub(crate) fn new(job: Job) -> Sequence {
        let usage = Usage {
            input_tokens: job.input_tokens(),
            cached_tokens: job.cached_tokens,
            ..Usage::default()
        };
        let wanted_from = job.wanted_from();
        let progress = match job.work {
            Work::Generate(task) => Progress::Generate(Box::new(Writing::new(*task))),
            Work::Embed(_) => Progress::Embed { sum: Vec::new() },
            Work::Score(task) => Progress::Score(Scoring {
                task,
                rated: Vec::new(),
                current: None,
            }),
        };
        Sequence {
            prompt_len: job.prompt.len(),
            tokens: job.prompt,
            wanted_from,
            usage,
            progress,
        }
    }

    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The first position whose result is wanted.
    pub(crate) fn wanted_from(&self) -> usize {
        self.wanted_from
    }

    /// What is wanted of each such position; it stays the same for the whole job.
    pub(crate) fn wanted(&self) -> Wanted {
        match &self.progress {
            Progress::Embed { .. } => Wanted::HiddenState,
            Progress::Generate(writing) if writing.takes_largest() => Wanted::LargestLogit,
            Progress::Generate(_) | Progress::Score(_) => Wanted::Logits,
        }
    }

    /// Takes the hidden state `[hidden]` of the first position wanted.
    pub(crate) fn take_hidden(&mut self, hidden: &[f32]) {
        self.wanted_from += 1;
        if let Progress::Embed { sum } = &mut self.progress {
            sum.resize(hidden.len(), 0.0);
            sum.iter_mut().zip(hidden).for_each(|(sum, value)| *sum += value);
        }
    }

    /// Takes the logits `[vocabulary]` of the first position wanted, and may change them. True if the first token was
    /// written.
    pub(crate) fn take_logits(&mut self, model: &Model, sampler: &mut Sampler, logits: &mut [f32]) -> bool {
        let next = self.wanted_from + 1;
        self.wanted_from = next;
        match &mut self.progress {
            Progress::Generate(writing) if next < self.tokens.len() => {
                sampler.note(logits);
                let echoed = writing.logprob(model, sampler, self.tokens[next]); // the prompt's own next token
                writing.prompt_logprobs.extend(echoed);
                false
            }
            Progress::Generate(writing) => {
                let (prompt, answer) = self.tokens.split_at(self.prompt_len);
                let Some(token) = writing.write(model, sampler, logits, prompt, answer) else {
                    return false;
                };
                self.tokens.push(token);
                self.usage.output_tokens += 1;
                self.usage.output_tokens == 1
            }
            Progress::Score(scoring) => {
                scoring.rate(sampler, logits, next - self.prompt_len);
                false
            }
            Progress::Embed { .. } => false,
        }
    }

    /// Given how many tokens are computed, goes on to what comes next, and says how many of them still count; none when
    /// the job is done.
    pub(crate) fn settle(&mut self, model: &Model, computed: usize) -> Option<usize> {
        match &mut self.progress {
            Progress::Generate(writing) if writing.failure.is_some() => None,
            Progress::Generate(writing) if writing.finish.is_some() => {
                if !writing.next(model) {
                    return None;
                }
                self.tokens.truncate(self.prompt_len);
                self.wanted_from = self.prompt_len - 1;
                Some(self.wanted_from)
            }
            Progress::Embed { .. } if computed == self.tokens.len() => None,
            Progress::Score(scoring) if computed == self.tokens.len() => {
                let next = scoring.next()?;
                self.tokens.truncate(self.prompt_len);
                self.tokens.extend_from_slice(next);
                self.wanted_from = self.prompt_len;
                Some(self.prompt_len)
            }
            _ => Some(computed),
        }
    }

    /// The answer of a job that is done.
    ///
    /// # Errors
    /// Its constraint could not be followed to the end, or the tokenizer could not write its text.
    pub(crate) fn complete(self, model: &Model) -> Result<Completion, RequestError> {
        let empty = Completion {
            finish_reason: FinishReason::Stop,
            output_text: None,
            embedding: None,
            scores: None,
            usage: self.usage,
            detail: Detail::Embedding,
        };
        Ok(match self.progress {
            Progress::Generate(writing) => writing.complete(model, &self.tokens[..self.prompt_len], empty)?,
            Progress::Embed { sum } => Completion {
                embedding: Some(normalize(sum)),
                ..empty
            },
            Progress::Score(scoring) => scoring.complete(empty),
        })
    }
}

impl Writing {
    fn new(task: Generate) -> Writing {
        Writing {
            task,
            prompt_logprobs: Vec::new(),
            done: Vec::new(),
            text: Detokenizer::default(),
            logprobs: Vec::new(),
            grammar: None,
            finish: None,
            failure: None,
        }
    }

    /// Of all logits only the largest counts: no log-probability is shown, and nothing is changed or drawn.
    fn takes_largest(&self) -> bool {
        let Generate {
            top_logprobs,
            constraint,
            sampling,
            ..
        } = &self.task;
        top_logprobs.is_none() && constraint.is_none() && sampling.takes_largest()
    }

    /// Draws the next token, unless none is wanted, and sees whether the text ends with it.
    fn write(
        &mut self,
        model: &Model,
        sampler: &mut Sampler,
        logits: &mut [f32],
        prompt: &[u32],
        answer: &[u32],
    ) -> Option<u32> {
        if self.task.tokens_max == 0 {
            self.finish = Some(FinishReason::Length);
            return None;
        }
        if self.task.top_logprobs.is_some() {
            sampler.note(logits); // before they are changed
        }
        let (token, complete) = match self.draw(model, sampler, logits, prompt, answer) {
            Ok(drawn) => drawn,
            Err(error) => {
                self.failure = Some(constraint_failed(&error));
                return None;
            }
        };
        let ended = model.ends_text(token);
        if answer.is_empty() {
            self.text = Detokenizer::behind(model.tokenizer(), prompt);
        }
        // A chat's log-probabilities are those of its text; a completion's have one entry for every token written.
        if !ended || !self.task.chat {
            let noted = self.logprob(model, sampler, token);
            self.logprobs.extend(noted);
        }
        if ended {
            self.finish = Some(FinishReason::Stop);
            return Some(token);
        }
        let shown = self.text.text().len();
        let last = answer.len() + 1 == self.task.tokens_max;
        let mut added = self.text.push(model.tokenizer(), token);
        if last {
            added = added.and_then(|()| self.text.flush(model.tokenizer()));
        }
        if let Err(error) = added {
            self.failure = Some(text_failed(&error));
            return Some(token);
        }
        if self.text.cut_at_stop(&self.task.stop, shown) || complete {
            self.finish = Some(FinishReason::Stop);
        } else if last {
            self.finish = Some(FinishReason::Length);
        }
        Some(token)
    }

    /// The next token, and whether it completes what the constraint asks for. The error says why none can follow.
    fn draw(
        &mut self,
        model: &Model,
        sampler: &mut Sampler,
        logits: &mut [f32],
        prompt: &[u32],
        answer: &[u32],
    ) -> Result<(u32, bool), String> {
        let Some(constraint) = &self.task.constraint else {
            return Ok((sampler.draw(&self.task.sampling, prompt, answer, None, logits), false));
        };
        let grammar = match &mut self.grammar {
            Some(grammar) => grammar,
            none => none.insert(model.grammars().start(model.tokens(), constraint)?),
        };
        let allowed = grammar.allowed()?;
        let token = sampler.draw(&self.task.sampling, prompt, answer, Some(&allowed), logits);
        Ok((token, grammar.advance(token)?))
    }

    /// The log-probability of a token as noted, if log-probabilities are wanted.
    fn logprob(&self, model: &Model, sampler: &Sampler, token: u32) -> Option<TokenLogprob> {
        let count = self.task.top_logprobs?;
        let logprobs = sampler.logprobs();
        let bytes = |token| model.tokenizer().token_bytes(token);
        let top = top(logprobs, count)
            .into_iter()
            .map(|(token, logprob)| (bytes(token), logprob))
            .collect();
        Some(TokenLogprob {
            token: bytes(token),
            logprob: Some(logprobs[token as usize]),
            top,
            text_start: self.text.text().len(),
        })
    }

    /// Puts the text that has ended aside. True if another one is to be written.
    fn next(&mut self, model: &Model) -> bool {
        if self.finish == Some(FinishReason::Stop) {
            let shown = self.text.text().len();
            // Nothing, where a stop string has cut the text.
            if let Err(error) = self.text.flush(model.tokenizer()) {
                self.failure = Some(text_failed(&error));
                return false;
            }
            self.text.cut_at_stop(&self.task.stop, shown);
        }
        let logprobs = std::mem::take(&mut self.logprobs);
        self.done.push(TextChoice {
            text: std::mem::take(&mut self.text).into_text(),
            finish_reason: self.finish.take().unwrap_or(FinishReason::Length),
            logprobs: self.task.top_logprobs.map(|_| logprobs),
        });
        self.grammar = None;
        self.task.sampling.seed = self.task.sampling.seed.wrapping_add(1);
        self.done.len() < self.task.choices
    }

    fn complete(mut self, model: &Model, prompt: &[u32], empty: Completion) -> Result<Completion, RequestError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let mut choices = std::mem::take(&mut self.done);
        if let Some(echo) = &self.task.echo {
            let tokens = self.echoed(model, prompt, echo)?;
            for choice in &mut choices {
                choice.text.insert_str(0, echo);
                if let Some(logprobs) = &mut choice.logprobs {
                    logprobs.iter_mut().for_each(|token| token.text_start += echo.len());
                    logprobs.splice(0..0, tokens.iter().cloned());
                }
            }
        }
        let first = choices
            .first()
            .map(|choice| (choice.finish_reason, choice.text.clone()));
        let (finish_reason, text) = first.unwrap_or((FinishReason::Length, String::new()));
        Ok(Completion {
            finish_reason,
            output_text: Some(text),
            detail: match self.task.chat {
                true => Detail::Chat { choices },
                false => Detail::Text { choices },
            },
            ..empty
        })
    }

    /// The tokens of a prompt whose text is `echo`; none where log-probabilities are not wanted.
    fn echoed(&self, model: &Model, prompt: &[u32], echo: &str) -> Result<Vec<TokenLogprob>, RequestError> {
        if self.task.top_logprobs.is_none() {
            return Ok(Vec::new());
        }
        let first = TokenLogprob {
            token: model.tokenizer().token_bytes(prompt[0]),
            logprob: None,
            top: Vec::new(),
            text_start: 0,
        };
        let mut tokens: Vec<_> = std::iter::once(first)
            .chain(self.prompt_logprobs.iter().cloned())
            .collect();
        let starts = model.tokenizer().starts(prompt, echo);
        for (token, start) in tokens.iter_mut().zip(starts.map_err(|error| text_failed(&error))?) {
            token.text_start = start;
        }
        Ok(tokens)
    }
}

impl Scoring {
    /// Takes the logits for the choices' token number `index`: of every choice for the first, which all share, and of
    /// the current one after it.
    fn rate(&mut self, sampler: &mut Sampler, logits: &[f32], index: usize) {
        let likeliest = sampler.likeliest(logits);
        sampler.note(logits);
        let logprobs = sampler.logprobs();
        let rating = |token: u32| Rating {
            logprob: f64::from(logprobs[token as usize]),
            greedy: token == likeliest,
        };
        match self.current {
            None => {
                self.rated = self
                    .task
                    .choices
                    .iter()
                    .map(|choice| rating(choice.tokens[0]))
                    .collect()
            }
            Some(current) => {
                let further = rating(self.task.choices[current].tokens[index]);
                let sum = &mut self.rated[current];
                sum.logprob += further.logprob;
                sum.greedy &= further.greedy;
            }
        }
    }

    /// Goes on to the next choice that has more than one token: its tokens but the last, which need computing.
    fn next(&mut self) -> Option<&[u32]> {
        let from = self.current.map_or(0, |current| current + 1);
        let next = (from..self.task.choices.len()).find(|index| self.task.choices[*index].tokens.len() > 1)?;
        self.current = Some(next);
        let (_, computed) = self.task.choices[next].tokens.split_last()?;
        Some(computed)
    }

    fn complete(self, empty: Completion) -> Completion {
        let scores: Vec<f64> = self.rated.iter().map(|rating| rating.logprob).collect();
        let best = scores.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)); // the first of equals
        let output_text = best.map(|(index, _)| self.task.choices[index].text.clone());
        let choices = self.task.choices.into_iter().zip(self.rated);
        let choices = choices.map(|(choice, rating)| ScoredChoice {
            text: choice.text,
            tokens: choice.tokens.len(),
            greedy: rating.greedy,
        });
        let detail = Detail::Score {
            choices: choices.collect(),
        };
        Completion {
            output_text,
            scores: Some(scores),
            detail,
            ..empty
        }
    }
}

fn constraint_failed(error: &str) -> RequestError {
    RequestError {
        code: "constraint_too_complex",
        message: format!("the answer cannot be held to its constraint any further: {error}; simplify it"),
        param: None,
    }
}

fn text_failed(error: &str) -> RequestError {
    RequestError {
        code: "tokenizer_failed",
        message: format!("the answer's tokens cannot be turned into text: {error}; mend the model's tokenizer.json"),
        param: None,
    }
}

/// Scaled to Euclidean length 1; a mean and a sum then are the same. Zero stays zero.
fn normalize(mut vector: Vec<f32>) -> Vec<f32> {
    let square: f64 = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    if square > 0.0 {
        let scale = 1.0 / square.sqrt();
        vector
            .iter_mut()
            .for_each(|value| *value = (f64::from(*value) * scale) as f32);
    }
    vector
}
