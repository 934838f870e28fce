//! Output control: a JSON schema, a regular expression or a list of choices as a mask over the next token.
//!
//! `llguidance` compiles each to a grammar over bytes and walks a trie of all tokens with it. All its bounds count work
//! and none of them time, so a constraint gives the same masks, or the same refusal, everywhere. The trie is built when
//! a model meets its first constraint.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::guard::{Panicked, guard};
use crate::tokenizer::Tokenizer;

/// Longest token that an answer under a constraint may use; the trie takes up to 1,024.
const TOKEN_LEN_MAX: usize = 256;
/// Compiled constraints that are kept; one job's many requests share theirs.
const COMPILED_MAX: usize = 16;
/// Longest explanation of a refusal, in characters.
const ERROR_CHARS_MAX: usize = 300;
/// What is said where the library panics.
const UNCOMPILED: &str = "it is of a form that cannot be compiled";

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Constraint {
    /// JSON of this schema, itself as text.
    Json(String),
    /// Text that the expression matches from end to end.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// A model's compiled constraints.
#[derive(Default)]
pub(crate) struct Grammars {
    factory: OnceLock<Result<ParserFactory, String>>,
    compiled: Mutex<VecDeque<(Arc<Constraint>, Matcher)>>,
}

/// One answer's way through its constraint.
pub(crate) struct Grammar {
    matcher: Matcher,
}

/// What the model tells about its tokens.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) vocabulary: usize,
    /// Those that end a text.
    pub(crate) eos: &'a [u32],
}

impl Grammars {
    /// A fresh start through a constraint. The error says why it cannot be followed.
    pub(crate) fn start(&self, tokens: Tokens<'_>, constraint: &Arc<Constraint>) -> Result<Grammar, String> {
        guard(|| self.start_unguarded(tokens, constraint)).unwrap_or_else(|Panicked| Err(UNCOMPILED.to_owned()))
    }

    fn start_unguarded(&self, tokens: Tokens<'_>, constraint: &Arc<Constraint>) -> Result<Grammar, String> {
        // Nothing is half-done under this lock, so what another thread's panic left is whole.
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, matcher)) = compiled.iter().find(|(known, _)| known == constraint) {
            // Deep, so that what one answer makes the lexer learn does not count against another's bounds.
            return Ok(Grammar {
                matcher: matcher.deep_clone(),
            });
        }
        let factory = self
            .factory
            .get_or_init(|| factory(tokens))
            .as_ref()
            .map_err(String::clone)?;
        let matcher = Matcher::new(factory.create_parser(constraint.grammar()?));
        if let Some(error) = matcher.get_error() {
            return Err(brief(&error));
        }
        compiled.truncate(COMPILED_MAX - 1);
        compiled.push_front((Arc::clone(constraint), matcher.deep_clone()));
        Ok(Grammar { matcher })
    }
}

impl Constraint {
    fn grammar(&self) -> Result<TopLevelGrammar, String> {
        match self {
            Constraint::Json(schema) => {
                let mut schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
                if let Some(schema) = schema.as_object_mut() {
                    // No space between parts: a model may fill its whole answer with it, at the customer's cost.
                    schema.insert("x-guidance".to_owned(), json!({ "whitespace_flexible": false }));
                }
                Ok(TopLevelGrammar::from_json_schema(schema))
            }
            Constraint::Regex(expression) => Ok(TopLevelGrammar::from_regex(expression)),
            Constraint::Choice(texts) => {
                let quoted: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
                Ok(TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | "))))
            }
        }
    }
}

impl Grammar {
    /// The tokens that may come next, those that end the text among them where it may end.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob, String> {
        let mask = call(|| self.matcher.compute_mask_or_eos())?;
        if mask.is_zero() {
            return Err("no token of the model can continue it".to_owned());
        }
        Ok(mask)
    }

    /// Goes on by one token. True if the text is complete and cannot go on.
    pub(crate) fn advance(&mut self, token: u32) -> Result<bool, String> {
        call(|| self.matcher.consume_token(token))?;
        Ok(self.matcher.is_stopped())
    }
}

/// Calls the library on the way through a constraint.
fn call<T, E: Display>(library: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match guard(library) {
        Ok(returned) => returned.map_err(|error| brief(&error.to_string())),
        Err(Panicked) => Err(UNCOMPILED.to_owned()),
    }
}

fn factory(tokens: Tokens<'_>) -> Result<ParserFactory, String> {
    let Tokens {
        tokenizer,
        vocabulary,
        eos,
    } = tokens;
    let eos: Vec<u32> = eos
        .iter()
        .copied()
        .filter(|token| (*token as usize) < vocabulary)
        .collect();
    let first = eos.first().ok_or("the model names no token that ends a text")?;
    let words: Vec<Vec<u8>> = (0..vocabulary as u32).map(|token| word(tokenizer, token)).collect();
    let trie = TokTrie::from(&TokRxInfo::new(vocabulary as u32, *first), &words).with_eos_tokens(&eos);
    let environment = Arc::new(ApproximateTokEnv::new(trie));
    let slices = llguidance::earley::SlicedBiasComputer::general_slices();
    let factory = ParserFactory::new(&(environment as _), InferenceCapabilities::default(), &slices);
    let mut factory = factory.map_err(|error| brief(&error.to_string()))?;
    factory.quiet();
    *factory.limits_mut() = ParserLimits {
        max_grammar_size: 100_000,
        max_lexer_states: 10_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
        ..ParserLimits::default()
    };
    Ok(factory)
}

/// The bytes that a token writes; special tokens write none, and are marked as `toktrie` wants it.
fn word(tokenizer: &Tokenizer, token: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(token).0;
    match tokenizer.is_special(token) {
        true => [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat(),
        false if bytes.len() <= TOKEN_LEN_MAX => bytes,
        false => Vec::new(),
    }
}

/// The first line of an error. Where the library panicked and caught that itself, the line is of no use.
fn brief(error: &str) -> String {
    if error.starts_with("panic") {
        return UNCOMPILED.to_owned();
    }
    error
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(ERROR_CHARS_MAX)
        .collect()
}
