//! Price books and contracts: what is right is read, and what is wrong is said with file, line and remedy.

mod common;

use billing::contract::{Contracts, Segment};
use billing::price_book::PriceBook;
use billing::rate::rate;
use billing::sku::{Meter, Sku};
use common::{CONTRACTS, PRICES, book, contracts};
use proptest::prelude::*;
use schemas::request::ServiceTier;

fn contract_error(from: &str, to: &str, expected: &str) {
    assert!(CONTRACTS.contains(from), "{from}");
    let error = Contracts::parse(&CONTRACTS.replacen(from, to, 1), "contracts.toml")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("contracts.toml:") && error.contains(expected),
        "{error}"
    );
}

fn sku(model: &str, meter: Meter) -> Sku {
    Sku {
        model_id: model.into(),
        tier: ServiceTier::Batch,
        meter,
    }
}

#[test]
fn every_model_tier_and_token_class_has_a_price_in_every_currency() {
    let book = book();
    let version = &book.versions()[0];
    let codes: Vec<_> = version.currencies.iter().map(|currency| currency.code()).collect();
    assert_eq!(codes, ["EUR", "JPY", "KWD", "USD"]);
    for model in ["debian-sections", "a model/of tomorrow", "*", ""] {
        for (tier, meter) in ServiceTier::ALL
            .iter()
            .flat_map(|tier| Meter::ALL.map(|meter| (*tier, meter)))
        {
            for currency in &version.currencies {
                let price = version.list(
                    &Sku {
                        model_id: model.into(),
                        tier,
                        meter,
                    },
                    *currency,
                );
                assert_eq!(price.is_some(), meter.is_tokens());
            }
        }
    }
}

#[test]
fn a_models_own_price_comes_before_that_of_any_model() {
    let book = book();
    let version = &book.versions()[0];
    let euro = "EUR".parse().unwrap();
    let of = |model| {
        rate(
            version.list(&sku(model, Meter::InputUncached), euro).unwrap(),
            1_000_000,
        )
        .unwrap()
    };
    assert_eq!(
        (of("debian-sections").to_string(), of("other").to_string()),
        ("2".to_owned(), "3".to_owned())
    );
}

#[test]
fn the_contract_is_read_whole() {
    let contracts = contracts();
    let now = "2026-11-24T00:00:00Z".parse().unwrap();
    let acme = contracts.at("acme", now).unwrap();
    assert_eq!(
        (acme.segment, acme.currency.code(), acme.country.as_str()),
        (Segment::Enterprise, "EUR", "DE")
    );
    let globex = contracts.at("globex", now).unwrap();
    assert_eq!(
        (globex.currency.code(), globex.partner.as_deref()),
        ("USD", Some("initech"))
    );
    assert!(contracts.at("stranger", now).is_none());
    let price = acme.negotiated(&sku("debian-sections", Meter::Output)).unwrap();
    assert_eq!(rate(price, 150_000_000).unwrap().to_string(), "700");
    assert!(acme.negotiated(&sku("debian-sections", Meter::InputCached)).is_none());
    assert!(acme.negotiated(&sku("other", Meter::Output)).is_none());
}

#[test]
fn minimum_and_fee_are_whole_minor_units() {
    let with = |line: &str| CONTRACTS.replacen("country = \"DE\"", &format!("country = \"DE\"\n{line}"), 1);
    let read = Contracts::parse(&with("minimum_per_month = \"100.50\"\nfee_per_month = \"5000\""), "c").unwrap();
    let acme = read.version("acme", "acme-2026.1").unwrap();
    assert_eq!(acme.minimum_per_month.unwrap().to_string(), "100.5");
    assert_eq!(acme.fee_per_month.unwrap().to_string(), "5000");
    for line in ["minimum_per_month = \"0.005\"", "fee_per_month = \"-1\""] {
        let error = Contracts::parse(&with(line), "c").unwrap_err().to_string();
        assert!(
            error.contains("must not be negative and have at most 2 decimals, as EUR has"),
            "{error}"
        );
    }
}

/// What in the example is changed, into what, and what must be said.
const WRONG_PRICES: [[&str; 3]; 28] = [
    [
        "price = \"2.15\"",
        "price = \"2.1O\"",
        "price \"2.1O\" is not a decimal number; write digits",
    ],
    ["price = \"2.15\"", "price = \"-2.15\"", "not negative"],
    [
        "unit_tokens = 1_000_000",
        "unit_tokens = 3",
        "unit_tokens must divide 1000000",
    ],
    [
        "half_away_from_zero",
        "half_even",
        "rounding must be \"half_away_from_zero\"",
    ],
    [
        "default_currency = \"EUR\"",
        "default_currency = \"CHF\"",
        "default_currency CHF has no prices",
    ],
    [
        "default_currency = \"EUR\"",
        "default_currency = \"eur\"",
        "\"eur\" is not an ISO 4217 currency",
    ],
    [
        "2020-01-01T00:00:00Z",
        "January",
        "effective_from must be a moment like",
    ],
    ["rounding", "roundign", "unknown field `roundign`"],
    [
        "version = \"2026-01-01.1\"",
        "version = \"\"",
        "version must have 1 to 64 characters",
    ],
    [
        "*/batch/output",
        "mine/batch/output",
        "*/batch/output has no price, so a new model could not be rated",
    ],
    [
        "*/batch/output",
        "*/bulk/output",
        "service_tier must be one of interactive, standard, batch",
    ],
    [
        "*/batch/output",
        "*/batch/outputs",
        "class must be one of input, cached_input, output, request",
    ],
    ["*/batch/output", "output", "sku_id must be <model or *>/<tier>/<class>"],
    [
        "*/batch/output",
        "debian-sections/batch/output",
        "has a price already, in line",
    ],
    [
        "meter = \"output_tokens\"",
        "meter = \"requests\"",
        "must be \"output_tokens\", but is \"requests\"",
    ],
    [
        "model = \"graduated\"",
        "model = \"tiered\"",
        "model must be one of flat, graduated, volume, package",
    ],
    [
        "model = \"graduated\"",
        "model = \"flat\"",
        "this model takes one step without up_to",
    ],
    [
        "model = \"flat\"",
        "model = \"package\"",
        "a package needs package_units",
    ],
    [
        "model = \"flat\"",
        "model = \"flat\"\npackage_units = 5",
        "only for model \"package\"; remove it",
    ],
    [
        "model = \"flat\"",
        "model = \"package\"\npackage_units = 0",
        "package_units must be at least 1",
    ],
    ["up_to = 1_000_000_000", "up_to = 0", "up_to must be above 0"],
    [
        "{ price = \"4.80\" }",
        "{ up_to = 2_000_000_000, price = \"4.80\" }",
        "the last step must be without up_to",
    ],
    ["up_to = 1_000_000_000, ", "", "only the last step may be without up_to"],
    ["[{ price = \"2.15\" }]", "[]", "the list of steps is empty"],
    [
        "currency.USD = [{ price = \"2.15\" }]\n",
        "",
        "has no currency.USD, which other prices have",
    ],
    [
        "currency.USD = [{ price = \"2.15\" }]",
        "currency.XAU = [{ price = \"2.15\" }]",
        "\"XAU\" is not an ISO",
    ],
    ["unit_tokens = 1_000_000\n", "", "missing field `unit_tokens`"],
    [
        "id = \"public\"",
        "id = \"public",
        "invalid basic string, expected `\"`",
    ],
];

#[test]
fn a_wrong_price_book_says_where_and_what_to_do() {
    let error = PriceBook::parse(&PRICES.replacen("\"2.15\"", "2.15", 1), "prices.toml").unwrap_err();
    let line = 1 + PRICES.lines().position(|line| line.contains("\"2.15\"")).unwrap();
    assert_eq!(
        error.to_string(),
        format!("prices.toml:{line}: price must be a text in quotes, but is the number 2.15")
    );
    for [from, to, expected] in WRONG_PRICES {
        assert!(PRICES.contains(from), "{from}");
        let error = PriceBook::parse(&PRICES.replacen(from, to, 1), "prices.toml")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("prices.toml:") && error.contains(expected), "{error}");
    }
}

#[test]
fn wrong_contracts_say_where_and_what_to_do() {
    contract_error(
        "country = \"DE\"",
        "country = \"Germany\"",
        "two capital letters of ISO 3166-1, like DE",
    );
    contract_error(
        "country = \"DE\"",
        "country = \"QQ\"",
        "two capital letters of ISO 3166-1, like DE",
    );
    contract_error(
        "segment = \"enterprise\"",
        "segment = \"big\"",
        "segment must be one of enterprise, mid_market, smb, but is \"big\"",
    );
    contract_error(
        "tenant_id = \"acme\"",
        "tenant_id = \"\"",
        "tenant_id must have 1 to 64 characters",
    );
    contract_error(
        "currency = \"EUR\"",
        "currency = \"USD\"",
        "a negotiated price must be in USD",
    );
    contract_error(
        "tenant_id = \"globex\"",
        "tenant_id = \"acme\"",
        "begins at this moment too",
    );
    let same = CONTRACTS
        .replace("globex", "acme")
        .replacen("2020-01-01", "2021-01-01", 1);
    let error = Contracts::parse(&same, "contracts.toml").unwrap_err().to_string();
    assert!(
        error.contains("acme has a contract version acme-2026.1 already"),
        "{error}"
    );
}

#[test]
fn every_problem_is_said_at_once_in_the_order_of_lines() {
    let wrong = PRICES
        .replacen("unit_tokens = 1_000_000\n", "unit_tokens = \"1_000_000\"\n", 1)
        .replacen("\"6.00\"", "\"6.OO\"", 1)
        .replacen("model = \"graduated\"", "modle = \"graduated\"", 1)
        .replacen("currency.JPY = [{ price = \"80\" }]\n", "", 1);
    let errors = PriceBook::parse(&wrong, "prices.toml").unwrap_err();
    let found: Vec<_> = errors
        .0
        .iter()
        .map(|error| error.problem.split([';', ',']).next().unwrap())
        .collect();
    assert_eq!(
        found,
        [
            "unit_tokens must be a whole number below 9.2e18",
            "price \"6.OO\" is not a decimal number",
            "debian-sections/batch/cached_input has no currency.JPY",
            "missing field `model`",
            "unknown field `modle`",
        ]
    );
    let lines: Vec<_> = errors.0.iter().map(|error| error.line).collect();
    assert!(lines.is_sorted() && lines[0] == 11, "{lines:?}");
    let broken = "id = \n[[price]\nsku_id = \"";
    assert!(PriceBook::parse(broken, "p").unwrap_err().0.len() > 1);
}

#[test]
fn wrong_tax_credits_and_times_of_a_contract_say_what_to_do() {
    let with = |line: &str| CONTRACTS.replacen("tax_rate = \"19\"", line, 1);
    let credit =
        "tax_rate = \"19\"\n[[contract.credit]]\nid = \"a\"\nkind = \"prepaid\"\nfrom = \"2026-01-01T00:00:00Z\"";
    for (line, expected) in [
        ("", "tax_category S needs a tax_rate in percent"),
        ("tax_rate = \"100\"", "at most 2 digits before the point"),
        ("tax_rate = \"0.00001\"", "more than 4 decimals"),
        ("tax_rate = \"19\"\npayment_days = 400", "payment_days must be 0 to 365"),
        (
            "tax_rate = \"19\"\neffective_until = \"2019-01-01T00:00:00Z\"",
            "effective_until must be after effective_from",
        ),
        (credit, "a credit needs an amount above zero"),
        (
            &format!("{credit}\namount = \"5.001\""),
            "at most 2 decimals, as EUR has",
        ),
        (
            &format!("{credit}\namount = \"5\"\nexpires = \"2026-01-01T00:00:00Z\""),
            "expires must be after from",
        ),
    ] {
        let errors = Contracts::parse(&with(line), "c").unwrap_err();
        assert!(errors.to_string().contains(expected), "{errors}");
    }
    contract_error(
        "tax_category = \"S\"",
        "tax_category = \"X\"",
        "must be one of S, Z, E, AE, K, G, O, L, M",
    );
    contract_error(
        "tax_category = \"S\"",
        "tax_category = \"O\"",
        "tax_category O has no tax_rate; remove it",
    );
}

#[test]
fn a_contract_ends_where_it_says_or_where_the_next_begins() {
    let second = CONTRACTS.replace("globex", "acme").replace(
        "acme-2026.1\"\neffective_from = \"2020",
        "acme-2027.1\"\neffective_from = \"2027",
    );
    // Both contracts are acme's now, the second one from 2027 on.
    let second = second.replacen(
        "acme-2027.1\"\neffective_from = \"2027",
        "acme-2026.1\"\neffective_from = \"2020",
        1,
    );
    let until = |date: &str| {
        second.replacen(
            "country = \"DE\"",
            &format!("country = \"DE\"\neffective_until = \"{date}T00:00:00Z\""),
            1,
        )
    };
    let at = |contracts: &Contracts, time: &str| {
        let contract = contracts.at("acme", time.parse().unwrap());
        contract.map(|contract| contract.version.clone())
    };
    let contracts = Contracts::parse(&second, "c").unwrap();
    assert_eq!(at(&contracts, "2026-12-31T23:59:59Z").unwrap(), "acme-2026.1");
    assert_eq!(at(&contracts, "2027-01-01T00:00:00Z").unwrap(), "acme-2027.1");
    let contracts = Contracts::parse(&until("2026-06-01"), "c").unwrap();
    assert_eq!(at(&contracts, "2026-05-31T23:59:59Z").unwrap(), "acme-2026.1");
    assert_eq!(at(&contracts, "2026-06-01T00:00:00Z"), None);
    let errors = Contracts::parse(&until("2027-06-01"), "c").unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("holds until after 2027-01-01T00:00:00Z, when acme-2027.1 begins"),
        "{errors}"
    );
}

#[test]
fn the_hash_of_a_contract_is_of_what_it_says_not_of_its_layout() {
    let hash = |text: &str| {
        let contracts = Contracts::parse(text, "c").unwrap();
        contracts
            .all()
            .map(|contract| contract.sha256.clone())
            .collect::<Vec<_>>()
    };
    let same = CONTRACTS
        .replace("country = \"DE\"", "  country   = 'DE' # Germany")
        .replace("100_000_000", "100000000");
    assert_ne!(same, CONTRACTS);
    assert_eq!(hash(&same), hash(CONTRACTS));
    let unit = hash(&CONTRACTS.replace("unit_tokens = 1_000_000", "unit_tokens = 1_000"));
    assert!(unit[0] != hash(CONTRACTS)[0], "prices of another unit are other prices");
    let other = hash(&CONTRACTS.replace("\"1.60\"", "\"1.61\""));
    assert!(other[0] != hash(CONTRACTS)[0] && other[1] == hash(CONTRACTS)[1]);
}

#[test]
fn versions_of_one_book_neither_overlap_nor_share_a_name() {
    let other = |version: &str, from: &str| PRICES.replace("2026-01-01.1", version).replace("2020-01-01", from);
    let error = book().with(&other("2027.1", "2020-01-01"), "b.toml").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("version 2026-01-01.1 begins at this moment too"),
        "{error}"
    );
    let error = book().with(&other("2026-01-01.1", "2027-01-01"), "b.toml").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("version 2026-01-01.1 is in the book already"),
        "{error}"
    );
    let error = book()
        .with(&PRICES.replace("\"public\"", "\"private\""), "b.toml")
        .unwrap_err();
    assert!(error.to_string().contains("id must be \"public\""), "{error}");
}

#[test]
fn the_hash_is_that_of_sha256sum() {
    use sha2::{Digest, Sha256};
    assert_eq!(book().versions()[0].sha256, hex::encode(Sha256::digest(PRICES)));
    assert_ne!(
        PriceBook::parse(&format!("{PRICES}\n"), "p").unwrap().versions()[0].sha256,
        book().versions()[0].sha256
    );
}

proptest! {
    /// Every moment from the first version on is in exactly one version: the last that began by then.
    #[test]
    fn exactly_one_version_holds_at_any_moment(
        days in prop::collection::btree_set(1..3_000_i64, 0..6), second in 0..3_000 * 86_400_i64
    ) {
        let start = book().versions()[0].effective_from;
        let at = |seconds: i64| start + jiff::SignedDuration::from_secs(seconds);
        let mut book = book();
        // The latest first: the order in which files are read makes no difference.
        for day in days.iter().rev() {
            let from = at(day * 86_400).to_string();
            let text = PRICES.replace("2026-01-01.1", &format!("v{day}")).replace("2020-01-01T00:00:00Z", &from);
            book = book.with(&text, "p").unwrap();
        }
        let expected = days.iter().rev().find(|day| *day * 86_400 <= second);
        let expected = expected.map_or("2026-01-01.1".to_owned(), |day| format!("v{day}"));
        prop_assert_eq!(&book.at(at(second)).unwrap().version, &expected);
        prop_assert!(book.at(at(-1)).is_none());
    }

    #[test]
    fn no_file_makes_it_panic(at in 0..PRICES.len(), len in 0..40_usize, put in "\\PC{0,8}") {
        let put_in = |text: &str| {
            let from = text.floor_char_boundary(at % text.len());
            let to = text.floor_char_boundary((from + len).min(text.len()));
            format!("{}{put}{}", &text[..from], &text[to..])
        };
        let _ = PriceBook::parse(&put_in(PRICES), "p");
        let _ = Contracts::parse(&put_in(CONTRACTS), "c");
    }
}
