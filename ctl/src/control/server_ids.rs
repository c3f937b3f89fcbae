//! Changes of server ids: which real an id names, and whether workers use it.

use std::{collections::HashSet, net::IpAddr};

use dataplane::service::ServerIdSpec;

use super::{Changes, Control};
use crate::admin::AdminError;

/// Which server ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIds {
    /// These.
    Ids(Vec<u32>),
    /// All that name this real.
    OfReal(IpAddr),
}

impl Control {
    /// Lets an id name a real, valid from now on. Warns when it named another one.
    pub fn set_server_id(&mut self, id: u32, real: IpAddr) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let new = ServerIdSpec {
            id,
            real,
            valid: true,
        };
        let mut warning = None;
        match config.server_ids.iter_mut().find(|known| known.id == id) {
            Some(known) => {
                if known.real != real {
                    warning = Some(format!("server id {id} named {} before", known.real));
                }
                *known = new;
            }
            None => config.server_ids.push(new),
        }
        let mut changes = self.commit(config)?;
        changes.warnings.extend(warning);
        Ok(changes)
    }

    /// Removes ids; packets with them have no server id that anybody knows from now on.
    pub fn delete_server_ids(&mut self, ids: &[u32]) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let doomed = self.known_ids(ids)?;
        config
            .server_ids
            .retain(|server_id| !doomed.contains(&server_id.id));
        self.commit(config)
    }

    /// Takes ids from the workers, or gives them back, without forgetting what they name.
    pub fn set_server_ids_valid(
        &mut self,
        which: &ServerIds,
        valid: bool,
    ) -> Result<Changes, AdminError> {
        let mut config = self.config.clone();
        let wanted = match which {
            ServerIds::Ids(ids) => self.known_ids(ids)?,
            ServerIds::OfReal(real) => {
                let of_real = config.server_ids.iter();
                let of_real = of_real.filter(|server_id| server_id.real == *real);
                of_real.map(|server_id| server_id.id).collect()
            }
        };
        if let ServerIds::OfReal(real) = which
            && wanted.is_empty()
        {
            return Err(AdminError::new(
                "real",
                format!("no server id names {real}"),
                "`sid list` shows those there are",
            ));
        }
        for server_id in &mut config.server_ids {
            if wanted.contains(&server_id.id) {
                server_id.valid = valid;
            }
        }
        self.commit(config)
    }

    /// The ids, all of which must name a real.
    fn known_ids(&self, ids: &[u32]) -> Result<HashSet<u32>, AdminError> {
        let mut missing: HashSet<u32> = ids.iter().copied().collect();
        let wanted = missing.clone();
        for server_id in &self.config.server_ids {
            missing.remove(&server_id.id);
        }
        // The first in the order of the command.
        match ids.iter().find(|id| missing.contains(*id)) {
            None => Ok(wanted),
            Some(id) => Err(AdminError::new(
                "id",
                format!("{id} names no real"),
                "`sid list` shows the ids there are",
            )),
        }
    }
}
