//! The configuration: what it holds ([`Config`]), how it is read from TOML and written back, and
//! what must hold for it to make sense.
//!
//! A file is read in two steps. The first turns TOML into a [`Config`] and complains about unknown
//! keys, wrong types and values that do not parse. The second, [`Config::problems`], needs no file:
//! the admin socket's changes pass it as well. Both name the field, the value and the remedy; the
//! first adds the line, and every problem is reported, not only the first.

mod error;
mod index_list;
mod kernel;
mod limits;
mod model;
mod origins;
mod parse;
mod priority;
mod problems;
mod reader;
mod server_ids;
mod source_routes;
mod write;

pub(crate) use problems::mask;
pub(crate) use server_ids::describe as describe_server_id;
pub(crate) use source_routes::describe as describe_source_route;
pub(crate) use write::flag_names;

pub use error::{ConfigError, Problem};
pub use index_list::{IndexList, IndexListError, Queues};
pub use model::{
    AdminConfig, BalancerConfig, Config, DEFAULT_GUE_PORT, DEFAULT_SOCKET, EncapsulationKind,
    HealthCheckPathConfig, HealthCheckSpec, InterfaceConfig,
};
pub use priority::{PriorityChoice, PriorityChoiceError};
