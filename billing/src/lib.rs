//! Exact money from an append-only ledger: what each request costs, and the reports that prove it.
//!
//! Read in this order: [`money`] is exact, [`sku`] names what is sold, [`rate`] says what a quantity
//! costs, [`price_book`] and [`contract`] say at which price ([`published`]: which never changes, [`quote`]
//! explains it), [`period`] in which month, [`event`] writes the ledger row,
//! [`close`] decides a month, [`invoice`] bills it, [`report`] reads the ledger back. Nothing here does IO or reads a
//! clock, but for a temporary file where something must be sorted that memory may not hold.

#![forbid(unsafe_code)]

pub mod money;
pub mod sku;
pub mod rate;
pub mod source;
mod price;
pub mod price_book;
pub mod tax;
pub mod credit;
pub mod contract;
pub mod published;
pub mod quote;
pub mod period;
pub mod event;
pub mod correct;
mod sorted;
pub mod close;
pub mod invoice;
pub mod report;

pub use sorted::SortError;

#[cfg(test)]
extern crate self as billing;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
