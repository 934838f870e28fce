//! What the tests of the whole system share: a real broker, a real object store, and the `bitnet` program
//! as its users run it.
//!
//! Nothing here is a mock. Whatever cannot be installed or started fails the test that needs it.

#![forbid(unsafe_code)]

pub mod stack;
pub mod bitnet;
pub mod messages;
pub mod readers;
pub mod wait;
