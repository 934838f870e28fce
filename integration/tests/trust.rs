//! A controller who trusts nothing: one thing at a time is tampered with in a real store, and `bitnet report
//! reconcile` has to find it, to say where and why, and to fail.

#![forbid(unsafe_code)]

#[path = "trust/store.rs"]
mod store;
#[path = "trust/plant.rs"]
mod plant;
#[path = "trust/breaks.rs"]
mod breaks;
#[path = "trust/upkeep.rs"]
mod upkeep;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use billing::event::payload_hash;
use billing::invoice::Invoice;
use billing::money::Money;
use breaks::{Break, counts, line, sums};
use jiff::SignedDuration;
use schemas::billing::{BillingRow, EventKind};
use store::{Books, CLOSED, OPEN};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// The store that nobody tampers with.
async fn books() -> &'static Books {
    static BOOKS: OnceCell<Books> = OnceCell::const_new();
    let made = BOOKS.get_or_try_init(Books::make).await;
    made.unwrap_or_else(|error: anyhow::Error| panic!("{error:#}"))
}

const EDITED: &str = " was edited after 2026-10 was locked: SHA-256 was ";

/// Tampers with a copy of the store. Each break must have all parts of one that `plant` expects, and each of
/// these must be found. A ledger file of a closed month that was written anew is told beside it.
async fn check(plant: impl FnOnce(&Books) -> Result<Vec<Break>>) -> Result<()> {
    let books = books().await.copy()?;
    let expected = plant(&books)?;
    let run = books.bitnet(&["report", "reconcile"])?;
    let breaks = run.breaks();
    let has = |text: &str, parts: &Break| parts.iter().all(|part| text.contains(part));
    for parts in &expected {
        let found = breaks.iter().any(|text| has(text, parts));
        assert!(found, "{parts:?} is not in {breaks:#?}\n{}", run.stderr);
    }
    for text in &breaks {
        let is_expected = expected.iter().any(|parts| has(text, parts));
        assert!(
            is_expected || text.contains(EDITED),
            "{text}: not expected; {breaks:#?}"
        );
    }
    assert_eq!(run.code, Some(1), "{}", run.stderr);
    let verdict = format!("NOT reconciled: {} breaks.\n", breaks.len());
    assert!(run.stdout.ends_with(&verdict), "{verdict} {}", run.stdout);
    Ok(())
}

/// Whether a row is that of a request, of this kind.
fn of(kind: EventKind, custom_id: &str) -> impl Fn(&BillingRow) -> bool {
    move |row| row.event_kind == kind && row.custom_id.as_str() == custom_id
}

/// The row of a request, of this kind.
fn event(books: &Books, month: &str, kind: EventKind, custom_id: &str) -> Result<BillingRow> {
    let row = plant::ledger(books, month)?.into_iter().find(of(kind, custom_id));
    row.with_context(|| format!("{month} has no {} of {custom_id}", kind.as_str()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn books_that_nobody_touched_reconcile() -> Result<()> {
    let printed = books().await.printed(&["report", "reconcile"])?;
    for part in [
        "3 reversals, 2 replacements, 1 adjustments",
        "The files of 1 closed months were compared with their manifests, row by row",
        "Reconciled: the ledger says what the results say.",
    ] {
        assert!(printed.contains(part), "{part}\n{printed}");
    }
    assert!(!printed.contains("NO"), "{printed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_amount_off_by_the_twelfth_decimal_is_found() -> Result<()> {
    const FILE: &str = "rated-00000.parquet";
    let row_is_told = |(row, id): (usize, String)| {
        let place = format!("2026-10/{FILE} row {row}: event {id} of kuwaiti: contracted_output is ");
        vec![place, "000001, but the ledger makes it 0.".to_owned()]
    };
    check(|books| {
        let edited = line(["2026-10/rated-00000.parquet was edited after the month was closed"]);
        let planted = plant::add_to_rated(&books.closed(FILE), "contracted_output", "kuwaiti")?;
        Ok(vec![edited, row_is_told(planted)])
    })
    .await?;
    // By someone who knows about the manifest, too.
    check(|books| {
        let planted = plant::add_to_rated(&books.closed(FILE), "contracted_output", "kuwaiti")?;
        plant::rehash(books, FILE)?;
        Ok(vec![row_is_told(planted)])
    })
    .await?;
    for rehash in [false, true] {
        check(|books| {
            let file = books.closed("invoices.jsonl");
            let invoices = fs::read_to_string(&file)?;
            let invoices = invoices.lines().map(serde_json::from_str::<Invoice>);
            let invoices: Vec<_> = invoices.collect::<Result<_, _>>()?;
            let invoice = invoices.iter().find(|invoice| invoice.tenant_id.as_str() == "kuwaiti");
            let line = &invoice.context("an invoice")?.lines[0];
            let more = line.amount.plus(Money::from_parts(1_000_000)?)?;
            let put = |amount| format!("\"contracted\":\"{}\",\"amount\":\"{amount}\"", line.contracted);
            plant::replace(&file, &put(line.amount), &put(more))?;
            let place = format!(
                "line debian-sections/batch/input of 2026-10 ({}): amount is ",
                line.external_id
            );
            let mut expected = vec![
                vec![
                    "invoices.jsonl invoice 2026-10-000004 of kuwaiti in KWD, ".to_owned(),
                    place,
                ],
                vec!["2026-10 in KWD: the ledger rates to ".to_owned()],
            ];
            if rehash {
                plant::rehash(books, "invoices.jsonl")?;
            } else {
                expected.push(vec!["invoices.jsonl was edited after the month was closed".to_owned()]);
            }
            Ok(expected)
        })
        .await?;
    }
    Ok(())
}

/// Edits the lines of `invoices.jsonl`. The manifest has the hash that the file has then, so that only what the
/// ledger makes of it can tell.
async fn check_invoices(edit: impl FnOnce(&mut Vec<String>) -> Result<Vec<Break>>) -> Result<()> {
    check(|books| {
        let file = books.closed("invoices.jsonl");
        let mut lines: Vec<_> = fs::read_to_string(&file)?.lines().map(str::to_owned).collect();
        let expected = edit(&mut lines)?;
        fs::write(file, lines.join("\n") + "\n")?;
        plant::rehash(books, "invoices.jsonl")?;
        Ok(expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_or_one_of_its_lines_that_is_there_twice_is_found() -> Result<()> {
    const OF_KUWAITI: usize = 3;
    let edit = |lines: &mut Vec<String>, edit: fn(&mut Invoice)| {
        let mut invoice: Invoice = serde_json::from_str(&lines[OF_KUWAITI])?;
        edit(&mut invoice);
        lines[OF_KUWAITI] = serde_json::to_string(&invoice)?;
        anyhow::Ok(invoice.lines[0].external_id)
    };
    check_invoices(|lines| {
        lines.insert(2, lines[1].clone());
        Ok(vec![
            line(["2026-10/invoices.jsonl line 3: globex in USD has a second invoice, 2026-10-000002"]),
            line(["2026-10/invoices.jsonl has 6 invoices, but the manifest says 5"]),
            line(["2026-10/invoices.jsonl has invoice 2026-10-00000", " must be"]),
            line(["2026-10 in USD: the ledger rates to "]),
        ])
    })
    .await?;
    check_invoices(|lines| {
        let id = edit(lines, |invoice| invoice.lines.insert(0, invoice.lines[0].clone()))?;
        let invoice = "2026-10/invoices.jsonl invoice 2026-10-000004 of kuwaiti in KWD charges line ".to_owned();
        let again = format!("debian-sections/batch/input of 2026-10 ({id}) again: ");
        let sum = "2026-10 in KWD: the ledger rates to ";
        Ok(vec![vec![invoice, again], line([sum])])
    })
    .await?;
    check_invoices(|lines| {
        edit(lines, |invoice| invoice.lines.swap(0, 1))?;
        let told = "2026-10/invoices.jsonl line 4: the invoice of kuwaiti in KWD is not written as it was";
        Ok(vec![line([told])])
    })
    .await?;
    check_invoices(|lines| {
        let number = "\"number\":";
        lines[OF_KUWAITI] = lines[OF_KUWAITI].replacen(number, "\"number\":\"2026-10-000009\",\"number\":", 1);
        Ok(vec![
            line(["2026-10/invoices.jsonl line 4 cannot be read: duplicate field `number`"]),
            line(["2026-10/invoices.jsonl lacks invoice 2026-10-000004 of kuwaiti in KWD, which the ledger makes"]),
        ])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_event_is_found() -> Result<()> {
    let remove = |books: &Books, month: &str, custom_id: &str| {
        let row = event(books, month, EventKind::Usage, custom_id)?;
        plant::edit_ledger(books, month, |rows| {
            let before = rows.len();
            rows.retain(|row| !of(EventKind::Usage, custom_id)(row));
            rows.len() < before
        })?;
        let mut expected = sums("acme", "EUR");
        expected.push(counts(&row, 1, 0));
        anyhow::Ok((row, expected))
    };
    check(|books| Ok(remove(books, OPEN, "row-70")?.1)).await?;
    check(|books| {
        let (row, mut expected) = remove(books, CLOSED, "row-10")?;
        let charged = format!(
            "event {} of acme is charged here, but is not in the ledger",
            row.event_id
        );
        expected.push(vec!["2026-10/rated-00000.parquet row ".to_owned(), charged]);
        expected.push(line([
            "2026-10/manifest.json counts.events is 64, but the ledger makes it 63",
        ]));
        expected.push(line(["2026-10/manifest.json "]));
        expected.push(line(["/billing_events/usage_period=2026-10/", EDITED]));
        expected.push(line(["2026-10/invoices.jsonl invoice 2026-10-000001 of acme in EUR"]));
        expected.push(line(["2026-10 in EUR: the ledger rates to "]));
        Ok(expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_double_event_is_found_whatever_it_calls_itself() -> Result<()> {
    let double = |books: &Books, month: &str, custom_id: &str, change: &dyn Fn(&mut BillingRow)| {
        let row = event(books, month, EventKind::Usage, custom_id)?;
        plant::edit_ledger(books, month, |rows| {
            let again = rows.iter().find(|row| of(EventKind::Usage, custom_id)(row)).cloned();
            rows.extend(again.clone().map(|mut again| {
                change(&mut again);
                again
            }));
            again.is_some()
        })?;
        anyhow::Ok(row)
    };
    check(|books| Ok(vec![counts(&double(books, OPEN, "row-71", &|_| {})?, 1, 2)])).await?;
    check(|books| {
        Ok(vec![
            counts(&double(books, CLOSED, "row-11", &|_| {})?, 1, 2),
            line(["2026-10/manifest.json counts.repeated is 0, but the ledger makes it 1"]),
            line(["2026-10/manifest.json counts.rows is 64, but the ledger makes it 65"]),
        ])
    })
    .await?;
    check(|books| {
        let other = |row: &mut BillingRow| {
            row.output_tokens += 1;
            row.ingested_at += SignedDuration::from_secs(1);
            row.payload_hash = payload_hash(row);
        };
        let row = double(books, OPEN, "row-71", &other)?;
        let quarantined = format!("event {} of globex, ingested ", row.event_id);
        let why = "another row of this event, with other fields or of another result, came before".to_owned();
        Ok(vec![counts(&row, 1, 2), vec![quarantined, why]])
    })
    .await?;
    check(|books| {
        let row = double(books, OPEN, "row-71", &|row| row.event_id = Uuid::from_u128(7))?;
        let mut expected = sums("globex", "USD");
        expected.push(counts(&row, 1, 2));
        Ok(expected)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_another_tenant_is_found() -> Result<()> {
    for rehash in [false, true] {
        check(|books| {
            let row = event(books, OPEN, EventKind::Usage, "row-75")?;
            plant::edit_event(books, OPEN, of(EventKind::Usage, "row-75"), rehash, |row| {
                row.tenant_id = "globex".parse().expect("a tenant");
            })?;
            let mut expected = sums("acme", "EUR");
            let request = format!("result {} (acme job-of-acme row-75): ", row.result_id);
            expected.push(vec![
                request,
                "tenant_id must be \"acme\", but is \"globex\";".to_owned(),
            ]);
            if rehash {
                let contract = "globex 2026-11: the ledger names contract version acme-2026.1 of globex";
                expected.push(line([contract]));
                expected.extend(sums("globex", "EUR"));
            } else {
                let id = format!("event {} of globex, ", row.event_id);
                expected.push(vec![id, "its payload_hash is not that of its fields".to_owned()]);
            }
            Ok(expected)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_more_is_found() -> Result<()> {
    let more = |books: &Books, month: &str, custom_id: &str, rehash: bool| {
        let row = event(books, month, EventKind::Usage, custom_id)?;
        plant::edit_event(books, month, of(EventKind::Usage, custom_id), rehash, |row| {
            row.output_tokens += 1
        })?;
        let (was, is) = (row.output_tokens, row.output_tokens + 1);
        let request = format!(
            "result {} ({} {} {custom_id}): ",
            row.result_id, row.tenant_id, row.job_id
        );
        let differs = vec![request, format!("output_tokens must be \"{was}\", but is \"{is}\";")];
        anyhow::Ok((row, differs))
    };
    check(|books| {
        let (row, differs) = more(books, OPEN, "row-80", false)?;
        let mut expected = sums("acme", "EUR");
        let id = format!("event {} of acme, ", row.event_id);
        expected.push(vec![id, "its payload_hash is not that of its fields".to_owned()]);
        expected.push(differs);
        Ok(expected)
    })
    .await?;
    check(|books| {
        let (_, differs) = more(books, OPEN, "row-80", true)?;
        let sums = [["output_tokens of acme: results "], ["rated in EUR: results "]];
        Ok([vec![differs], sums.map(line).to_vec()].concat())
    })
    .await?;
    check(|books| {
        let (row, differs) = more(books, CLOSED, "row-13", true)?;
        let (was, is) = (row.output_tokens, row.output_tokens + 1);
        let place = format!(": event {} of kuwaiti: payload_hash is {}, ", row.event_id, row.payload_hash);
        let rated = vec![
            "2026-10/rated-00000.parquet row ".to_owned(),
            place,
            format!("output_tokens is {was}, but the ledger makes it {is}; list_output is "),
        ];
        let follows = [
            ["output_tokens of kuwaiti: results "],
            ["rated in KWD: results "],
            ["2026-10/invoices.jsonl invoice 2026-10-000004 of kuwaiti in KWD, line debian-sections/batch/output of 2026-10"],
            ["2026-10/invoices.jsonl invoice 2026-10-000004 of kuwaiti in KWD: adjustment is "],
            ["2026-10 in KWD: the ledger rates to "],
        ];
        Ok([vec![differs, rated], follows.map(line).to_vec()].concat())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_is_moved_to_another_region_is_found() -> Result<()> {
    check(|books| {
        let row = event(books, CLOSED, EventKind::Usage, "row-13")?;
        plant::edit_event(books, CLOSED, of(EventKind::Usage, "row-13"), true, |row| {
            row.region = "eu-north".to_owned()
        })?;
        let request = format!("result {} (kuwaiti job-of-kuwaiti row-13): ", row.result_id);
        let was = "region must be \"eu-central\", but is \"eu-north\"".to_owned();
        let rated = "region is eu-central, but the ledger makes it eu-north".to_owned();
        let invoice = "2026-10/invoices.jsonl invoice 2026-10-000004 of kuwaiti in KWD, line debian-sections/batch/";
        let regions = "rated[0].regions.eu-central is ".to_owned();
        Ok(vec![
            vec![request, was],
            vec!["2026-10/rated-00000.parquet row ".to_owned(), rated],
            vec![invoice.to_owned(), regions],
        ])
    })
    .await
}

/// What came after October was closed: the reversal and the replacement of this request's event.
const LATE: &str = "row-41";

/// A break that names a correction of it.
fn told(row: &BillingRow, problem: String) -> Break {
    let (kind, id) = (row.event_kind.as_str(), row.event_id);
    vec![format!("{kind} {id} (globex job-of-globex {LATE}): {problem}")]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reversal_that_does_not_take_its_event_back_once_is_found() -> Result<()> {
    let is_it = of(EventKind::Reversal, LATE);
    check(|books| {
        let row = event(books, CLOSED, EventKind::Reversal, LATE)?;
        plant::edit_event(books, CLOSED, &is_it, true, |row| row.output_tokens += 1)?;
        let (was, is) = (row.output_tokens, row.output_tokens + 1);
        let mut expected = told(&row, "payload_hash must be ".to_owned());
        expected.push(format!("output_tokens must be \"{was}\", but is \"{is}\""));
        Ok(vec![expected])
    })
    .await?;
    check(|books| {
        let event = |kind| event(books, CLOSED, kind, LATE);
        let (usage, row) = (event(EventKind::Usage)?, event(EventKind::Replacement)?);
        plant::edit_ledger(books, CLOSED, |rows| {
            let before = rows.len();
            rows.retain(|row| !is_it(row));
            rows.len() < before
        })?;
        let problem = format!("it stands in for event {}, which was not taken back", usage.event_id);
        Ok(vec![told(&row, problem)])
    })
    .await?;
    check(|books| {
        let row = event(books, CLOSED, EventKind::Reversal, LATE)?;
        plant::edit_ledger(books, CLOSED, |rows| {
            let again = rows.iter().find(|row| is_it(row)).cloned();
            rows.extend(again.clone());
            again.is_some()
        })?;
        Ok(vec![told(&row, "there are 2 rows of it".to_owned())])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_of_another_tenants_event_or_of_none_is_found() -> Result<()> {
    let is_it = of(EventKind::Replacement, LATE);
    check(|books| {
        let event = |kind| event(books, CLOSED, kind, LATE);
        let (usage, row) = (event(EventKind::Usage)?, event(EventKind::Replacement)?);
        plant::edit_event(books, CLOSED, &is_it, true, |row| {
            row.tenant_id = "acme".parse().expect("a tenant");
        })?;
        let row = format!("replacement {} (acme job-of-globex {LATE}): ", row.event_id);
        let problem = format!("it corrects event {}, which is of globex", usage.event_id);
        Ok(vec![vec![row, problem]])
    })
    .await?;
    check(|books| {
        let row = event(books, CLOSED, EventKind::Replacement, LATE)?;
        let unknown = Uuid::from_u128(7);
        plant::edit_event(books, CLOSED, &is_it, true, |row| row.corrects_event_id = Some(unknown))?;
        let problem = format!("it corrects event {unknown}, which is not in the ledger");
        Ok(vec![told(&row, problem)])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_a_cut_and_a_lost_file_of_a_closed_month_are_named() -> Result<()> {
    type Damage = fn(&Path) -> Result<()>;
    let damages: [Damage; 3] = [
        |file| {
            let mut bytes = fs::read(file)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Ok(fs::write(file, bytes)?)
        },
        |file| Ok(fs::write(file, &fs::read(file)?[..40])?),
        |file| Ok(fs::remove_file(file)?),
    ];
    for file in [
        "lock.json",
        "rated-00000.parquet",
        "invoices.jsonl",
        "credits.json",
        "manifest.json",
    ] {
        for damage in damages {
            let books = books().await.copy()?;
            damage(&books.closed(file))?;
            let run = books.bitnet(&["report", "reconcile"])?;
            let breaks = run.breaks();
            let is_named = breaks.iter().any(|text| text.contains(file));
            assert!(is_named, "{file}: {breaks:#?} {}", run.stderr);
            let month = "_billing/periods/2026-10/";
            assert!(breaks.iter().all(|text| text.starts_with(month)), "{file}: {breaks:#?}");
            assert_eq!(run.code, Some(1), "{}", run.stderr);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_manifest_or_lock_is_told_from_what_it_says() -> Result<()> {
    check(|books| {
        plant::replace(
            &books.closed("manifest.json"),
            "\"KWD\": \"0.472\"",
            "\"KWD\": \"0.473\"",
        )?;
        let told = "2026-10/manifest.json payable.KWD is \"0.473\", but the ledger makes it \"0.472\"";
        Ok(vec![line([told])])
    })
    .await?;
    check(|books| {
        plant::replace(&books.closed("manifest.json"), "\"format\": 2", "\"format\": 1")?;
        let told = "2026-10/manifest.json has format 1, and this version of bitnet reads and writes 2";
        Ok(vec![line([told])])
    })
    .await?;
    check(|books| {
        let hash = plant::closed_as(books, "invoices.jsonl")?;
        plant::replace(&books.closed("manifest.json"), &hash, &"0".repeat(64))?;
        let told = "2026-10/manifest.json files.invoices.jsonl.sha256 is \"0000";
        Ok(vec![line(["2026-10/invoices.jsonl was edited"]), line([told])])
    })
    .await?;
    check(|books| {
        plant::replace(
            &books.closed("lock.json"),
            "2026-11-04T00:00:00Z\",\n  \"grace",
            "2026-11-05T00:00:00Z\",\n  \"grace",
        )?;
        Ok(vec![
            line(["2026-10/lock.json was edited after the month was closed"]),
            line(["2026-10/lock.json is not what manifest.json says that the month was locked with"]),
        ])
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_the_ledger_that_cannot_be_read_is_named() -> Result<()> {
    for left in [None, Some(100), Some(0)] {
        let books = books().await.copy()?;
        let file = plant::ledger_files(&books, OPEN)?.swap_remove(0);
        match left {
            None => fs::remove_file(&file)?,
            Some(bytes) => fs::write(&file, &fs::read(&file)?[..bytes])?,
        }
        let run = books.bitnet(&["report", "reconcile"])?;
        let name = file.file_name().and_then(|name| name.to_str()).context("a name")?;
        assert!(
            run.code == Some(1) && run.stderr.contains(name),
            "{:?} {}",
            run.code,
            run.stderr
        );
    }
    Ok(())
}

/// Rates what came late and was corrected on top of the month before; a fault of that one is not put to this
/// one's charge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_closed_months_reconcile_and_only_the_edited_one_is_blamed() -> Result<()> {
    let both = books().await.copy()?;
    both.close(OPEN, "2026-12-04T00:00:00Z").await?;
    let printed = both.printed(&["report", "reconcile"])?;
    assert!(printed.contains("The files of 2 closed months"), "{printed}");
    // A contract of a new tenant does not touch what is closed.
    let grown = both.copy()?;
    grown.sign("umbrella")?;
    grown.printed(&["report", "reconcile"])?;

    let damages: [fn(&Books) -> Result<()>; 3] = [
        |books| plant::add_to_rated(&books.closed("rated-00000.parquet"), "list_input", "acme").map(drop),
        |books| plant::replace(&books.closed("lock.json"), "\"grace_hours\": 72", "\"grace_hours\": 7x"),
        |books| Ok(fs::remove_file(books.closed("invoices.jsonl"))?),
    ];
    for damage in damages {
        let books = both.copy()?;
        damage(&books)?;
        let run = books.bitnet(&["report", "reconcile"])?;
        let breaks = run.breaks();
        let of_october = |text: &&str| text.contains("_billing/periods/2026-10/");
        assert!(
            !breaks.is_empty() && breaks.iter().all(of_october),
            "{breaks:#?} {}",
            run.stderr
        );
        assert_eq!(run.code, Some(1));
    }
    Ok(())
}
