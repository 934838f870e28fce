//! Whether the ledger says what the results say: row by row, token by token, cent by cent.
//!
//! Each row of `results` is rated again with the same pure function that wrote the ledger, and the ledger
//! row of that result must be equal in every field. Rows are paired in rounds ([`super::pairing`]); those
//! that do not pair are read once more, to say what is wrong with each. Corrections have no result; each must
//! be what the row that it corrects makes of it ([`super::corrections`]).

use std::collections::{BTreeMap, BTreeSet};

use schemas::billing::EventKind;
use schemas::ids::{JobId, TenantId};
use uuid::Uuid;

use super::corrections::{self, Corrections};
use super::invoiced::Invoiced;
use super::ledger::{Quarantine, Quarantined};
use super::lines::{Line, Rated, Rating, Unrated};
use super::months::MonthCheck;
use super::pairing::Pairing;
use super::sums::{Charge, Groups, Meters};
use super::usage::{Sources, note};
use super::{Difference, ReportError, Table};
use crate::contract::Contracts;
use crate::money::{Currency, Money, MoneyError};
use crate::price_book::PriceBook;
use crate::sku::Meter;
use crate::sorted::RUN_BYTES;

/// How many requests each job was submitted with.
pub type Expected = BTreeMap<(TenantId, JobId), u64>;

/// What does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A result that the ledger does not have, or a ledger row without a result, or one of them twice.
    Unpaired {
        /// Which result.
        result_id: Uuid,
        /// Whose, of which job, and which request.
        request: String,
        /// Rows of `results` with this id.
        results: u32,
        /// Rows of `billing_events` with this id.
        events: u32,
    },
    /// A ledger row that is not what its result makes.
    Differs {
        /// Which result.
        result_id: Uuid,
        /// Whose, of which job, and which request.
        request: String,
        /// Which fields.
        fields: Vec<Difference>,
    },
    /// A ledger row that is in no total.
    Quarantined(Quarantined),
    /// A correction that is not made of the row that it corrects.
    Correction {
        /// Which row.
        event_id: Uuid,
        /// What it does.
        kind: EventKind,
        /// Whose, of which job, and which request.
        request: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Ledger rows that name a price or contract that was not given.
    Unrated(Unrated),
    /// A job with more or fewer results than requests.
    Job {
        /// Whose.
        tenant: TenantId,
        /// Which.
        job: JobId,
        /// Requests submitted.
        expected: u64,
        /// Requests with a result.
        found: u64,
    },
    /// A file of a closed month that is not what it was when the month was closed.
    Closed {
        /// Which file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A closed month whose invoices do not charge what its ledger rates to.
    Month(MonthCheck),
    /// A sum that is not the same on both sides.
    Sum {
        /// Of what.
        what: String,
        /// From `results`.
        results: String,
        /// From `billing_events`.
        ledger: String,
    },
}

/// One tenant's charged tokens and requests on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantCheck {
    /// Who.
    pub tenant: TenantId,
    /// Counted in `results`.
    pub results: Meters,
    /// Counted in `billing_events`.
    pub ledger: Meters,
}

/// One currency's amounts on both sides: rated + rounding = invoiced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyCheck {
    /// Which.
    pub currency: Currency,
    /// Σ rated, from `results`.
    pub rated_results: Money,
    /// Σ rated, from `billing_events`.
    pub rated: Money,
    /// Σ over invoice lines of what rounding added.
    pub rounding: Money,
    /// Σ invoice lines.
    pub invoiced: Money,
}

/// The reconciliation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciliation {
    /// Rows of `results`, each id once.
    pub results: u64,
    /// Usage rows of `billing_events`, each result once.
    pub events: u64,
    /// Jobs whose number of requests was checked.
    pub jobs: usize,
    /// Corrections that were checked.
    pub corrections: Corrections,
    /// Closed months that were rated again.
    pub closed: usize,
    /// Their amounts, by currency.
    pub months: Vec<MonthCheck>,
    /// Sums by tenant.
    pub tenants: Vec<TenantCheck>,
    /// Sums by currency.
    pub money: Vec<MoneyCheck>,
    /// How much does not agree.
    pub findings: u64,
    /// What does not agree; the first hundred of each kind.
    pub shown: Vec<Finding>,
    /// Tenants with charges under no contract.
    pub at_list: BTreeSet<TenantId>,
    /// What the amounts were made with.
    pub sources: Sources,
}

impl Reconciliation {
    /// The verdict.
    pub fn passed(&self) -> bool {
        self.findings == 0
    }

    /// Adds what else was found.
    pub fn find(&mut self, finding: Finding) {
        self.findings += 1;
        self.shown.push(finding);
    }

    /// Adds the amounts of closed months.
    pub fn find_months(&mut self, months: Vec<MonthCheck>) {
        for month in months.iter().filter(|month| !month.agrees()) {
            self.find(Finding::Month(month.clone()));
        }
        self.months.extend(months);
    }

    fn find_quarantined(&mut self, quarantine: &Quarantine) {
        // A payload that is shown may have several rows.
        self.findings += quarantine.rows - quarantine.shown.len() as u64;
        quarantine
            .shown
            .iter()
            .for_each(|row| self.find(Finding::Quarantined(row.clone())));
    }

    fn find_jobs(&mut self, expected: &Expected, found: &Expected) {
        for ((tenant, job), expected) in expected {
            let found = found.get(&(tenant.clone(), job.clone())).copied().unwrap_or_default();
            if found != *expected {
                self.find(Finding::Job {
                    tenant: tenant.clone(),
                    job: job.clone(),
                    expected: *expected,
                    found,
                });
            }
        }
    }

    /// Rates both sides.
    fn rate(
        &mut self,
        results: &Groups,
        ledger: &Groups,
        book: &PriceBook,
        contracts: &Contracts,
    ) -> Result<(), ReportError> {
        let nothing = Invoiced::default();
        let rating = Rating {
            book,
            contracts,
            invoiced: &nothing,
        };
        let mut checks: BTreeMap<Currency, MoneyCheck> = BTreeMap::new();
        let sides = rating.rated(results).map(|rated| (rated, false));
        for (rated, is_ledger) in sides.chain(rating.rated(ledger).map(|rated| (rated, true))) {
            let line = match rated? {
                Rated::Line(line) => line,
                Rated::Unrated(unrated) if is_ledger => {
                    self.find(Finding::Unrated(unrated));
                    continue;
                }
                Rated::Unrated(_) => continue,
            };
            note(
                &mut self.at_list,
                &line.tenant,
                is_ledger && line.contract_version.is_none(),
            );
            let check = checks.entry(line.currency).or_insert_with_key(|currency| MoneyCheck {
                currency: *currency,
                rated_results: Money::ZERO,
                rated: Money::ZERO,
                rounding: Money::ZERO,
                invoiced: Money::ZERO,
            });
            let added = match is_ledger {
                true => check.add_ledger(&line),
                false => check.add_result(&line),
            };
            let (tenant, period) = (line.tenant.to_string(), line.period);
            added.map_err(|source| ReportError::Money { tenant, period, source })?;
        }
        self.money = checks.into_values().collect();
        Ok(())
    }

    fn find_sums(&mut self) {
        let mut sums = Vec::new();
        for check in &self.tenants {
            for meter in Meter::ALL {
                let what = format!("{} of {}", meter.column(), check.tenant);
                sums.push((
                    what,
                    check.results.get(meter).to_string(),
                    check.ledger.get(meter).to_string(),
                ));
            }
        }
        for check in &self.money {
            let rounded = check
                .rated
                .plus(check.rounding)
                .map_or_else(|error| error.to_string(), |sum| sum.to_string());
            let currency = check.currency;
            sums.push((
                format!("rated in {currency}"),
                check.rated_results.to_string(),
                check.rated.to_string(),
            ));
            sums.push((
                format!("rated and rounding against invoice lines in {currency}"),
                rounded,
                check.invoiced.to_string(),
            ));
        }
        for (what, results, ledger) in sums.into_iter().filter(|(_, results, ledger)| results != ledger) {
            self.find(Finding::Sum { what, results, ledger });
        }
    }
}

/// Compares `results` with the usage rows of `billing_events` and these with their corrections, and where `expected` names a job, its
/// results with the number of its requests. Optional columns of both tables are not read.
pub fn reconcile(
    results: &dyn Table,
    events: &dyn Table,
    expected: &Expected,
    book: &PriceBook,
    contracts: &Contracts,
) -> Result<Reconciliation, ReportError> {
    let pairing = Pairing {
        results,
        events,
        book,
        contracts,
    };
    let paired = pairing.all(expected, RUN_BYTES)?;
    let explained = pairing.explain(&paired)?;
    let corrections = corrections::check(events, paired.corrections, RUN_BYTES)?;
    let mut out = Reconciliation {
        results: paired.results,
        events: paired.events,
        jobs: expected.len(),
        corrections: corrections.counts,
        closed: 0,
        months: Vec::new(),
        tenants: tenants(&paired.groups, &paired.ledger.groups)?,
        money: Vec::new(),
        // What is not shown counts all the same.
        findings: paired.faulty - paired.shown.len() as u64 + corrections.more,
        shown: Vec::new(),
        at_list: BTreeSet::new(),
        sources: Sources::of(book, contracts),
    };
    explained.into_iter().for_each(|finding| out.find(finding));
    corrections.shown.into_iter().for_each(|finding| out.find(finding));
    out.find_quarantined(&paired.ledger.quarantine);
    out.rate(&paired.groups, &paired.ledger.groups, book, contracts)?;
    out.find_jobs(expected, &paired.of_job);
    out.find_sums();
    Ok(out)
}

fn tenants(results: &Groups, ledger: &Groups) -> Result<Vec<TenantCheck>, ReportError> {
    let mut checks: BTreeMap<TenantId, TenantCheck> = BTreeMap::new();
    let sides = results.iter().map(|group| (group, false));
    for (group, is_ledger) in sides.chain(ledger.iter().map(|group| (group, true))) {
        let (group, meters) = group?;
        if let Charge::Free { .. } = group.charge {
            continue;
        }
        let empty = |tenant: &TenantId| TenantCheck {
            tenant: tenant.clone(),
            results: Meters::default(),
            ledger: Meters::default(),
        };
        let check = checks.entry(group.tenant.clone()).or_insert_with_key(empty);
        let sum = if is_ledger {
            &mut check.ledger
        } else {
            &mut check.results
        };
        *sum = sum.plus(meters).map_err(|column| ReportError::Quantity {
            tenant: group.tenant.to_string(),
            period: group.period.clone(),
            column,
        })?;
    }
    Ok(checks.into_values().collect())
}

impl MoneyCheck {
    fn add_result(&mut self, line: &Line) -> Result<(), MoneyError> {
        self.rated_results = self.rated_results.plus(line.contracted)?;
        Ok(())
    }

    fn add_ledger(&mut self, line: &Line) -> Result<(), MoneyError> {
        self.rated = self.rated.plus(line.contracted)?;
        self.rounding = self.rounding.plus(line.billed.minus(line.contracted)?)?;
        self.invoiced = self.invoiced.plus(line.billed)?;
        Ok(())
    }
}
