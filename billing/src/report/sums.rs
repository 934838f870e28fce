//! Quantities, added up by what they are charged for.

use std::collections::HashMap;
use std::iter::{self, Peekable};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemas::columns::ReadError;
use schemas::ids::TenantId;
use schemas::request::ServiceTier;
use schemas::view::EventView;
use serde::{Deserialize, Serialize};

use super::ReportError;
use crate::sku::Meter;
use crate::sorted::{SortError, Sorted, Sorter, take_if};

/// What a sum takes in memory, about, with its names.
const GROUP_BYTES: usize = 512;

/// How much of each meter, in the order of [`Meter::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Meters(pub [i64; 4]);

impl Meters {
    pub(crate) fn of(row: &EventView<'_>) -> Self {
        Meters([
            row.input_uncached_tokens,
            row.input_cached_tokens,
            row.output_tokens,
            row.requests,
        ])
    }

    /// The quantity of one meter.
    pub fn get(&self, meter: Meter) -> i64 {
        self.0[meter as usize]
    }

    /// Both together; the column that overflows otherwise.
    pub(crate) fn plus(self, other: Meters) -> Result<Self, &'static str> {
        let mut sum = self;
        for meter in Meter::ALL {
            let place = &mut sum.0[meter as usize];
            *place = place.checked_add(other.get(meter)).ok_or(meter.column())?;
        }
        Ok(sum)
    }
}

/// By what else than tenant, month, SKU and price a report tells usage apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct By {
    /// By project.
    pub project: bool,
    /// By region.
    pub region: bool,
    /// By the UTC day of the event.
    pub day: bool,
}

/// Which part of a line; none where the report does not tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Part {
    /// Which day, UTC.
    pub day: Option<Date>,
    /// Which project.
    pub project: Option<String>,
    /// Which region.
    pub region: Option<String>,
}

/// Why a row's quantity is charged as it is, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Charge {
    /// At these versions.
    Billable {
        currency: String,
        model_id: String,
        tier: ServiceTier,
        price_book: String,
        price_version: String,
        contract_version: Option<String>,
    },
    /// Not charged, for this reason. What the request asked for does not matter then; it may be anything.
    Free { reason: String },
}

/// Rows of one tenant and period that are charged alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) tenant: TenantId,
    pub(crate) period: String,
    pub(crate) charge: Charge,
    pub(crate) part: Part,
}

/// Whose, when, and which model and tier for which currency.
pub(crate) type Sold<'a> = (&'a str, &'a str, Option<(&'a str, (&'a str, ServiceTier))>);

impl Group {
    /// Whether both are parts of one line.
    pub(crate) fn is_of_line(&self, other: &Group) -> bool {
        (&self.tenant, &self.period, &self.charge) == (&other.tenant, &other.period, &other.charge)
    }

    /// Groups are in this order first.
    pub(crate) fn sold(&self) -> Sold<'_> {
        let sold = match &self.charge {
            Charge::Billable {
                currency,
                model_id,
                tier,
                ..
            } => Some((&**currency, (&**model_id, *tier))),
            Charge::Free { .. } => None,
        };
        (self.tenant.as_str(), &self.period, sold)
    }

    pub(crate) fn of(row: &EventView<'_>, by: By) -> Result<Self, ReportError> {
        let tenant = row.tenant_id.parse::<TenantId>();
        let tenant = tenant.map_err(|problem| ReportError::Row {
            table: "billing_events",
            source: ReadError::Value {
                row: 0,
                column: "tenant_id",
                problem: format!("event {}: {problem}", row.event_id),
            },
        })?;
        let charge = if row.billable {
            Charge::Billable {
                currency: row.billing_currency.to_owned(),
                model_id: row.model_id.to_owned(),
                tier: row.service_tier,
                price_book: row.price_book_id.to_owned(),
                price_version: row.price_version.to_owned(),
                contract_version: row.contract_version.map(str::to_owned),
            }
        } else {
            Charge::Free {
                reason: row.nonbillable_reason.unwrap_or("no_reason_given").to_owned(),
            }
        };
        Ok(Group {
            tenant,
            period: row.usage_period.to_owned(),
            charge,
            part: Part {
                day: by.day.then(|| TimeZone::UTC.to_datetime(row.event_time).date()),
                project: by.project.then(|| row.project_id.to_owned()),
                region: by.region.then(|| row.region.to_owned()),
            },
        })
    }
}

/// Sums while rows are read. A group is made for its first row only; the others find it by its bytes.
pub(crate) struct Sums {
    by: By,
    groups_max: usize,
    index: HashMap<Box<[u8]>, usize>,
    groups: Vec<Sum>,
    scratch: Vec<u8>,
    kept: Sorter<Sum>,
}

/// A group, and some of what its rows add up to.
pub(crate) type Sum = (Group, Wide);

/// Wide enough for what is taken back again later.
type Wide = [i128; 4];

impl Sums {
    /// Beyond about `run_bytes`, sums are kept on disk.
    pub(crate) fn by(by: By, run_bytes: usize) -> Self {
        Sums {
            by,
            groups_max: (run_bytes / GROUP_BYTES).max(1),
            index: HashMap::new(),
            groups: Vec::new(),
            scratch: Vec::new(),
            kept: Sorter::new(run_bytes),
        }
    }

    /// Adds a row to its group.
    pub(crate) fn add(&mut self, row: &EventView<'_>) -> Result<(), ReportError> {
        self.scratch.clear();
        write_key(row, self.by, &mut self.scratch);
        let index = match self.index.get(self.scratch.as_slice()) {
            Some(index) => *index,
            None => {
                if self.groups.len() >= self.groups_max {
                    self.index.clear();
                    self.groups = self.kept.keep(std::mem::take(&mut self.groups))?;
                }
                self.index.insert(self.scratch.as_slice().into(), self.groups.len());
                self.groups.push((Group::of(row, self.by)?, Wide::default()));
                self.groups.len() - 1
            }
        };
        for (sum, quantity) in self.groups[index].1.iter_mut().zip(Meters::of(row).0) {
            *sum += i128::from(quantity);
        }
        Ok(())
    }

    /// Everything that was added.
    pub(crate) fn finish(mut self) -> Result<Sorter<Sum>, ReportError> {
        for sum in self.groups {
            self.kept.push(sum)?;
        }
        Ok(self.kept)
    }
}

/// So many `rows` that were added and do not count.
pub(crate) fn taken_back(group: &Group, meters: Meters, rows: u32) -> Sum {
    (
        group.clone(),
        meters.0.map(|meter| -i128::from(meter) * i128::from(rows)),
    )
}

/// Bytes that differ where groups do: 0xFF, which no text holds, stands behind each text.
fn write_key(row: &EventView<'_>, by: By, key: &mut Vec<u8>) {
    let mut text = |text: &str| {
        key.extend_from_slice(text.as_bytes());
        key.push(0xff);
    };
    text(row.tenant_id);
    text(row.usage_period);
    if by.project {
        text(row.project_id);
    }
    if by.region {
        text(row.region);
    }
    if row.billable {
        text(row.billing_currency);
        text(row.model_id);
        text(row.service_tier.as_str());
        text(row.price_book_id);
        text(row.price_version);
        text(row.contract_version.unwrap_or_default());
    } else {
        text(row.nonbillable_reason.unwrap_or_default());
    }
    key.push(u8::from(row.billable) + 2 * u8::from(row.contract_version.is_some()));
    if by.day {
        key.extend(row.event_time.as_second().div_euclid(86_400).to_le_bytes());
    }
}

/// What all rows of each group add up to, in the order of groups.
#[derive(Debug, Default)]
pub(crate) struct Groups(Sorted<Sum>);

impl Groups {
    pub(crate) fn of(sums: impl IntoIterator<Item = Sorter<Sum>>) -> Self {
        Groups(Sorted::of(sums))
    }

    /// Each group once, as it is charged. What was taken back whole was never there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<(Group, Meters), ReportError>> + '_ {
        let mut sums = self.0.iter().peekable();
        iter::from_fn(move || next_whole(&mut sums).transpose())
            .filter(|sum| !sum.as_ref().is_ok_and(|(_, sum)| *sum == Wide::default()))
            .map(|sum| narrow(sum?))
    }
}

/// The next group with all that is known of it.
fn next_whole(sums: &mut Peekable<impl Iterator<Item = Result<Sum, SortError>>>) -> Result<Option<Sum>, SortError> {
    let Some((group, mut sum)) = sums.next().transpose()? else {
        return Ok(None);
    };
    while let Some((_, more)) = take_if(sums, |(next, _)| *next == group)? {
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    Ok(Some((group, sum)))
}

fn narrow((group, sum): Sum) -> Result<(Group, Meters), ReportError> {
    let mut meters = Meters::default();
    for meter in Meter::ALL {
        let quantity = i64::try_from(sum[meter as usize]).map_err(|_| ReportError::Quantity {
            tenant: group.tenant.to_string(),
            period: group.period.clone(),
            column: meter.column(),
        })?;
        meters.0[meter as usize] = quantity;
    }
    Ok((group, meters))
}
