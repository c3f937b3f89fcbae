//! How much memory things take, and how to say it.

use std::{fmt, fs};

use dataplane::{
    forward::Forwarder,
    xsk::{Interface, chunk_size_under},
};
use maglev::DEFAULT_RING_SIZE;

use crate::{admin::AdminError, config::Config};

/// Bytes of ring memory for each chunk: a queue has twice as many fill slots and as many completion
/// slots as chunks, of 8 bytes, and half as many RX and TX slots, of 16 bytes.
const RING_BYTES_PER_CHUNK: usize = 2 * 8 + 8 + 16;

/// Bytes of a queue's UMEM under a driver, and of the rings that carry its chunks. Some drivers need
/// larger chunks than others.
pub fn frames_bytes(config: &Config, driver: &str) -> usize {
    let (mode, max_frame) = (config.interface.mode, config.balancer.max_frame);
    // Nothing holds frames that the checks of a configuration refuse.
    let chunk = chunk_size_under(driver, mode, max_frame).unwrap_or(4096);
    config.interface.frames as usize * (chunk + RING_BYTES_PER_CHUNK)
}

/// Bytes that a configuration takes with workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Flow tables of each worker.
    pub(crate) flow_tables: usize,
    /// Frames of each worker, and their rings.
    pub(crate) frames: usize,
    /// Rings of all VIPs.
    pub(crate) vip_rings: usize,
    /// 0 while no VIP uses it.
    pub(crate) global_table: usize,
    /// Taken when the configuration is read.
    pub(crate) source_routes: usize,
}

impl Demand {
    /// Under this driver.
    pub(crate) fn of(config: &Config, driver: &str) -> Self {
        Self {
            flow_tables: Forwarder::memory_for(config.balancer.flow_table_capacity),
            frames: frames_bytes(config, driver),
            vip_rings: config.vips.len() * DEFAULT_RING_SIZE as usize * size_of::<u16>(),
            global_table: config.global_table_bytes(),
            source_routes: match &config.source_routes {
                none if none.is_empty() => 0,
                routes => routes.memory_bytes(),
            },
        }
    }

    /// What is yet to be taken with so many workers.
    pub(crate) const fn ahead(&self, workers: usize) -> usize {
        workers
            .saturating_mul(self.flow_tables.saturating_add(self.frames))
            .saturating_add(self.vip_rings)
            .saturating_add(self.global_table)
    }
}

/// Driver of the interface that a configuration names, or nothing if it is not here.
pub fn driver_of(config: &Config) -> String {
    let name = config.interface.name.as_ref();
    name.and_then(|name| Interface::open(name).ok()?.driver().ok())
        .unwrap_or_default()
}

/// Bytes that the kernel says can be had; `None` when it does not say.
pub(crate) fn available() -> Option<usize> {
    available_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// Refuses a change for which a global table has to be made that does not fit. Every page of it is
/// written to, so the kernel would end the process instead. The old table is there until workers have
/// the new one.
pub(crate) fn refuse_global_table(
    old: &Config,
    new: &Config,
    available: Option<usize>,
) -> Result<(), AdminError> {
    let needed = new.global_table_bytes();
    if needed == old.global_table_bytes() {
        return Ok(());
    }
    match available {
        Some(available) if needed > available => Err(AdminError::new(
            "balancer.global_table_capacity",
            format!(
                "{} takes {}, and {} are available",
                new.balancer.global_table_capacity,
                Bytes(needed),
                Bytes(available)
            ),
            "give a smaller capacity, or remove the flag global-lru from all VIPs",
        )),
        _ => Ok(()),
    }
}

/// A number of bytes for people: `523.4 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in UNITS {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        write!(f, "{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let text = "MemTotal:       1000 kB\nMemAvailable:     24 kB\nBuffers: 1 kB\n";
        assert_eq!(available_in(text), Some(24 * 1024));
        assert_eq!(available_in("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_global_table_that_does_not_fit_is_refused() {
        let config = |flags: &str, capacity: usize| {
            let text = format!(
                "[balancer]\nglobal_table_capacity = {capacity}\n[[vip]]\naddress = \"203.0.113.10\"\n\
                 port = 80\nprotocol = \"tcp\"\nflags = [{flags}]\n"
            );
            Config::parse(&text, "lb.toml").unwrap()
        };
        let (off, on) = (config("", 1000), config("\"global-lru\"", 1000));
        let needed = on.global_table_bytes();
        assert!(needed > 0);
        refuse_global_table(&off, &on, Some(needed)).unwrap();
        refuse_global_table(&off, &on, None).unwrap();
        let error = refuse_global_table(&off, &on, Some(needed - 1)).unwrap_err();
        assert_eq!(error.field, "balancer.global_table_capacity");
        // What is there already, or goes, takes nothing.
        refuse_global_table(&on, &on, Some(0)).unwrap();
        refuse_global_table(&on, &off, Some(0)).unwrap();
        let larger = config("\"global-lru\"", 2000);
        refuse_global_table(&on, &larger, Some(needed)).unwrap_err();
    }

    #[test]
    fn drivers_with_coarse_buffers_take_twice_the_memory() {
        let mut config = Config::default();
        config.interface.frames = 1000;
        assert_eq!(frames_bytes(&config, "virtio_net"), 1000 * (2048 + 40));
        assert_eq!(frames_bytes(&config, "igb"), 1000 * (4096 + 40));
        config.interface.mode = dataplane::xsk::SocketMode::Copy;
        assert_eq!(frames_bytes(&config, "igb"), 1000 * (2048 + 40));
    }

    #[test]
    fn rings_of_vips_are_counted() {
        let mut config = Config::default();
        let none = Demand::of(&config, "").ahead(2);
        let vip = "[[vip]]\naddress = \"203.0.113.10\"\nport = 80\nprotocol = \"tcp\"\n";
        let other = vip.replace("80", "81");
        config.vips = Config::parse(&format!("{vip}{other}"), "lb.toml")
            .unwrap()
            .vips;
        assert_eq!(Demand::of(&config, "").ahead(2) - none, 2 * 65_537 * 2);
    }

    #[test]
    fn an_interface_that_is_not_here_has_no_driver() {
        let mut config = Config::default();
        assert_eq!(driver_of(&config), "");
        config.interface.name = Some("no-such".to_owned());
        assert_eq!(driver_of(&config), "");
    }

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (16 << 20, "16.0 MiB"),
            (3 << 30, "3.0 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
