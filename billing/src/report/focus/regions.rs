//! Which region has how much of what was sold at one version of its prices.
//!
//! The steps of a price count across regions, so that no unit of a step is one region's by nature. Each step is
//! dealt out in whole units, in proportion to what each region has left: every row keeps a unit price that
//! makes its cost, and a region's rows add up to what it used.

use super::charge::Sold;
use crate::money::{Money, MoneyError, OUT_OF_RANGE};
use crate::report::lines::share;

/// What each region has left of a quantity that is dealt out, by name.
#[derive(Debug, Clone)]
pub(super) struct Regions(pub(super) Vec<(Option<String>, i64)>);

impl Regions {
    /// All that was sold. What is of no known region comes last, without a name.
    pub(super) fn of(sold: &Sold<'_>) -> Result<Self, MoneyError> {
        let known: i128 = sold.regions.values().map(|quantity| i128::from(*quantity)).sum();
        let unknown = i64::try_from(i128::from(sold.quantity) - known).map_err(|_| OUT_OF_RANGE)?;
        let named = sold
            .regions
            .iter()
            .map(|(name, quantity)| (Some(name.clone()), *quantity));
        let all = named.chain([(None, unknown)]);
        Ok(Regions(all.filter(|(_, quantity)| *quantity != 0).collect()))
    }

    pub(super) fn quantities(&self) -> Vec<i64> {
        self.0.iter().map(|(_, quantity)| *quantity).collect()
    }

    /// The only region; none if there are several.
    pub(super) fn only(&self) -> Option<String> {
        match self.0.as_slice() {
            [(name, _)] => name.clone(),
            _ => None,
        }
    }

    /// Deals out `units`: a step's part of what is left, or all of it.
    ///
    /// A region's units are the difference of two numbers that [`share`] rounds alike, so they are less than 1 away
    /// from its exact share. That lies between nothing and what the region has left, which are whole numbers, and
    /// so do its units: no region gets more than it has left, whatever the sign of that. The last step is all
    /// that is left, so that the exact shares of it are whole, and every region comes out even.
    pub(super) fn deal(&mut self, units: i64) -> Result<Vec<(Option<String>, i64)>, MoneyError> {
        let shares = share(Money::from_parts(units.into())?, &self.quantities())?;
        let mut dealt = Vec::with_capacity(shares.len());
        for ((name, left), share) in self.0.iter_mut().zip(shares) {
            let units = i64::try_from(share.parts()).map_err(|_| OUT_OF_RANGE)?;
            *left = left.checked_sub(units).ok_or(OUT_OF_RANGE)?;
            dealt.push((name.clone(), units));
        }
        dealt.retain(|(_, units)| *units != 0);
        Ok(dealt)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a quantity is cut into steps: each step is dealt out whole, no region gets a unit more than is
        /// its share or than it has, and in the end every region has had what it used.
        #[test]
        fn steps_are_dealt_out_whole_and_regions_come_out_even(
            used in prop::collection::vec(-1_000..1_000_000_000_000_i64, 1..7),
            cuts in prop::collection::vec(0.0..1.0, 0..5),
            is_taken_back in any::<bool>(),
        ) {
            let sign = if is_taken_back { -1 } else { 1 };
            let used: Vec<i64> = used.into_iter().map(|units| sign * units).collect();
            let whole: i64 = used.iter().sum();
            let mut ends: Vec<i64> = cuts.into_iter().map(|cut: f64| (whole as f64 * cut) as i64).collect();
            ends.push(whole);
            ends.sort_by_key(|end| end.abs());
            let named = (0..).zip(&used).map(|(n, units): (i32, _)| (Some(n.to_string()), *units));
            let mut regions = Regions(named.filter(|(_, units)| *units != 0).collect());
            let mut from = 0;
            for to in ends {
                let (step, before) = (to - from, regions.clone());
                from = to;
                if step == 0 {
                    continue;
                }
                let dealt = regions.deal(step).unwrap();
                prop_assert_eq!(dealt.iter().map(|(_, units)| units).sum::<i64>(), step);
                let all: i64 = before.quantities().iter().sum();
                for ((name, had), (_, left)) in before.0.iter().zip(&regions.0) {
                    let units = dealt.iter().find(|(region, _)| region == name).map_or(0, |(_, units)| *units);
                    prop_assert_eq!(had - units, *left);
                    prop_assert!(units.abs() <= had.abs() && units.signum() * had.signum() >= 0);
                    let exact = i128::from(*had) * i128::from(step);
                    prop_assert!((i128::from(units) * i128::from(all) - exact).abs() < i128::from(all.abs()));
                }
            }
            prop_assert!(whole == 0 || regions.0.iter().all(|(_, left)| *left == 0));
        }
    }
}
