//! A model: its configuration, its weights, its tokenizer and its chat template.

mod error;
mod config;
mod formats;
mod weights;
mod forward;
mod convert;
mod inspect;
mod footprint;
mod synthetic;

use std::path::Path;

use kernels::Kernel;
use kernels::float::{KvCache, KvShape, KvShapeError, Rope};
use kernels::head::Head;
use serde_json::Value;

use self::config::Config;
use self::weights::Weights;
use crate::batch::Batch;
use crate::grammar::{Grammars, Tokens};
use crate::job::{Endpoint, Job, RequestError};
use crate::request::{self, Reader};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;

pub use self::convert::{ConvertError, convert};
pub use self::error::LoadError;
pub use self::footprint::{Footprint, Products};
pub(crate) use self::formats::{Opened, TextFile, TokenizerFiles};
pub(crate) use self::forward::{Forward, Workspace};
pub use self::inspect::{ModelInfo, inspect};
pub use self::synthetic::Shape;

/// Bytes of the table of rotary sines and cosines: 2²⁰ positions of heads of 128.
const ROPE_BYTES_MAX: usize = 1 << 29;
/// Rows computed at once by [`Model::logits`].
const LOGITS_CHUNK: usize = 512;

/// Choices about how a model is loaded; none of them changes an answer, save `date`.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Positions allowed to a request, if fewer than the model was trained for.
    pub context_length_max: Option<usize>,
    /// The day that a chat template sees through `strftime_now`: year, month, day. Templates that ask for the date
    /// fail without one, for an answer must not depend on when it is computed.
    pub date: Option<(u16, u8, u8)>,
    /// The name of the instruction set to compute with, one of [`kernel_names`](crate::kernel_names); without one
    /// the environment variable `BITNET_KERNEL` decides, and without that the fastest is taken.
    pub kernel: Option<String>,
}

/// A loaded model, immutable; share it in an `Arc`.
pub struct Model {
    forward: Forward,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Vec<u32>,
    grammars: Grammars,
    context_length: usize,
    digest: String,
    tokenizer_digest: String,
}

impl Model {
    /// Reads a Hugging Face directory (`config.json`, `*.safetensors`, `tokenizer.json`, and the chat template if there is
    /// one), a GGUF file, or a directory with one GGUF file in it.
    ///
    /// # Errors
    /// A file is missing, damaged, at odds with the configuration, or of a kind that is not implemented.
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model, LoadError> {
        let kernel = match &options.kernel {
            Some(name) => Kernel::named(name),
            None => Kernel::from_env(),
        };
        let kernel = kernel.map_err(|error| LoadError::Kernel(error.to_string()))?;
        let Opened {
            config,
            weights: mut source,
            tokenizer: text_files,
            config_path,
            files,
            ..
        } = Opened::open(path)?;
        let tokenizer = Tokenizer::new(&text_files.tokenizer)?;
        let template = ChatTemplate::new(&text_files, options.date)?;
        let context_length = options
            .context_length_max
            .unwrap_or(usize::MAX)
            .clamp(1, config.context_length);
        if context_length.saturating_mul(config.head_dim * size_of::<f32>()) > ROPE_BYTES_MAX {
            let message = format!(
                "a context of {context_length} is too long for heads of {}",
                config.head_dim
            );
            return Err(LoadError::invalid(&config_path, message));
        }
        let (weights, digest) = rayon::join(|| Weights::load(&config, &mut *source), || Opened::digest(&files));
        drop(source); // and its buffers, before the head takes its memory
        let (weights, digest) = (weights?, digest?);
        let rope = Rope::new(&config.rope_frequencies, context_length);
        let eos = config.eos.clone();
        let forward = Forward {
            head: Head::new(kernel, weights.head()),
            config,
            weights,
            rope,
            kernel,
        };
        Ok(Model {
            forward,
            tokenizer,
            template,
            eos,
            grammars: Grammars::default(),
            context_length,
            digest,
            tokenizer_digest: text_files.digest(),
        })
    }

    /// SHA-256 of configuration and weights, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// SHA-256 of the tokenizer's files, chat template included, in hexadecimal.
    pub fn tokenizer_digest(&self) -> &str {
        &self.tokenizer_digest
    }

    /// Positions that prompt and answer share.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Tokens that the model knows.
    pub fn vocabulary(&self) -> usize {
        self.forward.config.vocabulary
    }

    /// Turns a request body into a job: renders, tokenizes, and checks every field and limit. An unset `seed` follows
    /// from `request_key`, so that a request asked again gives the same answer.
    ///
    /// # Errors
    /// The body has a field that is unknown, unsupported or out of range, or more tokens than the context.
    pub fn prepare(&self, endpoint: Endpoint, body: &Value, request_key: &str) -> Result<Job, RequestError> {
        let reader = Reader {
            tokens: self.tokens(),
            template: self.template.as_ref(),
            grammars: &self.grammars,
            context_length: self.context_length,
        };
        reader.read(endpoint, body, request_key)
    }

    /// The prompt that the chat template makes of `messages`, in OpenAI's form, the assistant's turn begun.
    ///
    /// # Errors
    /// The model has no template, a message is malformed, or the template refuses them.
    pub fn render_chat(&self, messages: &Value) -> Result<String, RequestError> {
        request::render_chat(self.template.as_ref(), messages)
    }

    /// The tokens of a text, without those that the tokenizer puts around every text.
    ///
    /// # Errors
    /// The tokenizer is damaged.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, RequestError> {
        let tokens = self.tokenizer.encode(text, false);
        tokens.map_err(|error| RequestError::invalid("text", error))
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    /// The tokenizer is damaged.
    pub fn detokenize(&self, tokens: &[u32]) -> Result<String, RequestError> {
        let text = self.tokenizer.decode(tokens);
        text.map_err(|error| RequestError::invalid("tokens", error))
    }

    /// Logits of every position, `[tokens, vocabulary]`, computed alone and outside any engine.
    ///
    /// # Errors
    /// There are no tokens, more than the context has positions, or one that the model does not know.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, RequestError> {
        let vocabulary = self.vocabulary();
        if tokens.is_empty() || tokens.len() > self.context_length {
            let message = format!(
                "{} tokens were given, but 1 to {} are possible",
                tokens.len(),
                self.context_length
            );
            return Err(RequestError::new("context_length_exceeded", "tokens", message));
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
            return Err(RequestError::invalid(
                "tokens",
                format!("token {token} is not among {vocabulary}"),
            ));
        }
        let shape = self.kv_shape(tokens.len().div_ceil(16), 16);
        let too_large = |error: KvShapeError| RequestError::new("context_length_exceeded", "tokens", error.to_string());
        let mut cache = KvCache::new(shape).map_err(too_large)?;
        let blocks: Vec<u32> = (0..shape.blocks as u32).collect();
        let (mut batch, mut space) = (Batch::default(), Workspace::default());
        let mut logits = vec![0.0; tokens.len() * vocabulary];
        let outs = logits.chunks_mut(LOGITS_CHUNK * vocabulary);
        for (index, (part, out)) in tokens.chunks(LOGITS_CHUNK).zip(outs).enumerate() {
            batch.clear();
            batch.push(part, index * LOGITS_CHUNK, 0, &blocks);
            self.forward
                .logits(self.forward.run(&batch, &mut cache, &mut space), out);
        }
        Ok(logits)
    }

    pub(crate) fn forward(&self) -> &Forward {
        &self.forward
    }

    pub(crate) fn grammars(&self) -> &Grammars {
        &self.grammars
    }

    pub(crate) fn tokens(&self) -> Tokens<'_> {
        Tokens {
            tokenizer: &self.tokenizer,
            vocabulary: self.vocabulary(),
            eos: &self.eos,
        }
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The token ends a text.
    pub(crate) fn ends_text(&self, token: u32) -> bool {
        self.eos.contains(&token)
    }

    /// The shape of a KV cache for this model.
    pub(crate) fn kv_shape(&self, blocks: usize, block_len: usize) -> KvShape {
        let Config {
            layers,
            kv_heads,
            head_dim,
            ..
        } = self.forward.config;
        KvShape {
            layers,
            blocks,
            block_len,
            kv_heads,
            head_dim,
        }
    }
}
