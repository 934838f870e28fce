//! The columns of Cost and Usage, by version: those of FOCUS first, then ours, which begin with `x_`.

use super::Issuer;
use super::rows::{Row, RowKind};
use crate::money::Money;
use crate::report::sheet::{Cell, Column, Kind, column};
use crate::sku::Sku;

/// A version's columns, and what it says that the others do not.
pub(super) struct Version {
    pub(super) columns: &'static [Column],
    more: fn(&mut Cells, &Row, &Issuer),
}

pub(super) static V1_2: Version = Version {
    columns: &COLUMNS_1_2,
    more: |cells, _, issuer| {
        cells.set("ProviderName", text(&issuer.name));
        cells.set("PublisherName", text(&issuer.name));
    },
};

pub(super) static V1_4: Version = Version {
    columns: &COLUMNS_1_4,
    more: |cells, row, issuer| {
        let detail = row.invoice.as_ref().map(|(_, detail)| detail.as_str());
        cells.set("HostProviderName", text(&issuer.name));
        cells.set("InvoiceDetailId", Cell::text(detail));
        cells.set("ServiceProviderName", text(&issuer.name));
    },
};

impl Version {
    /// The cells of a row, one for each column.
    pub(super) fn cells(&self, row: &Row, issuer: &Issuer<'_>) -> Vec<Cell> {
        let mut cells = Cells::of(self.columns);
        common(&mut cells, row, issuer);
        (self.more)(&mut cells, row, issuer);
        cells.values
    }
}

/// FOCUS's columns that every version has.
const COMMON: [Column; 33] = [
    column("BilledCost", Kind::Exact),
    column("BillingAccountId", Kind::Text),
    column("BillingAccountName", Kind::Text),
    column("BillingCurrency", Kind::Text),
    column("BillingPeriodEnd", Kind::Time),
    column("BillingPeriodStart", Kind::Time),
    column("ChargeCategory", Kind::Text),
    column("ChargeClass", Kind::Text),
    column("ChargeDescription", Kind::Text),
    column("ChargeFrequency", Kind::Text),
    column("ChargePeriodEnd", Kind::Time),
    column("ChargePeriodStart", Kind::Time),
    column("ConsumedQuantity", Kind::Exact),
    column("ConsumedUnit", Kind::Text),
    column("ContractedCost", Kind::Exact),
    column("ContractedUnitPrice", Kind::Exact),
    column("EffectiveCost", Kind::Exact),
    column("InvoiceId", Kind::Text),
    column("InvoiceIssuerName", Kind::Text),
    column("ListCost", Kind::Exact),
    column("ListUnitPrice", Kind::Exact),
    column("PricingCategory", Kind::Text),
    column("PricingQuantity", Kind::Exact),
    column("PricingUnit", Kind::Text),
    column("RegionId", Kind::Text),
    column("RegionName", Kind::Text),
    column("ServiceCategory", Kind::Text),
    column("ServiceName", Kind::Text),
    column("ServiceSubcategory", Kind::Text),
    column("SkuId", Kind::Text),
    column("SkuMeter", Kind::Text),
    column("SkuPriceDetails", Kind::Text),
    column("SkuPriceId", Kind::Text),
];

const OURS: [Column; 6] = [
    column("x_ContractVersion", Kind::Text),
    column("x_Model", Kind::Text),
    column("x_PriceBook", Kind::Text),
    column("x_PriceVersion", Kind::Text),
    column("x_ServiceTier", Kind::Text),
    column("x_TokenType", Kind::Text),
];

static COLUMNS_1_2: [Column; 41] = all([column("ProviderName", Kind::Text), column("PublisherName", Kind::Text)]);

static COLUMNS_1_4: [Column; 42] = all([
    column("HostProviderName", Kind::Text),
    column("InvoiceDetailId", Kind::Text),
    column("ServiceProviderName", Kind::Text),
]);

/// The common columns, `more` behind them, and ours last.
const fn all<const MORE: usize, const ALL: usize>(more: [Column; MORE]) -> [Column; ALL] {
    let mut all = [COMMON[0]; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < COMMON.len() {
            COMMON[at]
        } else if at < COMMON.len() + MORE {
            more[at - COMMON.len()]
        } else {
            OURS[at - COMMON.len() - MORE]
        };
        at += 1;
    }
    all
}

fn common(cells: &mut Cells, row: &Row, issuer: &Issuer<'_>) {
    let amount = |amount: Money| Cell::Exact(amount, Some(row.currency));
    cells.set("BillingAccountId", text(row.tenant.as_str()));
    cells.set("BillingCurrency", text(row.currency.code()));
    cells.set("BillingPeriodEnd", Cell::Time(row.billed_in.end()));
    cells.set("BillingPeriodStart", Cell::Time(row.billed_in.start()));
    cells.set("ChargePeriodEnd", Cell::Time(row.charged_for.end()));
    cells.set("ChargePeriodStart", Cell::Time(row.charged_for.start()));
    cells.set(
        "InvoiceId",
        Cell::text(row.invoice.as_ref().map(|(number, _)| number.as_str())),
    );
    cells.set("InvoiceIssuerName", text(&issuer.name));
    cells.set("ServiceCategory", text("AI and Machine Learning"));
    cells.set("ServiceName", text("BitNet inference"));
    cells.set("ServiceSubcategory", text("Generative AI"));
    let mut costs = |billed: Money, effective: Money, list: Money, contracted: Money| {
        cells.set("BilledCost", amount(billed));
        cells.set("EffectiveCost", amount(effective));
        cells.set("ListCost", amount(list));
        cells.set("ContractedCost", amount(contracted));
    };
    match &row.kind {
        RowKind::Usage { charge, .. } => {
            let (list, contracted) = (charge.list_cost, charge.contracted_cost);
            costs(contracted, contracted, list, contracted);
        }
        RowKind::Correction { list, contracted, .. } => costs(*contracted, *contracted, *list, *contracted),
        RowKind::Other { amount, .. } => costs(*amount, *amount, *amount, *amount),
    }
    match &row.kind {
        RowKind::Usage {
            sku,
            price_book,
            price_version,
            contract_version,
            charge,
        } => {
            let exact = |amount: Money| Cell::Exact(amount, None);
            usage(cells, sku, charge.region.as_deref(), charge.consumed);
            cells.set("ContractedUnitPrice", exact(charge.contracted_unit_price));
            cells.set("ListUnitPrice", exact(charge.list_unit_price));
            cells.set("PricingQuantity", exact(charge.pricing_quantity));
            cells.set("PricingUnit", text(&charge.pricing_unit));
            cells.set("SkuPriceId", text(format!("{sku}/{}", charge.step)));
            cells.set("x_ContractVersion", Cell::text(contract_version.as_deref()));
            cells.set("x_PriceBook", text(price_book));
            cells.set("x_PriceVersion", text(price_version));
        }
        RowKind::Correction {
            sku, region, quantity, ..
        } => {
            usage(cells, sku, region.as_deref(), *quantity);
            cells.set("ChargeClass", text("Correction"));
        }
        RowKind::Other {
            category, description, ..
        } => {
            cells.set("ChargeCategory", text(*category));
            cells.set("ChargeDescription", text(description));
            cells.set("ChargeFrequency", text("One-Time"));
            if *category == "Purchase" {
                purchase(cells, row, description);
            }
        }
    }
}

/// What usage rows and their corrections have in common.
fn usage(cells: &mut Cells, sku: &Sku, region: Option<&str>, quantity: i64) {
    let class = sku.meter.class().replace('_', " ");
    let (unit, noun) = if sku.meter.is_tokens() {
        ("Tokens", " tokens")
    } else {
        ("Requests", "s")
    };
    let consumed = Money::from_parts(i128::from(quantity) * 10_i128.pow(18)).unwrap_or_default();
    cells.set("ChargeCategory", text("Usage"));
    cells.set("ChargeFrequency", text("Usage-Based"));
    let description = format!("{}, {} tier: {class}{noun}", sku.model_id, sku.tier.as_str());
    cells.set("ChargeDescription", text(description));
    cells.set("ConsumedQuantity", Cell::Exact(consumed, None));
    cells.set("ConsumedUnit", text(unit));
    cells.set("PricingCategory", text("Standard"));
    cells.set("RegionId", Cell::text(region));
    cells.set("RegionName", Cell::text(region));
    cells.set("SkuId", text(sku.to_string()));
    cells.set("SkuMeter", text(sku.meter.column()));
    cells.set("x_Model", text(&sku.model_id));
    cells.set("x_ServiceTier", text(sku.tier.as_str()));
    cells.set(
        "x_TokenType",
        if sku.meter.is_tokens() {
            text(class)
        } else {
            Cell::Empty
        },
    );
}

/// A fee, a minimum or a credit: bought once, at its amount.
fn purchase(cells: &mut Cells, row: &Row, description: &str) {
    let RowKind::Other { amount, .. } = row.kind else {
        return;
    };
    let one = Money::from_parts(10_i128.pow(18)).unwrap_or_default();
    let (quantity, price) = match amount < Money::ZERO {
        true => (one.negated(), amount.negated()),
        false => (one, amount),
    };
    let sku = sku_of_terms(description);
    cells.set("ContractedUnitPrice", Cell::Exact(price, None));
    cells.set("ListUnitPrice", Cell::Exact(price, None));
    cells.set("PricingCategory", text("Standard"));
    cells.set("PricingQuantity", Cell::Exact(quantity, None));
    cells.set("PricingUnit", text("Months"));
    cells.set("SkuId", text(&sku));
    cells.set("SkuPriceId", text(sku));
}

/// What a fee, a minimum or a credit is sold as.
pub(super) fn sku_of_terms(description: &str) -> String {
    let word = description.split(|c: char| !c.is_alphanumeric()).next();
    format!("terms/{}", word.unwrap_or_default().to_lowercase())
}

/// The cells of a row, set by the names of their columns.
struct Cells {
    columns: &'static [Column],
    values: Vec<Cell>,
}

impl Cells {
    fn of(columns: &'static [Column]) -> Self {
        let values = vec![Cell::Empty; columns.len()];
        Cells { columns, values }
    }

    fn set(&mut self, name: &str, cell: Cell) {
        let at = self.columns.iter().position(|column| column.name == name);
        self.values[at.expect("the version has the column")] = cell;
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}
