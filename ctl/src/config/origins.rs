//! Where the parts of a configuration stand in its file.

use std::{collections::HashMap, net::IpAddr};

use super::reader::KeyLines;

/// An element of an array of tables.
#[derive(Clone, Debug, Default)]
pub(super) struct ElementOrigin {
    /// Position in the file's array; elements that could not be read count as well.
    pub(super) index: usize,
    /// Line on which the element starts.
    pub(super) line: usize,
    /// Lines of its keys.
    pub(super) keys: KeyLines,
}

/// A VIP and its reals, those of [`super::Config`] in the same order.
#[derive(Clone, Debug, Default)]
pub(super) struct VipOrigin {
    pub(super) element: ElementOrigin,
    pub(super) reals: Vec<ElementOrigin>,
}

/// Everything, in the order of [`super::Config`].
#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    pub(super) interface: KeyLines,
    pub(super) balancer: KeyLines,
    pub(super) admin: KeyLines,
    pub(super) vips: Vec<VipOrigin>,
    /// The first id of each real.
    pub(super) server_ids: HashMap<IpAddr, ElementOrigin>,
    /// The first route of each real.
    pub(super) source_routes: HashMap<IpAddr, ElementOrigin>,
    pub(super) decap: Vec<ElementOrigin>,
    pub(super) health_check_path: KeyLines,
    pub(super) health_checks: Vec<ElementOrigin>,
}
