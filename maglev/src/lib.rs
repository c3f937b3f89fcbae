//! Maglev rings, slot for slot those of Katran.
//!
//! A ring answers one question: which real does a flow's 32-bit hash select? It is an array of
//! real numbers, filled from the reals' addresses and weights alone, so that balancers which
//! share a configuration agree on every flow without talking to each other.
//!
//! This crate knows addresses, weights and numbers. It knows neither packets nor VIPs; hashing a
//! flow is the caller's work.
//!
//! ```
//! use maglev::{DEFAULT_RING_SIZE, Endpoint, HashFunction, Ring};
//!
//! let reals = [
//!     Endpoint::new(1, 1, "10.0.0.1".parse()?),
//!     Endpoint::new(2, 3, "10.0.0.2".parse()?),
//! ];
//! let ring = Ring::build(HashFunction::MaglevV2, DEFAULT_RING_SIZE, &reals)?;
//! assert!(matches!(ring.select(0x833e_99b9), 1 | 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod endpoint;
mod function;
mod generate;
mod modulus;
mod permutation;
mod ring;
mod search;
mod weights;

pub use endpoint::{Endpoint, MAX_NUMBER, endpoint_hash};
pub use function::HashFunction;
pub use permutation::{Permutation, Slots};
pub use ring::{BuildError, DEFAULT_RING_SIZE, MAX_RING_SIZE, MIN_RING_SIZE, Ring};
pub use weights::v1_weights_warning;
