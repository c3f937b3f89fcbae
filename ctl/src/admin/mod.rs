//! The admin socket: what can be asked of a running balancer ([`command`]), how it is written on the
//! wire ([`protocol`]), what it answers ([`report`]), and the two ends ([`server`], [`client`]).

mod analysis;
pub mod client;
pub mod command;
mod decap;
mod engine;
mod error;
mod flows;
mod help;
pub mod protocol;
mod rates;
pub mod report;
pub mod server;
mod socket;
mod source_routes;
mod statistics;

pub use engine::Engine;
pub use error::AdminError;
pub use help::help;
pub use rates::per_second;
