//! The tokenizer of a GGUF file, as the `tokenizer.json` that it once was.
//!
//! Two kinds: `gpt2`, byte-level BPE with its merges and the name of its pre-tokenizer, and `llama`, SentencePiece BPE with a
//! score for each piece. Which name means which regular expression: `llama-vocab.cpp` of llama.cpp. How scores become merges:
//! `generate_merges` in transformers.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::model::formats::{TextFile, TokenizerFiles};

const TOKENS: &str = "tokenizer.ggml.tokens";
/// Bytes of a SentencePiece piece: its merges are sought among all of its splits.
const PIECE_LEN_MAX: usize = 256;

/// The kinds of tokens, `enum llama_token_type`.
const NORMAL: f32 = 1.0;
const UNKNOWN: f32 = 2.0;
const CONTROL: f32 = 3.0;
const USER_DEFINED: f32 = 4.0;

/// Tokens that end a turn by their text; llama.cpp takes them for such whatever else the file says.
const END_TEXTS: [&str; 6] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
];

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The files that Hugging Face would have.
pub(super) fn files(metadata: &Metadata, config: &Config) -> Result<TokenizerFiles, LoadError> {
    let vocabulary = Vocabulary::read(metadata, config.vocabulary)?;
    let json = match metadata.required("tokenizer.ggml.model", metadata.text("tokenizer.ggml.model")?)? {
        "gpt2" => byte_level(&vocabulary)?,
        "llama" => sentence_piece(&vocabulary)?,
        other => {
            let message = format!("tokenizer.ggml.model is {other:?}, but only \"gpt2\" and \"llama\" are supported");
            return Err(LoadError::unsupported(&metadata.path, message));
        }
    };
    let mut settings = Map::new();
    for (name, key) in [
        ("bos_token", "bos"),
        ("eos_token", "eos"),
        ("unk_token", "unknown"),
        ("pad_token", "padding"),
    ] {
        if let Some((_, text)) = vocabulary.special(key)? {
            settings.insert(name.to_owned(), text.into());
        }
    }
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        settings.insert("chat_template".to_owned(), template.into());
    }
    let file = |name: &str, json: Value| {
        let path: PathBuf = metadata.path.join(name); // says in errors which file it comes from
        TextFile {
            path,
            bytes: json.to_string().into_bytes(),
        }
    };
    Ok(TokenizerFiles {
        tokenizer: file("tokenizer.json", json),
        config: Some(file("tokenizer_config.json", Value::Object(settings))),
        template: None,
    })
}

/// The tokens that end a text.
pub(super) fn end_tokens(metadata: &Metadata) -> Result<Vec<u32>, LoadError> {
    let mut found = Vec::new();
    for key in ["eos", "eot", "eom"] {
        let id = metadata.integer(&format!("tokenizer.ggml.{key}_token_id"))?;
        found.extend(id.and_then(|id| u32::try_from(id).ok()));
    }
    let tokens = metadata.texts(TOKENS)?.unwrap_or_default();
    let types = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
    for (id, (token, _)) in tokens
        .iter()
        .zip(types)
        .enumerate()
        .filter(|(_, (_, kind))| **kind == CONTROL)
    {
        if END_TEXTS.contains(&token.as_str()) {
            found.push(id as u32);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The tokens of a file.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: &'a [String],
    types: &'a [f32],
    ids: HashMap<&'a str, u32>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata, rows: usize) -> Result<Vocabulary<'a>, LoadError> {
        let tokens = metadata.required(TOKENS, metadata.texts(TOKENS)?)?;
        let types = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_default();
        let invalid = |message: String| Err(LoadError::invalid(&metadata.path, message));
        if tokens.len() > rows {
            return invalid(format!(
                "{TOKENS} has {} tokens, but token_embd.weight has {rows} rows",
                tokens.len()
            ));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            return invalid(format!(
                "tokenizer.ggml.token_type has {} types for {} tokens",
                types.len(),
                tokens.len()
            ));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(twice) = ids.insert(token.as_str(), id as u32) {
                return invalid(format!("{TOKENS} has {token:?} as token {twice} and as token {id}"));
            }
        }
        Ok(Vocabulary {
            metadata,
            tokens,
            types,
            ids,
        })
    }

    /// Id and text of a token that the metadata names.
    fn special(&self, key: &str) -> Result<Option<(u32, &'a str)>, LoadError> {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let Some(id) = self.metadata.integer(&key)? else {
            return Ok(None);
        };
        match usize::try_from(id).ok().and_then(|id| self.tokens.get(id)) {
            Some(token) => Ok(Some((id as u32, token))),
            None => {
                let message = format!("{key} is {id}, but there are {} tokens", self.tokens.len());
                Err(LoadError::invalid(&self.metadata.path, message))
            }
        }
    }

    /// In the order of the ids, for the file's digest depends on it.
    fn vocab(&self) -> Map<String, Value> {
        let tokens = self.tokens.iter().enumerate();
        tokens.map(|(id, token)| (token.clone(), id.into())).collect()
    }

    /// Tokens that are found in a text before anything else happens to it.
    fn added_tokens(&self) -> Vec<Value> {
        let added = |(id, (content, kind)): (usize, (&String, &f32))| {
            let special = [UNKNOWN, CONTROL].contains(kind);
            (special || *kind == USER_DEFINED).then(|| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        self.tokens
            .iter()
            .zip(self.types)
            .enumerate()
            .filter_map(added)
            .collect()
    }

    /// Puts the token that begins a text before it, and the one that ends it behind it, where the metadata wants that.
    fn post_processor(&self, begin_by_default: bool) -> Result<Value, LoadError> {
        let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        let mut special = Map::new();
        for (key, add, by_default) in [
            ("bos", "tokenizer.ggml.add_bos_token", begin_by_default),
            ("eos", "tokenizer.ggml.add_eos_token", false),
        ] {
            if !self.metadata.bool(add)?.unwrap_or(by_default) {
                continue;
            }
            if let Some((id, text)) = self.special(key)? {
                let at = if key == "bos" { 0 } else { single.len() };
                single.insert(at, json!({ "SpecialToken": { "id": text, "type_id": 0 } }));
                special.insert(text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] }));
            }
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let pair = [single.clone(), single.clone()].concat();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
    }
}

/// Byte-level BPE.
fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<Value, LoadError> {
    let metadata = vocabulary.metadata;
    let (pattern, is_llama_3) = match metadata.text("tokenizer.ggml.pre")?.unwrap_or("gpt-2") {
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "falcon_e" | "pixtral" => (Some(LLAMA_3), true),
        "smaug-bpe" | "dbrx" => (Some(LLAMA_3), false),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (Some(QWEN_2), false),
        "gpt-2" | "phi-2" | "mpt" | "olmo" => (None, false),
        other => {
            let message = format!(
                "tokenizer.ggml.pre is {other:?}, but only \"llama-bpe\", \"falcon3\", \"smaug-bpe\", \"qwen2\", \"gpt-2\" and their aliases are supported"
            );
            return Err(LoadError::unsupported(&metadata.path, message));
        }
    };
    let merges = metadata.required("tokenizer.ggml.merges", metadata.texts("tokenizer.ggml.merges")?)?;
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            let message = format!("tokenizer.ggml.merges has {merge:?} at {rank}, which is not two tokens");
            return Err(LoadError::invalid(&metadata.path, message));
        };
        pairs.push(json!([left, right]));
    }
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let pre_tokenizer = match pattern {
        Some(pattern) => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            byte_level(false),
        ] }),
        None => byte_level(true),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added_tokens(),
        "normalizer": null, "pre_tokenizer": pre_tokenizer,
        "post_processor": vocabulary.post_processor(is_llama_3)?, "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama_3,
            "vocab": vocabulary.vocab(), "merges": pairs,
        },
    }))
}

/// SentencePiece BPE: spaces become `▁`, one more stands before the text, and what no piece covers becomes bytes.
fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<Value, LoadError> {
    let metadata = vocabulary.metadata;
    if metadata.bool("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
        let message = "tokenizer.ggml.remove_extra_whitespaces is true, but only false is supported";
        return Err(LoadError::unsupported(&metadata.path, message));
    }
    let add_space = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let normalizer = match add_space {
        true => json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "▁" }, replace] }),
        false => replace,
    };
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if add_space {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = vocabulary.special("unknown")?.map(|(_, text)| text);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added_tokens(),
        "normalizer": normalizer, "pre_tokenizer": null,
        "post_processor": vocabulary.post_processor(true)?,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary.vocab(), "merges": merges_by_score(vocabulary)?,
        },
    }))
}

/// The merges that make each piece of two others, those of the best piece first.
fn merges_by_score(vocabulary: &Vocabulary<'_>) -> Result<Vec<[String; 2]>, LoadError> {
    let metadata = vocabulary.metadata;
    let scores_key = "tokenizer.ggml.scores";
    let scores = metadata.required(scores_key, metadata.numbers(scores_key)?)?;
    let invalid = |message: String| Err(LoadError::invalid(&metadata.path, message));
    if scores.len() != vocabulary.tokens.len() {
        return invalid(format!(
            "{scores_key} has {} scores for {} tokens",
            scores.len(),
            vocabulary.tokens.len()
        ));
    }
    let mut merges: Vec<(f32, [&str; 2])> = Vec::new();
    let is_piece = |id: usize| {
        vocabulary
            .types
            .get(id)
            .is_none_or(|kind| [NORMAL, USER_DEFINED].contains(kind))
    };
    for (id, (token, score)) in vocabulary.tokens.iter().zip(scores).enumerate() {
        if !is_piece(id) {
            continue;
        }
        if token.len() > PIECE_LEN_MAX {
            let message = format!(
                "{TOKENS} has a piece of {} bytes, but at most {PIECE_LEN_MAX} are supported",
                token.len()
            );
            return Err(LoadError::unsupported(&metadata.path, message));
        }
        let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<(u32, u32, [&str; 2])> = splits
            .filter_map(|(left, right)| Some((*vocabulary.ids.get(left)?, *vocabulary.ids.get(right)?, [left, right])))
            .collect();
        pairs.sort_unstable();
        merges.extend(pairs.into_iter().map(|(_, _, pair)| (*score, pair)));
    }
    merges.sort_by(|(a, left), (b, right)| b.total_cmp(a).then_with(|| lens(right).cmp(&lens(left))));
    Ok(merges.into_iter().map(|(_, pair)| pair.map(str::to_owned)).collect())
}

/// Characters of both parts: among merges of one score, transformers puts longer parts first.
fn lens(pair: &[&str; 2]) -> [usize; 2] {
    pair.map(|part| part.chars().count())
}
