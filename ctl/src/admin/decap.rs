//! `decap list`.

use std::net::IpAddr;

use dataplane::service::DecapSpec;
use serde::{Deserialize, Serialize};

use crate::control::Control;

/// Decap destinations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapList {
    /// UDP destination port of GUE tunnels to them.
    pub gue_port: u16,
    /// In the order of the configuration.
    pub destinations: Vec<DecapRow>,
}

/// One decap destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecapRow {
    /// Outer destination.
    pub address: IpAddr,
    /// Inner packets of GUE tunnels leave.
    pub egress: bool,
}

impl From<&DecapSpec> for DecapRow {
    fn from(own: &DecapSpec) -> Self {
        Self {
            address: own.address,
            egress: own.egress,
        }
    }
}

/// Those of the running configuration.
pub(super) fn list(control: &Control) -> DecapList {
    let config = control.config();
    DecapList {
        gue_port: config.balancer.gue_port,
        destinations: config.decap.iter().map(DecapRow::from).collect(),
    }
}
