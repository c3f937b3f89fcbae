//! Decap destinations of a running balancer.

use std::net::IpAddr;

use dataplane::service::DecapSpec;

use super::{Changes, Control};
use crate::admin::AdminError;

impl Control {
    /// Adds a decap destination.
    pub fn add_decap(&mut self, own: DecapSpec) -> Result<Changes, AdminError> {
        let address = own.address;
        let mut config = self.config.clone();
        if config.decap.iter().any(|other| other.address == address) {
            return Err(AdminError::new(
                "address",
                format!("{address} is a decap destination already"),
                format!("to change egress, `decap del {address}` first"),
            ));
        }
        config.decap.push(own);
        self.commit(config)
    }

    /// Removes decap destinations.
    pub fn delete_decap(&mut self, addresses: &[IpAddr]) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        for address in addresses {
            let mut decap = config.decap.iter();
            let index = decap
                .position(|own| own.address == *address)
                .ok_or_else(|| {
                    AdminError::new(
                        "address",
                        format!("{address} is no decap destination"),
                        "`decap list` names those there are",
                    )
                })?;
            config.decap.remove(index);
        }
        self.commit(config)
    }
}
