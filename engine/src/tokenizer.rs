//! Text to tokens and back.
//!
//! Tokens are not whole characters, so [`Detokenizer`] holds text back until the bytes of a character are complete,
//! and looks for stop strings in the text rather than in the tokens.

use tokenizers::DecoderWrapper;

use crate::completion::TokenBytes;
use crate::guard::{Panicked, guard};
use crate::model::{LoadError, TextFile};

/// What a decoder writes for bytes that are not yet a character.
const REPLACEMENT: char = '\u{fffd}';
/// Bytes of the longest character in UTF-8.
const CHARACTER_LEN_MAX: usize = 4;

/// A `tokenizer.json`.
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Bytes of the longest token.
    token_bytes_max: usize,
    spelling: Spelling,
    anchor: Option<Anchor>,
}

/// A letter to decode other tokens behind. Many decoders take a space from the front of whatever they are given, which
/// is right for a whole text and wrong for the words behind a prompt.
struct Anchor {
    token: u32,
    text: String,
}

/// How the vocabulary spells the bytes of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// In GPT-2's alphabet of bytes.
    ByteLevel,
    /// As text with `▁` for a space, single bytes as `<0x0A>`.
    SentencePiece,
    /// In whatever way its decoder reads.
    Other,
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`.
    pub(crate) fn new(file: &TextFile) -> Result<Tokenizer, LoadError> {
        let TextFile { path, bytes } = file;
        let invalid = |error: tokenizers::Error| LoadError::invalid(path, error.to_string());
        // Not left to the library, which panics on what is not JSON, and on strings that are not UTF-8.
        let json: Result<serde_json::Value, _> = serde_json::from_slice(bytes);
        json.map_err(|error| LoadError::invalid(path, error.to_string()))?;
        let mut inner = call(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(invalid)?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        let token_bytes_max = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(0);
        let spelling = match inner.get_decoder() {
            Some(DecoderWrapper::Sequence(parts)) => parts.get_decoders().iter().find_map(spelling),
            Some(decoder) => spelling(decoder),
            None => None,
        };
        let mut tokenizer = Tokenizer {
            inner,
            token_bytes_max,
            spelling: spelling.unwrap_or(Spelling::Other),
            anchor: None,
        };
        tokenizer.anchor = tokenizer.find_anchor();
        Ok(tokenizer)
    }

    /// The first token that is letters and is decoded as letters, whatever stands before it.
    fn find_anchor(&self) -> Option<Anchor> {
        let letters = |text: &str| !text.is_empty() && text.chars().all(char::is_alphabetic);
        let vocabulary = self.inner.get_vocab_size(true) as u32;
        (0..vocabulary).find_map(|token| {
            if !letters(&self.inner.id_to_token(token)?) || self.is_special(token) {
                return None;
            }
            let text = self.decode(&[token]).ok().filter(|text| letters(text))?;
            let twice = self.decode(&[token, token]).ok()?;
            (twice.len() > text.len() && twice.starts_with(&text)).then_some(Anchor { token, text })
        })
    }

    /// Tokens of a text; `special` adds those that the tokenizer puts around every text, such as the one that begins it.
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let encoding = call(|| self.inner.encode_fast(text, special)).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The fewest tokens that a text of this length can have.
    pub(crate) fn tokens_min(&self, text_len: usize) -> usize {
        text_len.checked_div(self.token_bytes_max).unwrap_or(0)
    }

    /// The text of tokens, without special ones. Tokens that the tokenizer does not know are skipped.
    pub(crate) fn decode(&self, tokens: &[u32]) -> Result<String, String> {
        if tokens.is_empty() {
            return Ok(String::new()); // some decoders panic on nothing
        }
        call(|| self.inner.decode(tokens, true)).map_err(|error| error.to_string())
    }

    /// The token is a mark, such as the one that ends a text, and stands for no text.
    pub(crate) fn is_special(&self, token: u32) -> bool {
        let written = self.inner.id_to_token(token);
        written.is_some_and(|written| self.inner.get_added_vocabulary().is_special_token(&written))
    }

    /// The bytes of one token, special or not.
    pub(crate) fn token_bytes(&self, token: u32) -> TokenBytes {
        let written = self.inner.id_to_token(token).unwrap_or_default();
        if self.is_special(token) {
            return TokenBytes(written.into_bytes());
        }
        let spelled = match self.spelling {
            Spelling::ByteLevel => written.chars().map(byte_of).collect(),
            Spelling::SentencePiece => Some(match single_byte(&written) {
                Some(byte) => vec![byte],
                None => written.replace('▁', " ").into_bytes(),
            }),
            Spelling::Other => None,
        };
        TokenBytes(spelled.unwrap_or_else(|| self.decode_behind_anchor(token).unwrap_or(written).into_bytes()))
    }

    /// What a token adds to a text.
    fn decode_behind_anchor(&self, token: u32) -> Option<String> {
        let Some(anchor) = &self.anchor else {
            return self.decode(&[token]).ok();
        };
        let with = self.decode(&[anchor.token, token]).ok()?;
        with.strip_prefix(&anchor.text).map(str::to_owned)
    }

    /// Where each token of a whole text begins in it, in bytes. The text may spell special tokens out, and lacks the space
    /// that SentencePiece puts in front.
    pub(crate) fn starts(&self, tokens: &[u32], text: &str) -> Result<Vec<usize>, String> {
        let mut written = Detokenizer::default();
        let mut ends = Vec::with_capacity(tokens.len());
        for &token in tokens {
            written.push(self, token)?;
            ends.push(written.text().len());
        }
        let mut space_is_due = written.text() != text;
        let (mut at, mut shown) = (0, 0);
        let mut starts = Vec::with_capacity(tokens.len());
        for (&token, end) in tokens.iter().zip(ends) {
            starts.push(at);
            let follows = |added: &str| text.get(at..).is_some_and(|rest| rest.starts_with(added));
            let added = &written.text()[shown..end];
            at += match added.strip_prefix(' ') {
                _ if self.is_special(token) => {
                    let mark = self.inner.id_to_token(token).unwrap_or_default();
                    if follows(&mark) { mark.len() } else { 0 }
                }
                Some(rest) if follows(rest) && (space_is_due || !follows(added)) => rest.len(),
                _ => added.len(),
            };
            space_is_due &= added.is_empty();
            shown = end;
        }
        Ok(starts)
    }

    /// The token never shows in a text.
    fn is_hidden(&self, token: u32) -> bool {
        self.is_special(token) || self.inner.id_to_token(token).is_none()
    }
}

/// The spelling that a decoder reads, if it tells.
fn spelling(decoder: &DecoderWrapper) -> Option<Spelling> {
    match decoder {
        DecoderWrapper::ByteLevel(_) => Some(Spelling::ByteLevel),
        DecoderWrapper::ByteFallback(_) => Some(Spelling::SentencePiece),
        _ => None,
    }
}

/// The byte that `<0x0A>` and its like stand for.
fn single_byte(written: &str) -> Option<u8> {
    let digits = written.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Calls the library, which damaged tokenizers make panic.
fn call<T>(library: impl FnOnce() -> tokenizers::Result<T>) -> tokenizers::Result<T> {
    guard(library).unwrap_or_else(|Panicked| Err("the tokenizer is damaged: it made the library panic".into()))
}

/// The byte that a character of GPT-2's alphabet stands for (`bytes_to_unicode` in its `encoder.py`).
fn byte_of(c: char) -> Option<u8> {
    let shown = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u8::try_from(u32::from(c)).ok().filter(shown) {
        Some(byte) => Some(byte),
        None => {
            let hidden = u32::from(c).checked_sub(256)? as usize;
            (0..=u8::MAX).filter(|byte| !shown(byte)).nth(hidden)
        }
    }
}

/// The text of a growing list of tokens, as it reads behind a prompt: where the first token begins with a space, so does
/// the text, so that prompt and text together are the whole, and a constraint sees what is shown. [`Tokenizer::decode`]
/// is for whole texts, where SentencePiece takes back the space that it puts in front.
#[derive(Clone, Debug, Default)]
pub(crate) struct Detokenizer {
    tokens: Vec<u32>,
    /// Tokens from here on are decoded together, so that a decoder sees what stands before the new ones.
    context: usize,
    /// The text of the tokens before here is in `text`.
    shown: usize,
    text: String,
}

impl Detokenizer {
    /// Begins a text behind a prompt. Where the prompt ends inside a character, as token ids may, the token that
    /// completes it shows it whole.
    pub(crate) fn behind(tokenizer: &Tokenizer, prompt: &[u32]) -> Detokenizer {
        let mut text = Detokenizer::default();
        let mut bytes = Vec::new();
        for (index, &token) in prompt.iter().enumerate().rev().take(CHARACTER_LEN_MAX - 1) {
            bytes.splice(0..0, tokenizer.token_bytes(token).0);
            match std::str::from_utf8(&bytes) {
                Ok(_) => break,
                Err(error) if error.error_len().is_none() && !tokenizer.is_hidden(token) => {
                    text.begin(tokenizer);
                    text.tokens.extend(&prompt[index..]);
                    text.shown = text.tokens.len();
                    break;
                }
                Err(_) => {} // it may begin further to the left
            }
        }
        text
    }

    /// Puts the anchor before the first token.
    fn begin(&mut self, tokenizer: &Tokenizer) {
        if let (true, Some(anchor)) = (self.tokens.is_empty(), &tokenizer.anchor) {
            self.tokens.push(anchor.token);
            self.shown = 1;
        }
    }

    /// Adds a token. The error says why the tokenizer cannot turn it into text.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<(), String> {
        if tokenizer.is_hidden(token) {
            return Ok(()); // kept, a row of them would be decoded again and again
        }
        self.begin(tokenizer);
        self.tokens.push(token);
        let (with, from) = self.decode_further(tokenizer)?;
        if with.len() > from && !with.ends_with(REPLACEMENT) {
            self.text.push_str(with.get(from..).unwrap_or_default());
            self.context = self.shown;
            self.shown = self.tokens.len();
        }
        Ok(())
    }

    /// The text of what is shown and what is not, and where the latter begins in it.
    fn decode_further(&self, tokenizer: &Tokenizer) -> Result<(String, usize), String> {
        let before = tokenizer.decode(&self.tokens[self.context..self.shown])?;
        let with = tokenizer.decode(&self.tokens[self.context..])?;
        // What a prompt left unfinished is not there any more once it is completed.
        let kept = if with.starts_with(&before) {
            &before
        } else {
            before.trim_end_matches(REPLACEMENT)
        };
        Ok((with, kept.len()))
    }

    /// Adds what was held back; a character that never became whole shows as U+FFFD.
    pub(crate) fn flush(&mut self, tokenizer: &Tokenizer) -> Result<(), String> {
        let (with, from) = self.decode_further(tokenizer)?;
        self.text.push_str(with.get(from..).unwrap_or_default());
        (self.context, self.shown) = (self.tokens.len(), self.tokens.len());
        Ok(())
    }

    /// The text so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Cuts the text before the first stop string in it, if any of them is there. `from` is a length of the text at
    /// which none was.
    pub(crate) fn cut_at_stop(&mut self, stop: &[String], from: usize) -> bool {
        let find = |stop: &String| {
            let from = floor_char_boundary(&self.text, from.saturating_sub(stop.len()));
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        let Some(at) = stop.iter().filter_map(find).min() else {
            return false;
        };
        self.text.truncate(at);
        true
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// The nearest character boundary at or before `at`.
fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{Opened, TokenizerFiles};

    fn demo() -> Tokenizer {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/demo/model/debian-sections");
        Tokenizer::new(&TokenizerFiles::read(Path::new(dir)).unwrap().tokenizer).unwrap()
    }

    /// The tokenizers of two GGUF files: byte-level, and SentencePiece.
    fn of_gguf(file: &str) -> Tokenizer {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf");
        Tokenizer::new(&Opened::open(&Path::new(dir).join(file)).unwrap().tokenizer.tokenizer).unwrap()
    }

    fn detokenize(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
        let mut text = Detokenizer::default();
        for &token in tokens {
            text.push(tokenizer, token).unwrap();
            assert!(!text.text().contains(REPLACEMENT), "half a character shown");
        }
        text.flush(tokenizer).unwrap();
        text.into_text()
    }

    #[test]
    fn text_comes_back_character_by_character() {
        let tokenizers = [demo(), of_gguf("bitnet-b1.58-i2_s.gguf"), of_gguf("bitnet-i2_s.gguf")];
        for (index, tokenizer) in tokenizers.iter().enumerate() {
            for text in ["Section: libs\n", "größer → 猫🐈‍⬛", " lead", "  a  b ", "🇩🇪", ""] {
                let tokens = tokenizer.encode(text, false).unwrap();
                let space = if index == 2 && !text.is_empty() { " " } else { "" }; // SentencePiece puts one in front
                assert_eq!(detokenize(tokenizer, &tokens), format!("{space}{text}"), "{index}");
                assert_eq!(tokenizer.decode(&tokens).unwrap(), text, "{index}");
                let bytes: Vec<u8> = tokens
                    .iter()
                    .flat_map(|&token| tokenizer.token_bytes(token).0)
                    .collect();
                assert_eq!(bytes, format!("{space}{text}").as_bytes(), "{index}");
            }
        }
    }

    /// A tokenizer of whole words, with this decoder.
    fn of_words(decoder: &str, words: &[&str]) -> Tokenizer {
        let vocab: serde_json::Map<_, _> = words
            .iter()
            .zip(0..)
            .map(|(word, id)| ((*word).to_owned(), id.into()))
            .collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": serde_json::from_str::<serde_json::Value>(decoder).unwrap(),
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": words[0] },
        });
        let bytes = json.to_string().into_bytes();
        Tokenizer::new(&TextFile {
            path: "tokenizer.json".into(),
            bytes,
        })
        .unwrap()
    }

    #[test]
    fn a_space_before_the_first_word_is_shown_whatever_the_decoder() {
        let metaspace = r#"{ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true }"#;
        let sentence_piece = r#"{ "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" },
            { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }
        ] }"#;
        let word_piece = r###"{ "type": "WordPiece", "prefix": "##", "cleanup": true }"###;
        let marked = ["▁", "▁Paris", "Paris", "<0xC3>", "<0xBC>"];
        let cases = [
            (metaspace, marked, vec![1, 2, 0, 1], " ParisParis  Paris"),
            (metaspace, marked, vec![0, 0, 2], "  Paris"),
            (sentence_piece, marked, vec![1, 2, 0, 1], " ParisParis  Paris"),
            (sentence_piece, marked, vec![3, 4, 1], "ü Paris"),
            (
                word_piece,
                ["a", "Paris", "##ian", ".", "x"],
                vec![1, 2, 3, 1],
                " Parisian. Paris",
            ),
            ("null", ["a", "Paris", "x", "y", "z"], vec![1, 1], " Paris Paris"),
        ];
        for (decoder, words, tokens, expected) in cases {
            let tokenizer = of_words(decoder, &words);
            assert_eq!(detokenize(&tokenizer, &tokens), expected, "{decoder}");
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|token| tokenizer.token_bytes(*token).0)
                .collect();
            assert_eq!(
                String::from_utf8(bytes).unwrap(),
                expected,
                "{decoder}: what a constraint sees"
            );
        }
    }

    #[test]
    fn without_a_letter_to_stand_behind_texts_are_decoded_whole() {
        let tokenizer = of_words(r#"{ "type": "Fuse" }"#, &["1", "2", "-", "+", "#"]);
        assert!(tokenizer.anchor.is_none());
        assert_eq!(detokenize(&tokenizer, &[0, 2, 1]), "1-2");
    }

    #[test]
    fn hidden_tokens_neither_show_nor_pile_up() {
        let tokenizer = demo();
        let mut text = Detokenizer::default();
        let cat = tokenizer.encode("🐈", false).unwrap();
        assert!(cat.len() > 1);
        for token in cat {
            text.push(&tokenizer, token).unwrap();
            (0..1000).for_each(|_| text.push(&tokenizer, 1).unwrap());
            text.push(&tokenizer, u32::MAX).unwrap();
        }
        assert_eq!(text.text(), "🐈");
        assert!(text.tokens.len() < 10);
    }

    #[test]
    fn a_character_that_a_prompt_began_shows_whole_and_nothing_else_of_it_does() {
        for tokenizer in [demo(), of_gguf("bitnet-b1.58-i2_s.gguf"), of_gguf("bitnet-i2_s.gguf")] {
            let tokens = tokenizer.encode("ab 🐈 ü", false).unwrap();
            let cat = tokenizer.encode("ab ", false).unwrap().len();
            for split in 1..tokens.len() {
                let (prompt, answer) = tokens.split_at(split);
                let mut text = Detokenizer::behind(&tokenizer, prompt);
                answer.iter().for_each(|&token| text.push(&tokenizer, token).unwrap());
                let shown = text.into_text();
                assert!("ab 🐈 ü".ends_with(&shown), "{split}: {shown:?}");
                assert!(split > cat + 1 || shown.contains('🐈'), "{split}: {shown:?}");
            }
            let (prompt, _) = tokens.split_at(cat + 2);
            let mut text = Detokenizer::behind(&tokenizer, prompt);
            for token in tokenizer.encode("ab", false).unwrap() {
                text.push(&tokenizer, token).unwrap();
            }
            assert_eq!(text.text().trim_start(), "ab", "what is not completed is the prompt's");
        }
    }

    #[test]
    fn tokens_begin_where_their_text_does() {
        for (index, tokenizer) in [demo(), of_gguf("bitnet-b1.58-i2_s.gguf"), of_gguf("bitnet-i2_s.gguf")]
            .iter()
            .enumerate()
        {
            for text in ["Section: libs\n", " lead", "größer 🐈 a", "<s>a</s> b"] {
                let tokens = tokenizer.encode(text, true).unwrap();
                let starts = tokenizer.starts(&tokens, text).unwrap();
                assert_eq!(starts.len(), tokens.len());
                for (i, (&token, &start)) in tokens.iter().zip(&starts).enumerate() {
                    let TokenBytes(bytes) = tokenizer.token_bytes(token);
                    let Ok(written) = std::str::from_utf8(&bytes) else {
                        continue;
                    };
                    let rest = &text[start..];
                    let found = rest.starts_with(written) || rest.starts_with(written.trim_start());
                    let is_mark = tokenizer.is_special(token);
                    assert!(
                        found || is_mark,
                        "{index}: token {i} {written:?} at {start} of {text:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_unfinished_character_shows_only_at_the_end() {
        let tokenizer = demo();
        let mut tokens = tokenizer.encode("a🐈", false).unwrap();
        tokens.pop();
        assert!(detokenize(&tokenizer, &tokens).starts_with("a\u{fffd}"));
    }

    #[test]
    fn a_stop_string_is_found_across_tokens_and_cut() {
        let tokenizer = demo();
        let mut text = Detokenizer::default();
        let stop = ["kernel-mod".to_owned(), "\n".to_owned()];
        let mut stopped = Vec::new();
        for token in tokenizer.encode("x linux-kernel-modules\n", false).unwrap() {
            let from = text.text().len();
            text.push(&tokenizer, token).unwrap();
            stopped.push(text.cut_at_stop(&stop, from));
            if stopped.last() == Some(&true) {
                break;
            }
        }
        assert_eq!(text.text(), "x linux-");
        assert!(stopped.len() > 2, "the stop string spans tokens");
    }

    #[test]
    fn special_tokens_are_known_and_not_shown() {
        let tokenizer = demo();
        let tokens = tokenizer.encode("a", true).unwrap();
        assert_eq!(tokens[0], 1);
        assert_eq!(tokenizer.decode(&tokens).unwrap(), "a");
        assert_eq!(tokenizer.token_bytes(1).0, b"<s>");
    }

    #[test]
    fn a_broken_file_is_named() {
        for text in [r#"{ "model": 3 }"#, r#"{ "decoder": { 1: 2 } }"#, ""] {
            let file = TextFile {
                path: "tokenizer.json".into(),
                bytes: text.into(),
            };
            let error = Tokenizer::new(&file).err().unwrap().to_string();
            assert!(error.contains("tokenizer.json"), "{error}");
        }
    }
}
