//! What the XDP program `redirect` is to know of services.

use dataplane::service::ServiceTable;
use xdp_redirect::VipEntry;

/// The table's VIPs, as the program takes them.
pub fn entries(table: &ServiceTable) -> Vec<VipEntry> {
    table
        .vips()
        .map(|vip| VipEntry {
            address: vip.key.address,
            prefix_len: vip.key.prefix_len,
            port: vip.key.port,
            protocol: vip.key.protocol.number(),
            generation: vip.generation,
            vip: vip.number,
            room: vip.room,
        })
        .collect()
}
