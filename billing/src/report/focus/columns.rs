//! The columns of Cost and Usage, by version. Ours begin with `x_`.

use super::Issuer;
use super::rows::{Row, RowKind};
use crate::money::Money;
use crate::report::sheet::{Cell, Column, Kind, column};
use crate::sku::Sku;

/// A version's columns, and the cells of a row in them.
pub(super) struct Version {
    pub(super) columns: &'static [Column],
    pub(super) cells: fn(&Row, &Issuer) -> Vec<Cell>,
}

pub(super) static V1_2: Version = Version {
    columns: &COLUMNS_1_2,
    cells: |row, issuer| {
        let mut cells = common(row, issuer);
        cells.extend([text(&issuer.name), text(&issuer.name)]);
        cells
    },
};

pub(super) static V1_4: Version = Version {
    columns: &COLUMNS_1_4,
    cells: |row, issuer| {
        let mut cells = common(row, issuer);
        let detail = row.invoice.as_ref().map(|(_, detail)| detail.as_str());
        cells.extend([text(&issuer.name), text(&issuer.name), Cell::text(detail)]);
        cells
    },
};

const COMMON: [Column; 39] = [
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
    // A row is what a month sold at one price, wherever: no price depends on the region, and the steps of a price
    // count across them. So both stay null.
    column("RegionId", Kind::Text),
    column("RegionName", Kind::Text),
    column("ServiceCategory", Kind::Text),
    column("ServiceName", Kind::Text),
    column("ServiceSubcategory", Kind::Text),
    column("SkuId", Kind::Text),
    column("SkuMeter", Kind::Text),
    column("SkuPriceDetails", Kind::Text),
    column("SkuPriceId", Kind::Text),
    column("x_ContractVersion", Kind::Text),
    column("x_Model", Kind::Text),
    column("x_PriceBook", Kind::Text),
    column("x_PriceVersion", Kind::Text),
    column("x_ServiceTier", Kind::Text),
    column("x_TokenType", Kind::Text),
];

static COLUMNS_1_2: [Column; 41] = with([column("ProviderName", Kind::Text), column("PublisherName", Kind::Text)]);

static COLUMNS_1_4: [Column; 42] = with([
    column("HostProviderName", Kind::Text),
    column("ServiceProviderName", Kind::Text),
    column("InvoiceDetailId", Kind::Text),
]);

/// The common columns, and `more` behind them.
const fn with<const MORE: usize, const ALL: usize>(more: [Column; MORE]) -> [Column; ALL] {
    let mut all = [COMMON[0]; ALL];
    let mut at = 0;
    while at < ALL {
        all[at] = if at < COMMON.len() {
            COMMON[at]
        } else {
            more[at - COMMON.len()]
        };
        at += 1;
    }
    all
}

fn common(row: &Row, issuer: &Issuer) -> Vec<Cell> {
    let amount = |amount: Money| Cell::Exact(amount, Some(row.currency));
    let mut cells = Cells::of(&COMMON);
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
            usage(&mut cells, sku, charge.consumed);
            cells.set("ContractedUnitPrice", exact(charge.contracted_unit_price));
            cells.set("ListUnitPrice", exact(charge.list_unit_price));
            cells.set("PricingQuantity", exact(charge.pricing_quantity));
            cells.set("PricingUnit", text(&charge.pricing_unit));
            cells.set("SkuPriceId", text(format!("{sku}/{}/{}", row.currency, charge.step)));
            cells.set("x_ContractVersion", Cell::text(contract_version.as_deref()));
            cells.set("x_PriceBook", text(price_book));
            cells.set("x_PriceVersion", text(price_version));
        }
        RowKind::Correction { sku, quantity, .. } => {
            usage(&mut cells, sku, *quantity);
            cells.set("ChargeClass", text("Correction"));
        }
        RowKind::Other {
            category, description, ..
        } => {
            cells.set("ChargeCategory", text(*category));
            cells.set("ChargeDescription", text(description));
            cells.set("ChargeFrequency", text("One-Time"));
            if *category == "Purchase" {
                purchase(&mut cells, row, description);
            }
        }
    }
    cells.0
}

/// What usage rows and their corrections have in common.
fn usage(cells: &mut Cells, sku: &Sku, quantity: i64) {
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
    let sku = description
        .split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default()
        .to_lowercase();
    cells.set("ContractedUnitPrice", Cell::Exact(price, None));
    cells.set("ListUnitPrice", Cell::Exact(price, None));
    cells.set("PricingCategory", text("Standard"));
    cells.set("PricingQuantity", Cell::Exact(quantity, None));
    cells.set("PricingUnit", text("Months"));
    cells.set("SkuId", text(format!("terms/{sku}")));
    cells.set("SkuPriceId", text(format!("terms/{sku}/{}", row.currency)));
}

/// The cells of a row, set by the names of their columns.
struct Cells(Vec<Cell>);

impl Cells {
    fn of(columns: &[Column]) -> Self {
        let mut cells = Vec::with_capacity(columns.len() + 3);
        cells.resize(columns.len(), Cell::Empty);
        Cells(cells)
    }

    fn set(&mut self, name: &str, cell: Cell) {
        let at = COMMON.iter().position(|column| column.name == name);
        self.0[at.expect("the column is among the common ones")] = cell;
    }
}

fn text(text: impl Into<String>) -> Cell {
    Cell::Text(text.into())
}
