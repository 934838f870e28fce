//! Messages on our topics and rows in our tables.
//!
//! Read in this order: [`ids`] names things, [`columns`] turns rows into Arrow, [`decode`] reads messages;
//! then [`request`] is what arrives, [`result`] and [`billing`] are the two rows that every request ends
//! in, [`view`] is these rows without a copy, [`job`] is what `bitnet.jobs` holds. Nothing here
//! does IO or reads a clock.

#![forbid(unsafe_code)]

pub mod ids;
pub mod columns;
pub mod decode;
pub mod request;
pub mod result;
pub mod billing;
pub mod view;
pub mod job;
