//! Price books and contracts are TOML files that people write; everything wrong with one is said at once,
//! each problem with its line and with what to do.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong at one place of a price book or contracts file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FileError {
    /// Which file, as it was named to us.
    pub file: String,
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong there and what to do.
    pub problem: String,
}

/// Everything that is wrong with some files, one problem or more, in the order of their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileErrors(pub Vec<FileError>);

impl std::error::Error for FileErrors {}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(FileError::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// A file's text and name, and what was found wrong with it so far.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    problems: RefCell<Vec<FileError>>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str, name: &'a str) -> Self {
        Source {
            name,
            text,
            problems: RefCell::default(),
        }
    }

    /// The file's table. Of a file that is not TOML every such place is reported, and nothing is returned.
    pub(crate) fn read(&self) -> Option<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.report(error.span().unwrap_or_default(), error.message().replace('\n', " "));
        }
        errors.is_empty().then(|| table.into_inner())
    }

    /// Takes note of a problem at the line where `span` starts.
    pub(crate) fn report(&self, span: Range<usize>, problem: impl Into<String>) {
        self.report_line(self.line(&span), problem.into());
    }

    /// [`Source::report`] where only the line is known.
    pub(crate) fn report_line(&self, line: usize, problem: String) {
        let file = self.name.to_owned();
        self.problems.borrow_mut().push(FileError { file, line, problem });
    }

    /// `result`, or nothing and its error reported.
    pub(crate) fn ok<T>(&self, span: Range<usize>, result: Result<T, impl fmt::Display>) -> Option<T> {
        result.map_err(|error| self.report(span, error.to_string())).ok()
    }

    /// The line where `span` starts, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }

    /// The span behind the last line.
    pub(crate) fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }

    /// `value`, if nothing is wrong.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T, FileErrors> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(FileErrors(problems)),
        }
    }

    /// SHA-256 of the text in hexadecimal, as `sha256sum` prints it.
    pub(crate) fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.text))
    }

    pub(crate) fn name(&self) -> &'a str {
        self.name
    }
}

/// One table of a file, read key by key: what is missing, of another type or not known is reported.
pub(crate) struct Fields<'s, 'a> {
    source: &'s Source<'a>,
    table: &'s DeTable<'a>,
    span: Range<usize>,
    known: BTreeSet<&'static str>,
}

/// A value with where it stands.
pub(crate) type At<T> = Spanned<T>;

impl<'s, 'a> Fields<'s, 'a> {
    /// `span` is where a missing key is missing.
    pub(crate) fn new(source: &'s Source<'a>, table: &'s DeTable<'a>, span: Range<usize>) -> Self {
        Fields {
            source,
            table,
            span,
            known: BTreeSet::new(),
        }
    }

    /// Where the table starts.
    pub(crate) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// SHA-256 in hexadecimal of what the table says where tokens are priced per `unit_tokens`: the same for
    /// every layout and order of keys.
    pub(crate) fn sha256(&self, unit_tokens: i64) -> String {
        let mut hash = Sha256::new();
        hash.update(unit_tokens.to_be_bytes());
        digest_table(&mut hash, self.table);
        hex::encode(hash.finalize())
    }

    /// A value that must be there; `example` is one that is right.
    fn required(&mut self, key: &'static str, example: &str) -> Option<&'s Spanned<DeValue<'a>>> {
        let value = self.optional(key);
        if value.is_none() {
            let problem = format!("missing field `{key}`; add it, like {key} = {example}");
            self.source.report(self.span(), problem);
        }
        value
    }

    fn optional(&mut self, key: &'static str) -> Option<&'s Spanned<DeValue<'a>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'a>>, wanted: &str) {
        let found = match value.get_ref() {
            DeValue::Integer(number) => format!("the number {}", number.as_str()),
            DeValue::Float(number) => format!("the number {}", number.as_str()),
            other => format!("a {}", other.type_str()),
        };
        let problem = format!("{key} must be {wanted}, but is {found}");
        self.source.report(value.span(), problem);
    }

    fn as_text(&self, key: &str, value: &'s Spanned<DeValue<'a>>) -> Option<At<&'s str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong(key, value, "a text in quotes");
        }
        text.map(|text| Spanned::new(value.span(), text))
    }

    /// A text that must be there.
    pub(crate) fn text(&mut self, key: &'static str, example: &str) -> Option<At<&'s str>> {
        let value = self.required(key, example)?;
        self.as_text(key, value)
    }

    /// A text that may be there.
    pub(crate) fn optional_text(&mut self, key: &'static str) -> Option<At<&'s str>> {
        let value = self.optional(key)?;
        self.as_text(key, value)
    }

    /// A text that must be there and be a `T`.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &'static str, example: &str) -> Option<T> {
        let text = self.text(key, example)?;
        self.source.ok(text.span(), text.get_ref().parse())
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&mut self, key: &'static str, all: &[T], name: fn(T) -> &'static str) -> Option<T> {
        let names: Vec<_> = all.iter().map(|one| name(*one)).collect();
        let text = self.text(key, &format!("{:?}", names[0]))?;
        let found = all.iter().copied().find(|one| name(*one) == *text.get_ref());
        if found.is_none() {
            let problem = format!("{key} must be one of {}, but is {:?}", names.join(", "), text.get_ref());
            self.source.report(text.span(), problem);
        }
        found
    }

    /// A name that goes into a table: 1 to 64 characters, no control characters.
    pub(crate) fn name(&mut self, key: &'static str, example: &str) -> Option<At<&'s str>> {
        let text = self.text(key, example)?;
        self.checked_name(key, text)
    }

    /// [`Fields::name`] that may be missing.
    pub(crate) fn optional_name(&mut self, key: &'static str) -> Option<At<&'s str>> {
        let text = self.optional_text(key)?;
        self.checked_name(key, text)
    }

    fn checked_name(&self, key: &str, text: At<&'s str>) -> Option<At<&'s str>> {
        let value = text.get_ref();
        if (1..=64).contains(&value.chars().count()) && !value.chars().any(char::is_control) {
            return Some(text);
        }
        let problem = format!("{key} must have 1 to 64 characters and no control characters");
        self.source.report(text.span(), problem);
        None
    }

    /// A moment that must be there.
    pub(crate) fn time(&mut self, key: &'static str) -> Option<At<jiff::Timestamp>> {
        let text = self.text(key, "\"2026-10-01T00:00:00Z\"")?;
        self.as_time(key, &text)
    }

    /// A moment that may be there.
    pub(crate) fn optional_time(&mut self, key: &'static str) -> Option<At<jiff::Timestamp>> {
        let text = self.optional_text(key)?;
        self.as_time(key, &text)
    }

    fn as_time(&self, key: &str, text: &At<&str>) -> Option<At<jiff::Timestamp>> {
        let value = text.get_ref();
        let time = value
            .parse()
            .map_err(|_| format!("{key} must be a moment like \"2026-10-01T00:00:00Z\", but is {value:?}"));
        let time = self.source.ok(text.span(), time)?;
        Some(Spanned::new(text.span(), time))
    }

    /// A whole number that must be there.
    pub(crate) fn integer(&mut self, key: &'static str, example: &str) -> Option<At<i64>> {
        let value = self.required(key, example)?;
        self.as_integer(key, value)
    }

    /// A whole number that may be there.
    pub(crate) fn optional_integer(&mut self, key: &'static str) -> Option<At<i64>> {
        let value = self.optional(key)?;
        self.as_integer(key, value)
    }

    fn as_integer(&self, key: &str, value: &Spanned<DeValue<'a>>) -> Option<At<i64>> {
        let number = value.get_ref().as_integer();
        let number = number.and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
        if number.is_none() {
            self.wrong(key, value, "a whole number below 9.2e18");
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    /// The tables of a list `[[key]]`, or `key = [{ … }]`; none if it is not there.
    pub(crate) fn list(&mut self, key: &'static str) -> Option<At<Vec<Fields<'s, 'a>>>> {
        let value = self.optional(key)?;
        self.tables_of(key, value)
    }

    /// The lists of tables in the table `key`, by the names they have in it.
    pub(crate) fn lists(&mut self, key: &'static str, example: &str) -> Vec<(&'s str, At<Vec<Fields<'s, 'a>>>)> {
        let Some(value) = self.required(key, example) else {
            return Vec::new();
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, value, &format!("a table, like {key} = {example}"));
            return Vec::new();
        };
        let lists = table
            .iter()
            .filter_map(|(name, list)| Some((name.get_ref().as_ref(), self.tables_of(name.get_ref(), list)?)));
        lists.collect()
    }

    fn tables_of(&self, key: &str, value: &'s Spanned<DeValue<'a>>) -> Option<At<Vec<Fields<'s, 'a>>>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, "a list of tables");
            return None;
        };
        let mut tables = Vec::new();
        for item in array.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Fields::new(self.source, table, item.span())),
                None => self.wrong(key, item, "a list of tables"),
            }
        }
        Some(Spanned::new(value.span(), tables))
    }

    /// Reports every key that nobody asked for.
    pub(crate) fn finish(self) {
        for (key, _) in self
            .table
            .iter()
            .filter(|(key, _)| !self.known.contains(key.get_ref().as_ref()))
        {
            let known: Vec<_> = self.known.iter().copied().collect();
            let problem = format!(
                "unknown field `{}`; remove it, or write one of {}",
                key.get_ref().chars().take(64).collect::<String>(),
                known.join(", ")
            );
            self.source.report(key.span(), problem);
        }
    }
}

/// Keys come sorted; each part goes behind its kind and its length, so that no two values collide.
fn digest_table(hash: &mut Sha256, table: &DeTable<'_>) {
    digest_part(hash, b't', table.len().to_string().as_bytes());
    for (key, value) in table {
        digest_part(hash, b'k', key.get_ref().as_bytes());
        digest_value(hash, value.get_ref());
    }
}

fn digest_value(hash: &mut Sha256, value: &DeValue<'_>) {
    match value {
        DeValue::Table(table) => digest_table(hash, table),
        DeValue::Array(array) => {
            digest_part(hash, b'a', array.len().to_string().as_bytes());
            array.iter().for_each(|item| digest_value(hash, item.get_ref()));
        }
        DeValue::String(text) => digest_part(hash, b's', text.as_bytes()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => digest_part(hash, b'i', number.to_string().as_bytes()),
            Err(_) => digest_part(hash, b'n', number.as_str().as_bytes()),
        },
        DeValue::Float(number) => digest_part(hash, b'f', number.as_str().as_bytes()),
        DeValue::Boolean(value) => digest_part(hash, b'b', value.to_string().as_bytes()),
        DeValue::Datetime(time) => digest_part(hash, b'd', time.to_string().as_bytes()),
    }
}

fn digest_part(hash: &mut Sha256, kind: u8, part: &[u8]) {
    hash.update([kind]);
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}
