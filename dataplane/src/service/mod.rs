//! Services: what is to be balanced ([`ServiceSpec`]), the form in which the forwarder reads it
//! ([`ServiceTable`]), the step between the two ([`ServiceControl`]) and the way to the workers
//! ([`Publisher`]).

mod control;
mod direct_table;
mod first_few;
mod huge_pages;
mod kernel;
mod plain;
mod prefix_table;
mod publish;
mod range_table;
mod server_ids;
mod source_routes;
mod spec;
mod table;

pub use maglev::HashFunction;

pub(crate) use plain::{Expected, OuterHeaders};

pub use control::{ServiceControl, ServiceError};
pub use kernel::KernelServices;
pub use publish::{Publisher, Subscription};
pub use server_ids::{MAX_SERVER_ID, MAX_SERVER_IDS, ServerIdError, ServerIds};
pub use source_routes::{MAX_SOURCE_ROUTES, SourceRouteError, SourceRoutes};
pub use spec::{
    DecapSpec, Encapsulation, MacAddress, Protocol, RealSpec, ServerIdSpec, ServiceSpec, Settings,
    SourceRouteSpec, VipFlags, VipKey, VipSpec,
};
pub use table::{
    Detours, MAX_DECAP, MAX_REALS, MAX_VIPS, Real, RealId, ServerIdForm, ServiceTable, Vip,
};
