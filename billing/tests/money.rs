//! Money against an oracle that shares no code with it.

use std::str::FromStr;

use bigdecimal::{BigDecimal, RoundingMode};
use billing::money::{Currency, MONEY_PARTS_MAX, Money, MoneyError, UnitPrice};
use billing::tax::Percent;
use proptest::prelude::*;

const CURRENCIES: [(&str, u32); 4] = [("JPY", 0), ("EUR", 2), ("USD", 2), ("KWD", 3)];

fn currency(code: &str) -> Currency {
    code.parse().unwrap()
}

fn oracle(money: Money) -> BigDecimal {
    BigDecimal::from_str(&money.to_string()).unwrap()
}

fn money(text: &str) -> Money {
    text.parse().unwrap()
}

prop_compose! {
    /// Any amount, small ones as likely as large ones.
    fn amounts()(digits in 0..39_u32, parts in any::<i128>()) -> Money {
        Money::from_parts(parts % 10_i128.pow(digits)).unwrap()
    }
}

proptest! {
    #[test]
    fn text_and_parts_come_back(amount in amounts()) {
        prop_assert_eq!(amount.to_string().parse::<Money>().unwrap(), amount);
        prop_assert_eq!(Money::from_parts(amount.parts()).unwrap(), amount);
        let parts = oracle(amount) * BigDecimal::from(10_i128.pow(18));
        prop_assert_eq!(parts, BigDecimal::from(amount.parts()));
    }

    #[test]
    fn sums_are_the_oracles(a in amounts(), b in amounts()) {
        for (ours, exact) in [(a.plus(b), oracle(a) + oracle(b)), (a.minus(b), oracle(a) - oracle(b))] {
            let fits = exact.abs() < 10_i128.pow(20);
            prop_assert_eq!(ours.is_ok(), fits);
            if let Ok(ours) = ours {
                prop_assert_eq!(oracle(ours), exact);
            }
        }
        prop_assert_eq!(a.plus(a.negated()), Ok(Money::ZERO));
    }

    #[test]
    fn rounding_is_the_oracles_and_symmetric(amount in amounts(), which in 0..CURRENCIES.len(), half in any::<bool>()) {
        let (code, digits) = CURRENCIES[which];
        // Half a minor unit more, so that ties come up.
        let tie = Money::from_parts(5 * 10_i128.pow(17 - digits)).unwrap();
        let whole = amount.rounded(currency(code)).unwrap_or_default();
        let amount = if half { whole.plus(tie).unwrap_or_default() } else { amount };
        match amount.rounded(currency(code)) {
            Ok(rounded) => {
                let mode = RoundingMode::HalfUp; // in bigdecimal: away from zero
                prop_assert_eq!(oracle(rounded), oracle(amount).with_scale_round(digits.into(), mode));
                prop_assert_eq!(amount.negated().rounded(currency(code)), Ok(rounded.negated()));
                prop_assert_eq!(rounded.rounded(currency(code)), Ok(rounded));
            }
            Err(_) => prop_assert!(amount.parts().abs() > MONEY_PARTS_MAX - 10_i128.pow(18)),
        }
    }

    #[test]
    fn tax_is_the_oracles_in_every_currency(minor in -1_000_000_000_000_i64..1_000_000_000_000, rate in 0..1_000_000_i64, which in 0..CURRENCIES.len()) {
        let currency = currency(CURRENCIES[which].0);
        let digits = i64::from(currency.minor_digits());
        let base = BigDecimal::new(minor.into(), digits);
        let rate = BigDecimal::new(rate.into(), 4);
        let percent: Percent = rate.to_plain_string().parse().unwrap();
        let tax = percent.of(money(&base.to_plain_string()), currency).unwrap();
        let exact = (base * rate / BigDecimal::from(100)).with_scale_round(digits, RoundingMode::HalfUp);
        prop_assert_eq!(oracle(tax), exact);
    }

    #[test]
    fn any_text_is_an_amount_or_an_error(text in "[-+0-9.eE_ ]{0,50}|\\PC{0,20}") {
        let _ = text.parse::<UnitPrice>();
        if let Ok(amount) = text.parse::<Money>() {
            prop_assert_eq!(oracle(amount), BigDecimal::from_str(&text).unwrap());
        }
    }
}

#[test]
fn halves_go_away_from_zero_at_each_currencys_minor_unit() {
    for (code, amount, rounded, text) in [
        ("EUR", "0.005", "0.01", "0.01"),
        ("EUR", "-0.005", "-0.01", "-0.01"),
        ("EUR", "0.004999999999999999", "0", "0.00"),
        ("EUR", "1.5", "1.5", "1.50"),
        ("JPY", "0.5", "1", "1"),
        ("JPY", "-1234.49", "-1234", "-1234"),
        ("KWD", "0.0005", "0.001", "0.001"),
        ("KWD", "2", "2", "2.000"),
    ] {
        let ours = money(amount).rounded(currency(code)).unwrap();
        assert_eq!(
            (ours, ours.to_minor(currency(code)).as_str()),
            (money(rounded), text),
            "{code} {amount}"
        );
    }
    // An amount that is not rounded is never shown as if it were.
    assert_eq!(money("0.0719856").to_minor(currency("EUR")), "0.0719856");
}

#[test]
fn the_largest_amounts_hold_and_one_more_does_not() {
    let max = Money::from_parts(MONEY_PARTS_MAX).unwrap();
    assert_eq!(max.to_string(), format!("{}.{}", "9".repeat(20), "9".repeat(18)));
    assert_eq!(max.to_string().parse(), Ok(max));
    assert_eq!(max.negated().to_string().parse(), Ok(max.negated()));
    let one = Money::from_parts(1).unwrap();
    for error in [
        max.plus(one),
        max.plus(max),
        max.negated().minus(max),
        max.rounded(currency("EUR")),
        Money::from_parts(MONEY_PARTS_MAX + 1),
        Money::from_parts(i128::MIN),
        "100000000000000000000".parse(),
        "9".repeat(500).parse(),
    ] {
        assert!(matches!(error, Err(MoneyError::Range { .. })), "{error:?}");
    }
}

#[test]
fn what_is_no_amount_is_said() {
    for text in [
        "", "-", ".", "1.", ".5", "1e3", "+1", "1,5", "0x1", " 1", "1_000", "--1", "1.2.3", "٣", "NaN",
    ] {
        assert!(
            matches!(text.parse::<Money>(), Err(MoneyError::Text { .. })),
            "{text:?}"
        );
    }
    let error = "0.1234567890123456789".parse::<Money>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"0.1234567890123456789\" has more than 18 decimals; round it first"
    );
    assert_eq!(
        "0.1234567890120000".parse::<UnitPrice>().unwrap().to_string(),
        "0.123456789012"
    );
    assert!("0.1234567890123".parse::<UnitPrice>().is_err());
    assert!("999999.999999999999".parse::<UnitPrice>().is_ok());
    assert_eq!(
        "-0.01".parse::<UnitPrice>().unwrap_err().to_string(),
        "a number is out of range: at most 6 digits before the point, not negative"
    );
    assert!("1000000".parse::<UnitPrice>().is_err());
    for code in ["", "eur", "EURO", "XAU", "ABC"] {
        assert!(
            matches!(code.parse::<Currency>(), Err(MoneyError::Currency { .. })),
            "{code:?}"
        );
    }
    for (code, digits) in CURRENCIES {
        assert_eq!((currency(code).code(), currency(code).minor_digits()), (code, digits));
    }
}

#[test]
fn the_widest_amounts_survive_a_parquet_file() {
    use arrow::array::{ArrayRef, AsArray, Decimal128Array, RecordBatch};
    use arrow::datatypes::Decimal128Type;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

    let parts = [MONEY_PARTS_MAX, -MONEY_PARTS_MAX, 0, 1, -1, 123_456_789_012_345_678];
    let amounts = parts.map(|parts| Money::from_parts(parts).unwrap());
    let column = Decimal128Array::from_iter_values(amounts.iter().map(|amount| amount.parts()));
    let column: ArrayRef = std::sync::Arc::new(column.with_precision_and_scale(38, 18).unwrap());
    let batch = RecordBatch::try_from_iter([("amount", column)]).unwrap();
    let file = tempfile::tempfile().unwrap();
    let mut writer = ArrowWriter::try_new(file.try_clone().unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();

    let read = ParquetRecordBatchReader::try_new(file, 1_024)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let read = read.column(0).as_primitive::<Decimal128Type>();
    let read: Vec<_> = read
        .values()
        .iter()
        .map(|parts| Money::from_parts(*parts).unwrap())
        .collect();
    assert_eq!(read, amounts);
}
