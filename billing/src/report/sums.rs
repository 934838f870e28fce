//! Quantities, added up by what they are charged for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemas::columns::ReadError;
use schemas::ids::TenantId;
use schemas::request::ServiceTier;
use schemas::view::EventView;

use super::ReportError;
use crate::sku::Meter;

/// Most sums in one report; more would be neither read nor held.
const GROUPS_MAX: usize = 3_000_000;

/// How much of each meter, in the order of [`Meter::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Part {
    /// Which day, UTC.
    pub day: Option<Date>,
    /// Which project.
    pub project: Option<String>,
    /// Which region.
    pub region: Option<String>,
}

/// Why a row's quantity is charged as it is, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Group {
    pub(crate) tenant: TenantId,
    pub(crate) period: String,
    pub(crate) charge: Charge,
    pub(crate) part: Part,
}

impl Group {
    /// Whether both are parts of one line.
    pub(crate) fn is_of_line(&self, other: &Group) -> bool {
        (&self.tenant, &self.period, &self.charge) == (&other.tenant, &other.period, &other.charge)
    }

    fn of(row: &EventView<'_>, by: By) -> Result<Self, ReadError> {
        let tenant = row.tenant_id.parse::<TenantId>();
        let tenant = tenant.map_err(|problem| ReadError::Value {
            row: 0,
            column: "tenant_id",
            problem: format!("event {}: {problem}", row.event_id),
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

/// What all rows of each group add up to.
pub(crate) type Groups = BTreeMap<Group, Meters>;

/// Sums while rows are read. A group is made for its first row only; the others find it by its bytes.
#[derive(Default)]
pub(crate) struct Sums {
    by: By,
    index: HashMap<Box<[u8]>, usize>,
    groups: Vec<(Arc<Group>, Wide)>,
    scratch: Vec<u8>,
}

/// Wide enough for what is taken back again later.
type Wide = [i128; 4];

impl Sums {
    pub(crate) fn by(by: By) -> Self {
        Sums { by, ..Sums::default() }
    }

    /// The group of a row.
    pub(crate) fn group(&mut self, row: &EventView<'_>) -> Result<Arc<Group>, ReportError> {
        let index = self.index_of(row)?;
        Ok(self.groups[index].0.clone())
    }

    /// Adds a row to its group.
    pub(crate) fn add(&mut self, row: &EventView<'_>) -> Result<(), ReportError> {
        let index = self.index_of(row)?;
        let sum = &mut self.groups[index].1;
        for (sum, quantity) in sum.iter_mut().zip(Meters::of(row).0) {
            *sum += i128::from(quantity);
        }
        Ok(())
    }

    fn index_of(&mut self, row: &EventView<'_>) -> Result<usize, ReportError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        write_key(row, self.by, &mut scratch);
        let found = self.index.get(scratch.as_slice()).copied();
        let index = match found {
            Some(index) => index,
            None => {
                if self.groups.len() == GROUPS_MAX {
                    return Err(ReportError::Groups { most: GROUPS_MAX });
                }
                let group = Group::of(row, self.by).map_err(|source| ReportError::Row {
                    table: "billing_events",
                    source,
                })?;
                self.groups.push((Arc::new(group), Wide::default()));
                self.index.insert(scratch.as_slice().into(), self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        self.scratch = scratch;
        Ok(index)
    }

    /// Adds what was summed up here.
    pub(crate) fn add_to(self, totals: &mut Totals) {
        drop(self.index);
        for (group, sum) in self.groups {
            totals.add(group, sum, 1);
        }
    }
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

/// The sums of all threads.
#[derive(Default)]
pub(crate) struct Totals(BTreeMap<Arc<Group>, Wide>);

impl Totals {
    /// Adds `quantity` so many `times`.
    fn add(&mut self, group: Arc<Group>, quantity: Wide, times: i128) {
        let sum = self.0.entry(group).or_default();
        for (sum, quantity) in sum.iter_mut().zip(quantity) {
            *sum += quantity * times;
        }
    }

    /// Takes rows back that were added before.
    pub(crate) fn take_back(&mut self, group: &Arc<Group>, meters: Meters, rows: u32) {
        self.add(group.clone(), meters.0.map(i128::from), -i128::from(rows));
    }

    /// The sums as they are charged.
    pub(crate) fn finish(self) -> Result<Groups, ReportError> {
        let narrow = |(group, sum): (Arc<Group>, Wide)| {
            let mut meters = Meters::default();
            for meter in Meter::ALL {
                let quantity = i64::try_from(sum[meter as usize]).map_err(|_| ReportError::Quantity {
                    tenant: group.tenant.to_string(),
                    period: group.period.clone(),
                    column: meter.column(),
                })?;
                meters.0[meter as usize] = quantity;
            }
            Ok((Arc::unwrap_or_clone(group), meters))
        };
        // What was taken back whole was never there.
        self.0
            .into_iter()
            .filter(|(_, sum)| *sum != Wide::default())
            .map(narrow)
            .collect()
    }
}
