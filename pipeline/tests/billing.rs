//! Closing months, correcting the ledger, and the commands that do so, on a store that is a folder.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use billing::correct::{Change, Correction};
use billing::event::usage_row;
use billing::invoice::LineKind;
use billing::period::Period;
use common::{Run, bitnet};
use futures::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use pipeline::chunk::PartitionId;
use pipeline::close::verify::Finding;
use pipeline::close::{Closed, PeriodError, Periods};
use pipeline::committer::{CommitSettings, Committer};
use pipeline::corrections::{self, CorrectionsError, Done};
use pipeline::prices::Prices;
use pipeline::settings::Settings;
use pipeline::sink::Table;
use pipeline::store::Store;
use pipeline::tables::Tables;
use schemas::billing::{BillingRow, EventKind, from_batch};
use schemas::ids::{Position, result_id};
use schemas::request::{Endpoint, ServiceTier};
use schemas::result::{ResultRow, Status};

const GRACE: SignedDuration = SignedDuration::from_hours(72);

fn period(text: &str) -> Period {
    text.parse().unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn prices() -> Prices {
    let settings = Settings::load(None).unwrap();
    Prices::load(&settings.billing).unwrap()
}

fn partition() -> PartitionId {
    PartitionId {
        topic: "bitnet.requests.eu.bulk".to_owned(),
        epoch: 1,
        partition: 0,
    }
}

/// The ledger's row of request `n` of `tenant`, which ended at `at`.
fn event(tenant: &str, n: i64, at: &str, output_tokens: i64) -> BillingRow {
    let PartitionId {
        topic,
        epoch,
        partition,
    } = partition();
    let position = Position {
        topic,
        epoch,
        partition,
        offset: n,
    };
    let result = ResultRow {
        job_id: format!("job-of-{tenant}").parse().unwrap(),
        batch_seq: 0,
        custom_id: format!("row-{n}").parse().unwrap(),
        result_id: result_id(&position, 0),
        tenant_id: tenant.parse().unwrap(),
        project_id: "search".parse().unwrap(),
        residency_zone: "eu".into(),
        region: "eu".into(),
        model_id: "debian-sections".into(),
        model_digest: None,
        tokenizer_digest: None,
        endpoint: Endpoint::Completions,
        service_tier: ServiceTier::Batch,
        status: Status::Ok,
        error_code: None,
        error_message: None,
        finish_reason: None,
        output_text: None,
        response: None,
        embedding: None,
        scores: None,
        input_tokens: 61,
        cached_tokens: 16,
        output_tokens,
        submitted_at: time(at),
        admitted_at: None,
        first_token_at: None,
        finished_at: time(at),
        worker_id: "worker-0".into(),
        position,
        batch_index: 0,
    };
    let Prices { book, contracts } = prices();
    usage_row(&result, false, &book, &contracts, result.finished_at).unwrap()
}

struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

impl Place {
    /// A store whose zone `eu` has these rows.
    async fn with(rows: &[BillingRow]) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}/store", directory.path().display())).unwrap();
        let place = Place { directory, store };
        place.add(rows, true).await;
        place
    }

    async fn committer(&self) -> Committer {
        let settings = CommitSettings::default();
        Committer::open(self.store.clone(), "eu", "worker-0", settings)
            .await
            .unwrap()
    }

    /// Seals more rows, and applies them or does not.
    async fn add(&self, rows: &[BillingRow], apply: bool) {
        let committer = self.committer().await;
        let from = committer.recover(&partition()).await.unwrap().watermark.unwrap_or(0);
        let sealed = committer.seal_billing(&partition(), from, rows.to_vec()).await.unwrap();
        if apply {
            committer.apply(&[sealed]).await.unwrap();
        }
    }

    fn periods(&self) -> Periods {
        Periods::new(self.store.clone())
    }

    async fn close(&self, month: &str, now: &str) -> Result<Closed, PeriodError> {
        self.periods()
            .close(period(month), &prices(), &[], GRACE, time(now))
            .await
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join("store/_billing/periods").join(name)
    }

    /// Every object of the closed months, with its bytes.
    fn closed(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for month in fs::read_dir(self.file("")).unwrap() {
            for file in fs::read_dir(month.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                files.insert(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
        files
    }

    async fn rows(&self) -> Vec<BillingRow> {
        let tables = Tables::open(&self.store, "eu").await.unwrap();
        let batches = tables.scan(Table::BillingEvents, &[], None).await.unwrap();
        let batches: Vec<_> = batches.try_collect().await.unwrap();
        batches.iter().flat_map(|batch| from_batch(batch).unwrap()).collect()
    }

    fn bitnet(&self, args: &[&str]) -> Run {
        let uri = format!("file://{}/store", self.directory.path().display());
        bitnet(
            args,
            &[("BITNET__STORE__URI", &uri), ("BITNET__WORKER__RESIDENCY_ZONE", "eu")],
        )
    }
}

fn october() -> Vec<BillingRow> {
    let one = |n| {
        event(
            ["acme", "globex", "stranger"][n as usize % 3],
            n,
            "2026-10-17T09:00:00Z",
            100_000 * n,
        )
    };
    (1..40).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_waits_closes_once_and_late_rows_go_into_the_next() {
    let place = Place::with(&october()).await;
    for now in ["2026-10-31T00:00:00Z", "2026-11-03T23:59:59Z"] {
        let error = place.close("2026-10", now).await.unwrap_err();
        assert!(
            error.to_string().contains("may be closed from 2026-11-04T00:00:00Z on"),
            "{error}"
        );
    }
    let closed = place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap();
    assert_eq!(
        (closed.before, closed.manifest.counts.events, closed.manifest.invoices),
        (false, 39, 3)
    );
    let files = place.closed();
    assert!(place.close("2026-10", "2027-11-04T00:00:00Z").await.unwrap().before);
    assert_eq!(place.closed(), files);

    let late = event("acme", 100, "2026-10-31T23:59:59Z", 100_000_000);
    let mut rows = vec![late, event("acme", 101, "2026-11-02T00:00:00Z", 1_000_000)];
    // Delivered again, into another file: counted before.
    rows.extend(october().into_iter().take(3));
    place.add(&rows, true).await;
    let error = place.close("2026-12", "2027-01-04T00:00:00Z").await.unwrap_err();
    assert!(error.to_string().contains("close 2026-11 first"), "{error}");
    let closed = place.close("2026-11", "2026-12-04T00:00:00Z").await.unwrap();
    let counts = closed.manifest.counts;
    assert_eq!((counts.rows, counts.events, counts.late, counts.repeated), (5, 2, 1, 3));
    let invoices = place.periods().invoices(period("2026-11")).await.unwrap();
    let corrections = invoices
        .iter()
        .flat_map(|invoice| &invoice.lines)
        .filter(|line| line.kind == LineKind::Correction);
    let output = corrections.clone().find(|line| line.quantity == 100_000_000).unwrap();
    // acme's output costs 5.00 up to 100 million tokens a month and 4.00 above; some were there before.
    let before = output.rated[0].before;
    let upper = before.to_string().parse::<i64>().unwrap();
    assert!(before > 0);
    let expected = (100_000_000 - upper) as f64 * 5e-6 + upper as f64 * 4e-6;
    assert!((output.amount.to_string().parse::<f64>().unwrap() - expected).abs() < 0.005);
    assert_eq!(place.periods().verify(period("2026-10")).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_not_locked_before_every_zone_is_billed_through_its_end() {
    let place = Place::with(&october()).await;
    place.add(&[event("acme", 100, "2026-10-31T23:59:59Z", 5)], false).await;
    let error = place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap_err();
    assert!(
        error.to_string().contains("billing of zone eu is not complete")
            && error.to_string().contains("sealed but not billed"),
        "{error}"
    );
    assert!(!place.file("2026-10").exists());
    let zones = ["eu".to_owned(), "us".to_owned()];
    place.committer().await.recover(&partition()).await.unwrap();
    let periods = place.periods();
    let missing = periods
        .close(
            period("2026-10"),
            &prices(),
            &zones,
            GRACE,
            time("2026-11-04T00:00:00Z"),
        )
        .await;
    assert!(missing.unwrap_err().to_string().contains("zone us"));
    place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap();
    assert_eq!(periods.closed().await.unwrap()[&period("2026-10")].counts.events, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_left_of_a_close_is_completed_to_the_same_bytes() {
    let place = Place::with(&october()).await;
    place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap();
    let files = place.closed();
    assert_eq!(files.len(), 5, "{:?}", files.keys());
    for lost in [
        &["manifest.json"][..],
        &["manifest.json", "credits.json", "rated-00000.parquet"],
        &["manifest.json", "invoices.jsonl"],
    ] {
        lost.iter()
            .for_each(|name| fs::remove_file(place.file("2026-10").join(name)).unwrap());
        // Another month's rows and another clock: the lock decides.
        place
            .add(
                &[event("acme", 500 + lost.len() as i64, "2026-10-20T00:00:00Z", 7)],
                true,
            )
            .await;
        assert!(!place.close("2026-10", "2026-12-24T00:00:00Z").await.unwrap().before);
        assert_eq!(place.closed(), files);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_a_lost_and_an_added_file_are_found() {
    let place = Place::with(&october()).await;
    place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap();
    place.close("2026-11", "2026-12-04T00:00:00Z").await.unwrap();
    let verify = || async { place.periods().verify(period("2026-10")).await.unwrap() };
    let month = place.file("2026-10");
    let ledger = place
        .directory
        .path()
        .join("store/eu/billing_events/usage_period=2026-10");
    let ledger = fs::read_dir(ledger).unwrap().next().unwrap().unwrap().path();
    let files = ["rated-00000.parquet", "invoices.jsonl", "credits.json", "lock.json"].map(|name| month.join(name));
    for file in files.into_iter().chain([ledger]) {
        let whole = fs::read(&file).unwrap();
        let is_told = |found: Vec<Finding>, problem: &str| {
            let name = file.file_name().unwrap().to_str().unwrap();
            let is_it = found[0].path.ends_with(name) && found[0].problem.contains(problem);
            assert!(is_it, "{found:?}");
        };
        let mut edited = whole.clone();
        *edited.last_mut().unwrap() ^= 1;
        fs::write(&file, edited).unwrap();
        is_told(verify().await, "was edited");
        fs::remove_file(&file).unwrap();
        is_told(verify().await, "is gone");
        fs::write(&file, whole).unwrap();
    }
    fs::write(month.join("rated-00001.parquet"), "more").unwrap();
    assert!(verify().await[0].problem.contains("its manifest does not name it"));
    fs::remove_file(month.join("rated-00001.parquet")).unwrap();
    assert_eq!(verify().await, []);
    // Whoever edits a file and the manifest with it is found by the month behind.
    let invoices = fs::read_to_string(month.join("invoices.jsonl")).unwrap();
    let edited = invoices.replacen("\"acme\"", "\"acm3\"", 1);
    let hash = |text: &str| hex::encode(<sha2::Sha256 as sha2::Digest>::digest(text));
    let manifest = fs::read_to_string(month.join("manifest.json")).unwrap();
    fs::write(month.join("invoices.jsonl"), &edited).unwrap();
    fs::write(
        month.join("manifest.json"),
        manifest.replace(&hash(&invoices), &hash(&edited)),
    )
    .unwrap();
    let found = verify().await;
    assert!(
        found.len() == 1 && found[0].problem.contains("the month behind it was locked on"),
        "{found:?}"
    );
    place
        .bitnet(&["billing", "verify"])
        .failed(1, &["not what they were: 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_another_format_are_refused_by_name() {
    let place = Place::with(&october()).await;
    place.close("2026-10", "2026-11-04T00:00:00Z").await.unwrap();
    for name in ["manifest.json", "lock.json"] {
        let file = place.file("2026-10").join(name);
        let written = fs::read_to_string(&file).unwrap();
        for (format, other) in [(1, "\"format\": 1"), (3, "\"format\": 3, \"more\": {}")] {
            fs::write(&file, written.replacen("\"format\": 2", other, 1)).unwrap();
            let told = format!("2026-10/{name} has format {format}, and this version of bitnet reads and writes 2");
            place.bitnet(&["billing", "close", "2026-10"]).failed(65, &[&told]);
        }
        fs::write(&file, written).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_version_with_another_content_rates_nothing() {
    let place = Place::with(&october()).await;
    prices().publish(&place.store).await.unwrap();
    prices().publish(&place.store).await.unwrap();
    let published = place.directory.path().join("store/_billing/published");
    assert_eq!(fs::read_dir(&published).unwrap().count(), 1);
    let changed = Prices {
        book: billing::price_book::PriceBook::parse(
            &fs::read_to_string(config("prices.toml"))
                .unwrap()
                .replacen("6.00", "6.01", 1),
            "p",
        )
        .unwrap(),
        ..prices()
    };
    let error = changed.publish(&place.store).await.unwrap_err().to_string();
    assert!(
        error.contains("price version 2026-01-01.1 of public was published with SHA-256")
            && error.contains("a version of its own"),
        "{error}"
    );
    let now = time("2026-11-04T00:00:00Z");
    assert!(
        place
            .periods()
            .close(period("2026-10"), &changed, &[], GRACE, now)
            .await
            .is_err()
    );
}

fn config(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

async fn correct(place: &Place, event: &BillingRow, change: Change) -> Result<Done, CorrectionsError> {
    let asked = [Correction {
        event_id: event.event_id,
        change,
        reason: "counted twice".to_owned(),
    }];
    corrections::apply(place.store.clone(), "eu", &asked, time("2026-11-05T00:00:00Z"), false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_correction_is_made_once_however_often_and_by_how_many() {
    let place = Place::with(&october()).await;
    let event = &october()[4];
    let change = Change::Replace([45, 16, 1]);
    let both = futures::join!(correct(&place, event, change), correct(&place, event, change));
    let added: Vec<_> = [both.0.unwrap(), both.1.unwrap()]
        .iter()
        .map(|done| done.new.len())
        .collect();
    assert!(added == [2, 0] || added == [0, 2], "{added:?}");
    let again = correct(&place, event, change).await.unwrap();
    assert_eq!((again.new.len(), again.known), (0, 2));
    let rows = place.rows().await;
    assert_eq!(rows.len(), 41);
    let made: Vec<_> = rows
        .iter()
        .filter(|row| row.corrects_event_id == Some(event.event_id))
        .collect();
    let kinds: Vec<_> = made.iter().map(|row| (row.event_kind, row.output_tokens)).collect();
    assert_eq!(
        kinds,
        [(EventKind::Reversal, -event.output_tokens), (EventKind::Replacement, 1)]
    );
    let refused = correct(&place, event, Change::Reverse).await.unwrap_err();
    assert!(
        refused.to_string().contains("was corrected otherwise already"),
        "{refused}"
    );
    let unknown = event_of_nobody();
    let refused = correct(&place, &unknown, Change::Reverse).await.unwrap_err();
    assert!(
        refused.to_string().contains("is not in this zone's ledger"),
        "{refused}"
    );
    assert_eq!(place.rows().await.len(), 41);
}

fn event_of_nobody() -> BillingRow {
    event("nobody", 1, "2026-10-01T00:00:00Z", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_close_and_correct() {
    let place = Place::with(&october()).await;
    place
        .bitnet(&["billing", "close", "2099-01"])
        .failed(75, &["2099-01 may be closed from 2099-02-04"]);
    place
        .bitnet(&["report", "invoice", "--month", "2026-10"])
        .failed(2, &["it is not closed"]);
    assert_eq!(place.bitnet(&["billing", "close", "2026-13"]).code, 2);
    let closed = place.bitnet(&["billing", "close", "2026-10", "--grace", "0s"]);
    assert!(
        closed.succeeded().contains("2026-10 is closed: 4 files, 3 invoices"),
        "{}",
        closed.stdout
    );
    let again = place.bitnet(&["billing", "close", "2026-10", "--grace", "0s"]);
    assert!(again.succeeded().contains("every file is what it was"));

    let file = place.directory.path().join("corrections.csv");
    let header = "event_id,action,input_uncached_tokens,input_cached_tokens,output_tokens,number,reason\n";
    let id = october()[4].event_id;
    fs::write(&file, format!("{header}{id},replace,45,16,1,,counted twice\n")).unwrap();
    let file = file.to_str().unwrap();
    let dry = place.bitnet(&["billing", "correct", file, "--dry-run"]);
    assert!(dry.succeeded().contains("2 rows would be added"));
    assert!(
        place
            .bitnet(&["billing", "correct", file])
            .succeeded()
            .contains("2 rows added, 0 were there already")
    );
    assert!(
        place
            .bitnet(&["billing", "correct", file])
            .succeeded()
            .contains("0 rows added, 2 were there already")
    );
    fs::write(
        file,
        format!("{header}x,reverse,,,,,a\n{id},replace,1,,,,b\n{id},reverse,,,,,\n"),
    )
    .unwrap();
    let parts = [
        "csv:2: event_id \"x\"",
        "csv:3: replace needs all three",
        "csv:4: reason must have 1 to 200",
    ];
    place.bitnet(&["billing", "correct", file]).failed(65, &parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn invoices_are_printed_with_the_events_behind_their_lines() {
    let place = Place::with(&october()).await;
    place
        .bitnet(&["billing", "close", "2026-10", "--grace", "0s"])
        .succeeded();
    let json = place.bitnet(&["report", "invoice", "--month", "2026-10", "--tenant", "acme"]);
    let invoices: serde_json::Value = serde_json::from_str(json.succeeded()).unwrap();
    let line = &invoices[0]["lines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["sku"].as_str().unwrap().ends_with("/output"))
        .unwrap();
    let events = place.bitnet(&[
        "report",
        "invoice",
        "--month",
        "2026-10",
        "--events",
        line["external_id"].as_str().unwrap(),
    ]);
    let quantities = events
        .succeeded()
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(2).unwrap().parse::<i64>().unwrap());
    let (count, sum) = quantities.fold((0, 0), |(count, sum), quantity| (count + 1, sum + quantity));
    assert_eq!((count, Some(sum)), (13, line["quantity"].as_i64()));
    let csv = place.bitnet(&["report", "invoice", "--month", "2026-10", "--format", "csv"]);
    let mut rows = csv.succeeded().lines();
    assert!(
        rows.next()
            .unwrap()
            .starts_with("External ID,Line External ID,Invoice No,Customer,Invoice Date,Due Date,Item,")
    );
    assert_eq!(rows.filter(|row| row.contains(",2026-10-000001,acme,")).count(), 4);
    assert!(
        place
            .bitnet(&["billing", "verify", "2026-10"])
            .succeeded()
            .contains("2026-10 is what it was closed as")
    );
    fs::write(place.file("2026-10/credits.json"), "{}").unwrap();
    place
        .bitnet(&["billing", "close", "2026-10"])
        .failed(1, &["credits.json was edited after the month was closed"]);
}

#[test]
fn price_check_says_everything_and_quote_explains() {
    let directory = tempfile::tempdir().unwrap();
    let wrong = fs::read_to_string(config("prices.toml"))
        .unwrap()
        .replacen("\"6.00\"", "6.00", 1)
        .replacen("\"18.00\"", "\"x\"", 1);
    let file = directory.path().join("prices.toml");
    fs::write(&file, wrong).unwrap();
    let contracts = config("contracts.toml");
    let run = bitnet(
        &["price", "check", file.to_str().unwrap(), contracts.to_str().unwrap()],
        &[],
    );
    run.failed(65, &["2 problems in 2 files"]);
    assert_eq!(
        run.stdout.lines().filter(|line| line.contains("prices.toml:")).count(),
        2,
        "{}",
        run.stdout
    );
    let good = config("prices.toml");
    let run = bitnet(
        &["price", "check", good.to_str().unwrap(), contracts.to_str().unwrap()],
        &[],
    );
    assert!(
        run.succeeded()
            .contains("nothing is wrong; price versions: 1, files of contracts: 1")
    );
    bitnet(&["price", "check", "/nonexistent.toml"], &[]).failed(2, &["/nonexistent.toml"]);
    let ask = [
        "price",
        "quote",
        "--model",
        "debian-sections",
        "--tenant",
        "acme",
        "--output-tokens",
        "150000000",
    ];
    let run = bitnet(&ask, &[]);
    let expected = [
        "contract acme-2026.1 of acme, in EUR",
        "step 1 (up to 100000000): 100000000 × 5 ÷ 1000000 = 500 EUR",
        "step 2 (above that): 50000000 × 4 ÷ 1000000 = 200 EUR",
        "700.00 EUR, before tax",
    ];
    expected
        .iter()
        .for_each(|part| assert!(run.succeeded().contains(part), "{}", run.stdout));
}
