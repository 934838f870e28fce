//! Gives each event that counts its amounts, exact and unrounded: what it added to its month.
//!
//! An event costs `rate(before + quantity) - rate(before)`, where `before` is what the tenant was charged of
//! the SKU in the event's month, at the event's versions of price and contract: by earlier closes, and by
//! the events in front of it in the order of their ids. So the amounts of a month add up to the rate of its
//! sum, a late event adds the rate of what is then the sum, and a reversal takes back what it was.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use schemas::columns::WriteError;
use schemas::ids::TenantId;
use schemas::request::ServiceTier;

use super::events::{Event, Held, Terms};
use super::{BoxError, CloseError, Rows};
use crate::contract::Contracts;
use crate::money::{Currency, Money, MoneyError, OUT_OF_RANGE};
use crate::period::Period;
use crate::price_book::PriceBook;
use crate::rate::{PricePoint, rate};
use crate::sku::{Meter, Sku};
use crate::sorted::RUN_BYTES;

pub use super::events::{Counts, Refused};

/// Rows in one batch of rated rows.
const BATCH_ROWS: usize = 16_384;

/// What is charged alike: one SKU of a tenant in one month at one price.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChargeKey {
    /// Who.
    pub tenant: TenantId,
    /// Of the amounts.
    pub currency: Currency,
    /// In which month it was used.
    pub charge_period: Period,
    /// What.
    pub sku: Sku,
    /// Version of the price book.
    pub price_version: String,
    /// Version of the contract; none at list.
    pub contract_version: Option<String>,
}

/// What a month charges of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// For what.
    pub key: ChargeKey,
    /// Whether the price was negotiated.
    pub negotiated: bool,
    /// Quantity that earlier closes charged.
    pub before: i64,
    /// Quantity charged now; negative if more was taken back than added.
    pub quantity: i64,
    /// How much of it each region has; they add up to it. A region of which nothing is left is not there.
    pub regions: BTreeMap<String, i64>,
    /// At list price, exact.
    pub list: Money,
    /// At the tenant's price, exact.
    pub contracted: Money,
}

/// Quantities that earlier closes charged.
pub type Booked = BTreeMap<ChargeKey, i64>;

/// What is rated with what.
pub struct Inputs<'a> {
    /// The month to be closed.
    pub period: Period,
    /// Rows of `billing_events` of this month and earlier ones that no earlier close has read.
    pub ledger: &'a Rows<'a>,
    /// The rated rows of earlier closes; `event_id` and `payload_hash` will do.
    pub earlier: &'a Rows<'a>,
    /// What earlier closes charged.
    pub booked: &'a Booked,
    /// Every version that the ledger names.
    pub book: &'a PriceBook,
    /// Every contract that the ledger names.
    pub contracts: &'a Contracts,
}

/// Rates a month. Hands the rated rows over batch by batch, in the order of event ids, and returns what they
/// add up to. Memory does not grow with the rows.
///
/// # Errors
/// See [`CloseError`].
pub fn rate_month(
    inputs: &Inputs<'_>,
    mut keep: impl FnMut(RecordBatch) -> Result<(), BoxError>,
) -> Result<(Vec<Charge>, Counts), CloseError> {
    let held = Held::read(inputs.period, inputs.ledger, inputs.earlier, RUN_BYTES)?;
    let mut prices = Prices::default();
    let (mut events, mut rated) = (Vec::new(), Vec::new());
    let mut keep_all = |events: &mut Vec<Event>, rated: &mut Vec<Amounts>| {
        let batch = batch(events, rated, &held, inputs.period)?;
        events.clear();
        rated.clear();
        keep(batch).map_err(|source| CloseError::Io {
            what: "rated rows",
            source,
        })
    };
    let counts = held.settle(|event| {
        rated.push(prices.rated(&event, &held, inputs)?);
        events.push(event);
        match events.len() {
            BATCH_ROWS => keep_all(&mut events, &mut rated),
            _ => Ok(()),
        }
    })?;
    if !events.is_empty() {
        keep_all(&mut events, &mut rated)?;
    }
    Ok((prices.charges(&held.terms)?, counts))
}

/// Amounts of one event, in the order of [`Meter::ALL`].
#[derive(Debug, Clone, Copy, Default)]
struct Amounts {
    list: [Money; 4],
    contracted: [Money; 4],
}

/// The sums so far, by price.
#[derive(Default)]
struct Prices {
    /// By the place of the terms; none if they are free of charge.
    of_terms: Vec<Option<Sold>>,
    index: HashMap<PriceKey, u32>,
    sums: Vec<[Option<Sum>; 4]>,
}

/// What was sold at some terms.
struct Sold {
    /// Of its sums.
    place: u32,
    /// In the order of [`Meter::ALL`]; wide enough for what is taken back again later.
    quantities: [i128; 4],
}

#[derive(PartialEq, Eq, Hash)]
struct PriceKey {
    tenant: TenantId,
    currency: String,
    period: Period,
    model_id: String,
    tier: ServiceTier,
    price_book: String,
    price_version: String,
    contract_version: Option<String>,
}

/// What is charged of one key up to the last event.
struct Sum {
    key: ChargeKey,
    list: PricePoint,
    negotiated: Option<PricePoint>,
    before: i64,
    quantity: i64,
    regions: BTreeMap<String, i128>,
    /// List and contracted amounts of `before`, and of everything.
    started: (Money, Money),
    reached: (Money, Money),
}

impl Prices {
    fn rated(&mut self, event: &Event, held: &Held, inputs: &Inputs<'_>) -> Result<Amounts, CloseError> {
        let mut amounts = Amounts::default();
        for index in self.of_terms.len()..held.terms.len() {
            let place = self.place(&held.terms[index], inputs)?;
            let quantities = [0; 4];
            self.of_terms.push(place.map(|place| Sold { place, quantities }));
        }
        let Some(sold) = &mut self.of_terms[event.terms as usize] else {
            return Ok(amounts);
        };
        for (at, sum) in self.sums[sold.place as usize].iter_mut().enumerate() {
            let (Some(sum), quantity @ (..=-1 | 1..)) = (sum, event.meters[at]) else {
                continue;
            };
            sold.quantities[at] += i128::from(quantity);
            let added = sum.add(quantity).map_err(|source| CloseError::Money {
                tenant: sum.key.tenant.clone(),
                source,
            })?;
            (amounts.list[at], amounts.contracted[at]) = added;
        }
        Ok(amounts)
    }

    fn place(&mut self, terms: &Terms, inputs: &Inputs<'_>) -> Result<Option<u32>, CloseError> {
        if terms.free.is_some() {
            return Ok(None);
        }
        let key = PriceKey {
            tenant: terms.tenant.clone(),
            currency: terms.currency.clone(),
            period: terms.period,
            model_id: terms.model_id.clone(),
            tier: terms.tier,
            price_book: terms.price_book.clone(),
            price_version: terms.price_version.clone(),
            contract_version: terms.contract_version.clone(),
        };
        if let Some(place) = self.index.get(&key) {
            return Ok(Some(*place));
        }
        let place = self.sums.len() as u32;
        self.sums.push(sums(terms, inputs)?);
        self.index.insert(key, place);
        Ok(Some(place))
    }

    fn charges(mut self, terms: &[Terms]) -> Result<Vec<Charge>, CloseError> {
        for (terms, sold) in terms.iter().zip(self.of_terms) {
            let Some(Sold { place, quantities }) = sold else {
                continue;
            };
            for (sum, quantity) in self.sums[place as usize].iter_mut().zip(quantities) {
                if let Some(sum) = sum {
                    *sum.regions.entry(terms.region.clone()).or_default() += quantity;
                }
            }
        }
        let mut charges = Vec::new();
        for sum in self.sums.into_iter().flatten().flatten() {
            let tenant = sum.key.tenant.clone();
            charges.push(sum.charge().map_err(|source| CloseError::Money { tenant, source })?);
        }
        charges.sort_by(|a: &Charge, b| a.key.cmp(&b.key));
        Ok(charges)
    }
}

/// A sum for each meter that has a price.
fn sums(terms: &Terms, inputs: &Inputs<'_>) -> Result<[Option<Sum>; 4], CloseError> {
    let unknown = |what: String| CloseError::Terms {
        tenant: terms.tenant.clone(),
        period: terms.period.to_string(),
        what,
    };
    let (book, name) = (inputs.book, &terms.price_version);
    let version = book.version(name).filter(|_| terms.price_book == book.id);
    let version = version.ok_or_else(|| unknown(format!("version {name} of price book {}", terms.price_book)))?;
    let contract = match &terms.contract_version {
        None => None,
        Some(name) => {
            let contract = inputs.contracts.version(terms.tenant.as_str(), name);
            Some(contract.ok_or_else(|| unknown(format!("contract version {name} of {}", terms.tenant)))?)
        }
    };
    let currency = terms.currency.parse::<Currency>().ok();
    let currency = currency
        .filter(|currency| version.currencies.contains(currency))
        .ok_or_else(|| unknown(format!("prices in {} in price version {name}", terms.currency)))?;
    let sum = |meter| {
        let sku = Sku {
            model_id: terms.model_id.clone(),
            tier: terms.tier,
            meter,
        };
        let negotiated = contract.and_then(|contract| contract.negotiated(&sku)).cloned();
        let list = version.list(&sku, currency).cloned().or_else(|| negotiated.clone());
        let key = ChargeKey {
            tenant: terms.tenant.clone(),
            currency,
            charge_period: terms.period,
            sku,
            price_version: name.clone(),
            contract_version: terms.contract_version.clone(),
        };
        let before = inputs.booked.get(&key).copied().unwrap_or(0);
        list.map(|list| Sum::new(key, list, negotiated, before)).transpose()
    };
    let [input, cached, output, requests] = Meter::ALL.map(sum);
    let all = || Ok::<_, MoneyError>([input?, cached?, output?, requests?]);
    all().map_err(|source| CloseError::Money {
        tenant: terms.tenant.clone(),
        source,
    })
}

impl Sum {
    fn new(key: ChargeKey, list: PricePoint, negotiated: Option<PricePoint>, before: i64) -> Result<Self, MoneyError> {
        let mut sum = Sum {
            key,
            list,
            negotiated,
            before,
            quantity: 0,
            regions: BTreeMap::new(),
            started: Default::default(),
            reached: Default::default(),
        };
        sum.started = sum.amounts()?;
        sum.reached = sum.started;
        Ok(sum)
    }

    fn amounts(&self) -> Result<(Money, Money), MoneyError> {
        let quantity = self.before.checked_add(self.quantity).ok_or(OUT_OF_RANGE)?;
        let list = rate(&self.list, quantity)?;
        let contracted = match &self.negotiated {
            Some(point) => rate(point, quantity)?,
            None => list,
        };
        Ok((list, contracted))
    }

    fn add(&mut self, quantity: i64) -> Result<(Money, Money), MoneyError> {
        self.quantity = self.quantity.checked_add(quantity).ok_or(OUT_OF_RANGE)?;
        let (list, contracted) = self.amounts()?;
        let added = (list.minus(self.reached.0)?, contracted.minus(self.reached.1)?);
        self.reached = (list, contracted);
        Ok(added)
    }

    fn charge(self) -> Result<Charge, MoneyError> {
        let regions = self.regions.into_iter().filter(|(_, quantity)| *quantity != 0);
        let narrow = |(region, quantity)| Ok((region, i64::try_from(quantity).map_err(|_| OUT_OF_RANGE)?));
        Ok(Charge {
            key: self.key,
            negotiated: self.negotiated.is_some(),
            before: self.before,
            quantity: self.quantity,
            regions: regions.map(narrow).collect::<Result<_, MoneyError>>()?,
            list: self.reached.0.minus(self.started.0)?,
            contracted: self.reached.1.minus(self.started.1)?,
        })
    }
}

/// Rated rows as columns; `docs/finance.md` says what each holds.
fn batch(events: &[Event], rated: &[Amounts], held: &Held, period: Period) -> Result<RecordBatch, WriteError> {
    let terms: Vec<&Terms> = events.iter().map(|event| held.terms_of(event)).collect();
    let mut columns = Columns::default();
    let text = |of: fn(&Terms) -> &str| StringArray::from_iter_values(terms.iter().map(|terms| of(terms)));
    let optional = |of: fn(&Terms) -> Option<&str>| terms.iter().map(|terms| of(terms)).collect::<StringArray>();
    columns.add(
        "event_id",
        StringArray::from_iter_values(events.iter().map(|event| event.id.to_string())),
    );
    columns.add(
        "payload_hash",
        StringArray::from_iter_values(events.iter().map(|event| hex::encode(event.hash))),
    );
    columns.add(
        "event_kind",
        StringArray::from_iter_values(events.iter().map(|event| event.kind().as_str())),
    );
    let times = TimestampMicrosecondArray::from_iter_values(events.iter().map(|event| event.time_us));
    columns.add("event_time", times.with_timezone("UTC"));
    columns.add(
        "billing_period",
        StringArray::from_iter_values(terms.iter().map(|_| period.to_string())),
    );
    columns.add(
        "usage_period",
        StringArray::from_iter_values(terms.iter().map(|terms| terms.period.to_string())),
    );
    let class = |terms: &&Terms| (terms.period < period).then_some("Correction");
    columns.add_nullable("charge_class", terms.iter().map(class).collect::<StringArray>());
    columns.add("tenant_id", text(|terms| terms.tenant.as_str()));
    columns.add("project_id", text(|terms| terms.project.as_str()));
    columns.add("region", text(|terms| &terms.region));
    columns.add("residency_zone", text(|terms| &terms.zone));
    columns.add("model_id", text(|terms| &terms.model_id));
    columns.add("service_tier", text(|terms| terms.tier.as_str()));
    columns.add(
        "billable",
        BooleanArray::from_iter(terms.iter().map(|terms| Some(terms.free.is_none()))),
    );
    columns.add_nullable("nonbillable_reason", optional(|terms| terms.free.as_deref()));
    columns.add("price_book_id", text(|terms| &terms.price_book));
    columns.add("price_version", text(|terms| &terms.price_version));
    columns.add_nullable("contract_version", optional(|terms| terms.contract_version.as_deref()));
    columns.add("currency", text(|terms| &terms.currency));
    let corrects = events.iter().map(|event| event.corrects.map(|id| id.to_string()));
    columns.add_nullable("corrects_event_id", corrects.collect::<StringArray>());
    for (at, meter) in Meter::ALL.into_iter().enumerate() {
        columns.add(
            meter.column(),
            Int64Array::from_iter_values(events.iter().map(|event| event.meters[at])),
        );
    }
    for (at, meter) in Meter::ALL.into_iter().enumerate() {
        columns.add_money(format!("list_{}", meter.class()), rated.iter().map(|one| one.list[at]));
        columns.add_money(
            format!("contracted_{}", meter.class()),
            rated.iter().map(|one| one.contracted[at]),
        );
    }
    Ok(RecordBatch::try_new(
        Arc::new(Schema::new(columns.fields)),
        columns.arrays,
    )?)
}

#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn add(&mut self, name: impl Into<String>, array: impl Array + 'static) {
        self.fields.push(Field::new(name, array.data_type().clone(), false));
        self.arrays.push(Arc::new(array));
    }

    fn add_nullable(&mut self, name: impl Into<String>, array: impl Array + 'static) {
        self.fields.push(Field::new(name, array.data_type().clone(), true));
        self.arrays.push(Arc::new(array));
    }

    fn add_money(&mut self, name: String, amounts: impl Iterator<Item = Money>) {
        let array = Decimal128Array::from_iter_values(amounts.map(Money::parts));
        self.add(name, array.with_data_type(DataType::Decimal128(38, 18)));
    }
}
