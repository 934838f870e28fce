//! Chat templates, rendered as `transformers` renders them.
//!
//! Jinja with `trim_blocks` and `lstrip_blocks`, Python's string and dict methods, and the functions that templates of
//! Hugging Face expect: `raise_exception`, `strftime_now`, and a `tojson` that escapes nothing. A template has a budget
//! of instructions, and `strftime_now` knows no other day than the one it is given.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::guard::{Panicked, guard};
use crate::model::{LoadError, TextFile, TokenizerFiles};

const NAME: &str = "chat_template";
/// Instructions of one rendering; the longest templates in use take some thousand per message.
const FUEL: u64 = 10_000_000;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A compiled template with the special tokens that it may name.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    special: Special,
}

/// Names of special tokens in `tokenizer_config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
struct Special {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
}

/// A token is written as text, or as an object with its `content`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

#[derive(Default, Deserialize)]
struct TokenizerConfig {
    #[serde(flatten)]
    special: Special,
    chat_template: Option<Source>,
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    One(String),
    Many(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl ChatTemplate {
    /// The template of `chat_template.jinja`, else of `tokenizer_config.json`. None if the model has none.
    pub(crate) fn new(files: &TokenizerFiles, date: Option<(u16, u8, u8)>) -> Result<Option<ChatTemplate>, LoadError> {
        let config = match &files.config {
            None => TokenizerConfig::default(),
            Some(TextFile { path, bytes }) => {
                serde_json::from_slice(bytes).map_err(|error| LoadError::invalid(path, error.to_string()))?
            }
        };
        let source = match (&files.template, &files.config) {
            (Some(TextFile { path, bytes }), _) => {
                let text = String::from_utf8(bytes.clone());
                Some((path, text.map_err(|error| LoadError::invalid(path, error.to_string()))?))
            }
            (None, Some(file)) => config
                .chat_template
                .and_then(Source::into_text)
                .map(|text| (&file.path, text)),
            (None, None) => None,
        };
        source
            .map(|(path, source)| ChatTemplate::compile(path, source, config.special, date))
            .transpose()
    }

    fn compile(
        path: &Path,
        source: String,
        special: Special,
        date: Option<(u16, u8, u8)>,
    ) -> Result<ChatTemplate, LoadError> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| LoadError::invalid(path, error.to_string()))?);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", move |format: &str| strftime(date, format));
        let compiled = call(|| environment.add_template_owned(NAME, source));
        compiled.map_err(|error| LoadError::invalid(path, format!("chat template: {error}")))?;
        Ok(ChatTemplate { environment, special })
    }

    /// The prompt of a conversation, up to where the assistant's next words begin.
    pub(crate) fn render(&self, messages: &serde_json::Value) -> Result<String, String> {
        let Special {
            bos_token,
            eos_token,
            pad_token,
            unk_token,
        } = &self.special;
        let text = |token: &Option<Token>| token.as_ref().map_or(Value::UNDEFINED, Token::value);
        let context = context! {
            messages => Value::from(Serde(messages)), add_generation_prompt => true, tools => (), documents => (),
            bos_token => text(bos_token), eos_token => text(eos_token),
            pad_token => text(pad_token), unk_token => text(unk_token),
        };
        call(|| self.environment.get_template(NAME)?.render(context))
    }
}

impl Source {
    fn into_text(self) -> Option<String> {
        match self {
            Source::One(text) => Some(text),
            Source::Many(all) => {
                let default = all.into_iter().find(|named| named.name == "default");
                default.map(|named| named.template)
            }
        }
    }
}

impl Token {
    fn value(&self) -> Value {
        match self {
            Token::Text(text) | Token::Object { content: text } => Value::from(text.as_str()),
        }
    }
}

/// Calls the library. The error is one line.
fn call<T>(library: impl FnOnce() -> Result<T, Error>) -> Result<T, String> {
    match guard(library) {
        Ok(returned) => returned.map_err(|error| error.to_string()),
        Err(Panicked) => Err("it made the library panic; simplify it".to_owned()),
    }
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()))
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let invalid = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let mut bytes = Vec::new();
    match indent.filter(|indent| *indent <= 16) {
        Some(indent) => {
            let spaces = vec![b' '; indent];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
                .map_err(invalid)?;
        }
        None => {
            value
                .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter))
                .map_err(invalid)?;
        }
    }
    Ok(Value::from(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Puts a space behind `,` and `:`.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Formats the day given at load.
fn strftime(date: Option<(u16, u8, u8)>, format: &str) -> Result<String, Error> {
    let error = |message: String| Err(Error::new(ErrorKind::InvalidOperation, message));
    let Some((year, month, day)) = date else {
        return error(
            "the chat template asks for today's date, and none was given when the model was loaded".to_owned(),
        );
    };
    let Some(name) = MONTHS.get(usize::from(month).wrapping_sub(1)) else {
        return error(format!("month {month} of the date given at load does not exist"));
    };
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (c, false) => text.push(c),
            (_, true) => match chars.next() {
                Some('Y') => text.push_str(&format!("{year:04}")),
                Some('m') => text.push_str(&format!("{month:02}")),
                Some('d') => text.push_str(&format!("{day:02}")),
                Some('B') => text.push_str(name),
                Some('b') => text.push_str(&name[..3]),
                Some('%') => text.push('%'),
                other => {
                    return error(format!(
                        "strftime_now knows %Y %m %d %B %b %%, not %{}",
                        other.unwrap_or(' ')
                    ));
                }
            },
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, date: Option<(u16, u8, u8)>) -> Result<String, String> {
        let special = Special {
            bos_token: Some(Token::Text("<s>".to_owned())),
            ..Special::default()
        };
        let template = ChatTemplate::compile(Path::new("t"), source.to_owned(), special, date).unwrap();
        template.render(
            &json!([{ "role": "user", "content": " <hi> & \"you\" " }, { "role": "assistant", "content": "ö" }]),
        )
    }

    #[test]
    fn blocks_swallow_their_lines() {
        let source = "{{ bos_token }}\n  {% for message in messages %}\n[{{ message['role'] }}]\n  {% endfor %}\nend\n";
        assert_eq!(render(source, None).unwrap(), "<s>\n[user]\n[assistant]\nend");
    }

    #[test]
    fn python_methods_and_json_work_and_nothing_is_escaped() {
        let source = "{{ messages[0]['content'].strip() }}|{{ messages | tojson }}|{{ messages[1].content | tojson }}";
        let expected = r#"<hi> & "you"|[{"role": "user", "content": " <hi> & \"you\" "}, {"role": "assistant", "content": "ö"}]|"ö""#;
        assert_eq!(render(source, None).unwrap(), expected);
    }

    #[test]
    fn the_date_is_the_one_given_or_an_error() {
        let source = "{{ strftime_now('%d %b %Y, %B %%') }}";
        assert_eq!(render(source, Some((2026, 11, 4))).unwrap(), "04 Nov 2026, November %");
        assert!(render(source, None).unwrap_err().contains("date"));
    }

    #[test]
    fn templates_can_refuse_and_cannot_run_for_ever() {
        assert!(
            render("{{ raise_exception('roles must alternate') }}", None)
                .unwrap_err()
                .contains("roles must alternate")
        );
        let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = a %}{% endfor %}{% endfor %}";
        assert!(render(endless, None).unwrap_err().contains("fuel"));
    }
}
