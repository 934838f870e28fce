//! Rating against an oracle that prices unit by unit, and the laws that every price keeps.

use std::str::FromStr;

use bigdecimal::BigDecimal;
use billing::money::{Money, UnitPrice};
use billing::rate::{self, Model, PricePoint, Step, portions_more, rate, rate_more};
use proptest::prelude::*;

fn point(model: Model, per_units: i64, steps: &[(Option<i64>, &str)]) -> PricePoint {
    let steps = steps
        .iter()
        .map(|(up_to, price)| Step {
            up_to: *up_to,
            price: price.parse().unwrap(),
        })
        .collect();
    PricePoint {
        model,
        per_units,
        steps,
    }
}

fn amount(text: &str) -> Money {
    text.parse().unwrap()
}

/// What one unit costs in its step, or in that of the whole quantity.
fn oracle(point: &PricePoint, quantity: i64) -> BigDecimal {
    let price = |unit: i64| {
        let step = point
            .steps
            .iter()
            .find(|step| step.up_to.is_none_or(|up_to| unit <= up_to))
            .unwrap();
        BigDecimal::from_str(&step.price.to_string()).unwrap()
    };
    let per_units = BigDecimal::from(point.per_units);
    match point.model {
        Model::Flat => price(1) * BigDecimal::from(quantity) / per_units,
        Model::Volume => price(quantity) * BigDecimal::from(quantity) / per_units,
        Model::Graduated => (1..=quantity).map(price).sum::<BigDecimal>() / per_units,
        Model::Package { units } => price(1) * BigDecimal::from((quantity + units - 1) / units),
    }
}

prop_compose! {
    fn prices()(parts in 0..1_000_000_000_000_000_000_i64, zeros in 0..18_u32) -> UnitPrice {
        let parts = parts / 10_i64.pow(zeros);
        format!("{}.{:012}", parts / 1_000_000_000_000, parts % 1_000_000_000_000).parse().unwrap()
    }
}

prop_compose! {
    fn steps(max: usize)(prices in prop::collection::vec(prices(), 1..=max), widths in prop::collection::vec(1..50_i64, max)) -> Vec<Step> {
        let last = prices.len() - 1;
        let mut up_to = 0;
        prices.into_iter().zip(widths).enumerate().map(|(index, (price, width))| {
            up_to += width;
            Step { up_to: (index < last).then_some(up_to), price }
        }).collect()
    }
}

fn points() -> impl Strategy<Value = PricePoint> {
    let per_units = prop::sample::select(vec![1_i64, 2, 1_000, 15_625, 1_000_000]);
    let models = prop_oneof![
        Just(Model::Flat),
        Just(Model::Graduated),
        Just(Model::Volume),
        (1..40_i64).prop_map(|units| Model::Package { units }),
    ];
    (models, per_units, steps(5)).prop_map(|(model, per_units, steps)| {
        let one = matches!(model, Model::Flat | Model::Package { .. });
        let steps = if one {
            vec![Step {
                up_to: None,
                ..steps[0]
            }]
        } else {
            steps
        };
        PricePoint {
            model,
            per_units,
            steps,
        }
    })
}

proptest! {
    #[test]
    fn every_model_equals_the_oracle(point in points(), quantity in 0..300_i64) {
        let ours = BigDecimal::from_str(&rate(&point, quantity).unwrap().to_string()).unwrap();
        prop_assert_eq!(ours, oracle(&point, quantity));
    }

    #[test]
    fn a_reversal_takes_back_the_whole_charge(point in points(), quantity in any::<i64>()) {
        let quantity = quantity.max(-i64::MAX);
        match (rate(&point, quantity), rate(&point, -quantity)) {
            (Ok(charge), Ok(back)) => prop_assert_eq!(charge.plus(back), Ok(Money::ZERO)),
            (charge, back) => prop_assert_eq!(charge, back),
        }
    }

    #[test]
    fn flat_and_graduated_prices_add_up_over_any_split(steps in steps(5), parts in prop::collection::vec(0..200_i64, 0..8)) {
        let point = PricePoint { model: Model::Graduated, per_units: 1_000_000, steps };
        let mut before = 0;
        let mut sum = Money::ZERO;
        for part in parts {
            let charge = rate(&point, before + part).unwrap().minus(rate(&point, before).unwrap()).unwrap();
            prop_assert!(charge >= Money::ZERO, "more units never cost less");
            sum = sum.plus(charge).unwrap();
            before += part;
        }
        prop_assert_eq!(sum, rate(&point, before).unwrap());
    }

    /// Every portion is its price times its quantity to the last digit, and together they are the charge.
    #[test]
    fn portions_are_price_times_quantity_and_add_up(point in points(), before in -200..200_i64, units in -200..200_i64) {
        let portions = portions_more(&point, before, units).unwrap();
        for portion in &portions {
            let price = BigDecimal::from_str(&portion.price.to_string()).unwrap();
            let exact = price * BigDecimal::from(portion.quantity) / BigDecimal::from(portion.per_units);
            prop_assert_eq!(BigDecimal::from_str(&portion.amount.to_string()).unwrap(), exact);
        }
        let sum = Money::sum(portions.iter().map(|portion| portion.amount)).unwrap();
        prop_assert_eq!(sum, rate_more(&point, before, units).unwrap());
        if point.model == Model::Graduated {
            prop_assert_eq!(portions.iter().map(|portion| portion.quantity).sum::<i64>(), units);
        }
        prop_assert_eq!(portions_more(&point, 0, units).unwrap(), rate::portions(&point, units).unwrap());
    }

    #[test]
    fn any_quantity_has_an_amount_or_an_error(point in points(), quantity in any::<i64>()) {
        let first = rate(&point, quantity);
        prop_assert_eq!(rate(&point, quantity), first, "rating is deterministic");
    }

    #[test]
    fn list_is_never_below_contracted_when_only_discounts_apply(
        list in steps(5), off in prop::collection::vec(0..=100_i64, 5), quantity in 0..300_i64, volume in any::<bool>()
    ) {
        let discounted = list.iter().zip(off).map(|(step, off)| {
            let parts = step.price.parts() / 100 * i128::from(100 - off);
            let price = format!("{}.{:012}", parts / 1_000_000_000_000, parts % 1_000_000_000_000).parse().unwrap();
            Step { price, ..*step }
        }).collect();
        let model = if volume { Model::Volume } else { Model::Graduated };
        let at = |steps| rate(&PricePoint { model, per_units: 1_000_000, steps }, quantity).unwrap();
        prop_assert!(at(list) >= at(discounted));
    }
}

#[test]
fn steps_meet_without_a_jump() {
    let graduated = point(
        Model::Graduated,
        1_000_000,
        &[(Some(1_000_000), "2"), (Some(3_000_000), "1"), (None, "0.5")],
    );
    for (quantity, expected) in [
        (0, "0"),
        (1, "0.000002"),
        (1_000_000, "2"),
        (1_000_001, "2.000001"),
        (3_000_000, "4"),
        (3_000_001, "4.0000005"),
        (-3_000_001, "-4.0000005"),
    ] {
        assert_eq!(rate(&graduated, quantity), Ok(amount(expected)), "{quantity}");
    }
}

#[test]
fn volume_prices_the_whole_quantity_at_its_step() {
    let volume = point(Model::Volume, 1_000_000, &[(Some(1_000_000), "2"), (None, "1")]);
    assert_eq!(rate(&volume, 1_000_000), Ok(amount("2")));
    assert_eq!(rate(&volume, 1_000_001), Ok(amount("1.000001")));
}

#[test]
fn a_started_package_is_paid_whole() {
    let package = point(Model::Package { units: 1_000 }, 1_000_000, &[(None, "3.50")]);
    for (quantity, expected) in [(0, "0"), (1, "3.5"), (1_000, "3.5"), (1_001, "7"), (-1, "-3.5")] {
        assert_eq!(rate(&package, quantity), Ok(amount(expected)), "{quantity}");
    }
}

#[test]
fn the_finest_price_of_one_token_is_exact() {
    let flat = point(Model::Flat, 1_000_000, &[(None, "0.000000000001")]);
    assert_eq!(rate(&flat, 1), Ok(amount("0.000000000000000001")));
    let dear = point(Model::Flat, 1_000_000, &[(None, "999999.999999999999")]);
    assert_eq!(
        rate(&dear, i64::MAX).unwrap().to_string(),
        "9223372036854775797.776627963145224193"
    );
    assert!(rate(&point(Model::Flat, 1, &[(None, "999999")]), i64::MIN).is_err());
}
