//! Ternary matrix products and the float kernels around them.
//!
//! Everything a BitNet b1.58 layer computes, for one CPU. Integer sums are exact and every float
//! reduction has one order, so a result depends on its inputs alone: not on the instruction set,
//! the batch, the number of threads or the chunking of a prompt.
//!
//! Read on in this order: which instruction sets there are ([`cpu`]), how weights ([`ternary`]) and
//! activations ([`activations`]) lie in memory, their product ([`matmul`]), the rest ([`float`]), and the shortcut
//! to the likeliest token ([`head`]).
//! What the machine itself allows is in [`limits`].
//!
//! Functions take a [`Kernel`] first and slices with documented shapes. A slice of the wrong length is a
//! mistake of the calling code and panics; what a file can get wrong is an error.

pub mod cpu;
pub mod ternary;
pub mod activations;
pub mod matmul;
pub mod float;
pub mod head;
pub mod limits;
mod memory;
mod share;

pub use cpu::Kernel;
