//! How busy the machine is, from `/proc` and the file system.

use std::{fs, io, path::Path};

use serde::Serialize;

/// The load of the machine.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Usage {
    cpu: Cpu,
    memory: Amount,
    disk: Amount,
}

/// The processors.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Cpu {
    /// How many there are.
    count: usize,
    /// Load average of the last minute.
    load_1m: f64,
    /// The same as a share of all of them, at most 100.
    percent: f64,
}

/// An amount that is used up in part.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Amount {
    /// All there is.
    total_bytes: u64,
    /// What is used.
    used_bytes: u64,
    /// What is left for us.
    available_bytes: u64,
    /// The used share, 0 to 100.
    percent: f64,
}

impl Amount {
    fn new(total_bytes: u64, available_bytes: u64) -> Self {
        let used_bytes = total_bytes.saturating_sub(available_bytes);
        Self {
            total_bytes,
            used_bytes,
            available_bytes,
            percent: share(used_bytes, total_bytes),
        }
    }
}

/// Measures the machine and the disk that `dir` is on.
pub(super) fn measure(dir: &Path) -> io::Result<Usage> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed /proc");
    let count = std::thread::available_parallelism()?.get();
    let loads = fs::read_to_string("/proc/loadavg")?;
    let load_1m: f64 = loads
        .split_whitespace()
        .next()
        .and_then(|load| load.parse().ok())
        .ok_or_else(malformed)?;
    let cores = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let percent = (load_1m / cores * 100.0).min(100.0);
    let info = fs::read_to_string("/proc/meminfo")?;
    let total = meminfo(&info, "MemTotal:").ok_or_else(malformed)?;
    let available = meminfo(&info, "MemAvailable:").ok_or_else(malformed)?;
    let disk = rustix::fs::statvfs(dir)?;
    Ok(Usage {
        cpu: Cpu {
            count,
            load_1m,
            percent: round(percent),
        },
        memory: Amount::new(total, available),
        disk: Amount::new(disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize),
    })
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn share(part: u64, whole: u64) -> f64 {
    // In thousandths, which fit: the loss of precision does not matter here.
    let thousandths = u128::from(part) * 1000 / u128::from(whole.max(1));
    f64::from(u32::try_from(thousandths).unwrap_or(1000)) / 10.0
}

fn round(percent: f64) -> f64 {
    (percent * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]
    use super::*;

    #[test]
    fn the_machine_can_be_measured() {
        let usage = measure(Path::new("/")).unwrap();
        assert!(usage.cpu.count > 0);
        assert!(usage.memory.total_bytes > usage.memory.used_bytes);
        assert!((0.0..=100.0).contains(&usage.disk.percent));
        assert!((share(1, 3) - 33.3).abs() < 0.01);
    }
}
