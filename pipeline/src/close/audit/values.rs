//! Stored JSON against what the ledger makes: invoice by invoice, line by line, value by value.

use std::collections::BTreeMap;

use billing::invoice::Invoice;
use serde::Serialize;
use serde_json::Value;

pub(super) fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).expect("what a month is closed as has text for its names")
}

/// Where the two differ, each as `place is X, but the ledger makes it Y`.
pub(super) fn differences(stored: &Value, made: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", stored, made, &mut found);
    found
}

fn compare(place: &str, stored: &Value, made: &Value, found: &mut Vec<String>) {
    let below = |name: &str| match place {
        "" => name.to_owned(),
        place => format!("{place}.{name}"),
    };
    match (stored, made) {
        (Value::Object(stored), Value::Object(made)) => {
            let mut names: Vec<_> = stored.keys().chain(made.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let of = |object: &serde_json::Map<String, Value>| object.get(name).cloned().unwrap_or_default();
                compare(&below(name), &of(stored), &of(made), found);
            }
        }
        (Value::Array(stored), Value::Array(made)) if stored.len() == made.len() => {
            for (index, (stored, made)) in stored.iter().zip(made).enumerate() {
                compare(&format!("{place}[{index}]"), stored, made, found);
            }
        }
        _ if stored == made => {}
        _ => found.push(format!("{place} is {stored}, but the ledger makes it {made}")),
    }
}

/// What in the stored invoices, one a line, is not what the ledger makes. With `usage_only`, fees, credits and
/// what stands above the lines are left out.
pub(super) fn invoices(stored: &[u8], made: &[Invoice], usage_only: bool) -> Vec<String> {
    let mut problems = Vec::new();
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    // A line that is what the ledger makes to the byte needs no second look.
    let made = made
        .iter()
        .map(|invoice| serde_json::to_vec(invoice).unwrap_or_default());
    let mut unseen: BTreeMap<Vec<u8>, bool> = made.map(|line| (line, true)).collect();
    let lines = stored.split(|byte| *byte == b'\n').zip(1..);
    for (line, place) in lines.filter(|(line, _)| !line.is_empty()) {
        if unseen.get_mut(line).is_some_and(std::mem::take) {
            continue;
        }
        match serde_json::from_slice::<Invoice>(line).map(|invoice| value(&invoice)) {
            Ok(invoice) => {
                let key = key(&invoice);
                let is_repeated = unseen.contains_key(line);
                let pair = pairs.entry(key.clone()).or_default();
                if is_repeated || pair.stored.is_some() {
                    let number = text(&invoice, "number");
                    problems.push(format!("line {place}: {key} has a second invoice, {number}"));
                } else {
                    pair.stored = Some((place, invoice));
                }
            }
            Err(error) => problems.push(format!("line {place} cannot be read: {error}")),
        }
    }
    for (line, _) in unseen.into_iter().filter(|(_, unseen)| *unseen) {
        if let Ok(invoice) = serde_json::from_slice::<Value>(&line) {
            let pair = pairs.entry(key(&invoice)).or_default();
            pair.made = Some(invoice);
        }
    }
    for (of, Pair { stored, made }) in pairs {
        let number = |invoice: &Value| text(invoice, "number");
        match (stored, made) {
            (Some((place, stored)), Some(made)) => {
                let found = invoice(&of, stored, made, usage_only);
                if found.is_empty() && !usage_only {
                    problems.push(format!("line {place}: the invoice of {of} is not written as it was"));
                }
                problems.extend(found);
            }
            (Some((_, stored)), None) if has_lines(&stored, usage_only) => {
                problems.push(format!(
                    "invoice {} of {of} does not follow from the ledger",
                    number(&stored)
                ));
            }
            (None, Some(made)) if has_lines(&made, usage_only) => {
                problems.push(format!(
                    "lacks invoice {} of {of}, which the ledger makes",
                    number(&made)
                ));
            }
            _ => {}
        }
    }
    problems
}

/// Invoices of one tenant in one currency that are not the same to the byte.
#[derive(Default)]
struct Pair {
    /// With the number of its line.
    stored: Option<(usize, Value)>,
    made: Option<Value>,
}

fn key(invoice: &Value) -> String {
    format!("{} in {}", text(invoice, "tenant_id"), text(invoice, "currency"))
}

fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn has_lines(invoice: &Value, usage_only: bool) -> bool {
    let is_taken = |line: &Value| !usage_only || !line["sku"].is_null();
    !usage_only
        || invoice["lines"]
            .as_array()
            .is_some_and(|lines| lines.iter().any(is_taken))
}

fn invoice(of: &str, mut stored: Value, mut made: Value, usage_only: bool) -> Vec<String> {
    let place = format!("invoice {} of {of}", text(&stored, "number"));
    let mut problems = Vec::new();
    let mut pairs: BTreeMap<String, [Option<Value>; 2]> = BTreeMap::new();
    for (side, invoice) in [&mut stored, &mut made].into_iter().enumerate() {
        for line in invoice["lines"].as_array_mut().map(std::mem::take).unwrap_or_default() {
            if usage_only && line["sku"].is_null() {
                continue;
            }
            let held = &mut pairs.entry(text(&line, "external_id")).or_default()[side];
            if held.is_some() {
                let (line, amount) = (line_name(&line), text(&line, "amount"));
                problems.push(format!("{place} charges line {line} again: {amount}"));
            } else {
                *held = Some(line);
            }
        }
    }
    for (_, pair) in pairs {
        match pair {
            [Some(stored), Some(made)] => {
                let found = differences(&stored, &made);
                if !found.is_empty() {
                    problems.push(format!("{place}, line {}: {}", line_name(&made), found.join("; ")));
                }
            }
            [Some(stored), None] => {
                let (line, amount) = (line_name(&stored), text(&stored, "amount"));
                problems.push(format!(
                    "{place}, line {line}: charges {amount}, but does not follow from the ledger"
                ));
            }
            [None, Some(made)] => {
                let (line, amount) = (line_name(&made), text(&made, "amount"));
                problems.push(format!("{place} lacks line {line}: the ledger makes it {amount}"));
            }
            [None, None] => {}
        }
    }
    let found = differences(&stored, &made);
    if !usage_only && !found.is_empty() {
        problems.push(format!("{place}: {}", found.join("; ")));
    }
    problems
}

fn line_name(line: &Value) -> String {
    let what = if line["sku"].is_null() { "description" } else { "sku" };
    format!(
        "{} of {} ({})",
        text(line, what),
        text(line, "charge_period"),
        text(line, "external_id")
    )
}
